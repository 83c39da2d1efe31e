"""lm-eval's vLLM back end with the same checks. Importing this loads vLLM, which has an environment of its own (envs/vllm.yaml).

It computes in the checkpoint's own process and on its one GPU. Tokenizer and chat template are the run's, not the checkpoint's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lm_eval.models.vllm_causallms import VLLM

from sftstudy.evaluate.lm import Checks

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class CheckedVllm(Checks, VLLM):  # type: ignore[misc]
    """A checkpoint on the GPU of this job. vLLM chooses its own batches."""

    def __init__(self, folder: Path, *, tokenizer: Any, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__(
            pretrained=str(folder),
            tokenizer=tokenizer.name_or_path,
            dtype=DTYPES[precision],
            batch_size="auto",
            enable_prefix_caching=True,
        )
        self.forget_prompts()

    @property
    def longest_pair(self) -> int:
        """One token less than the context: vLLM generates at least one."""
        return self.max_length - 1

    def tok_encode(self, string: Any, add_special_tokens: bool | None = None, **kwargs: Any) -> Any:
        """As lm-eval's: token ids of a text, or of several prompts to continue."""
        ids = super().tok_encode(string, add_special_tokens, **kwargs)
        if not isinstance(string, str):
            for text, row in zip(string, ids, strict=True):
                self.check(row, text=text)
                self.num_truncated += len(row) > self.max_length - self.max_gen_toks
        return ids
