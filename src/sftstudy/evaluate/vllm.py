"""lm-eval's vLLM back end with the same checks. Importing this loads vLLM, which has an environment of its own (envs/vllm.yaml).

It computes in the job's own process and on its one GPU. Tokenizer and chat template are the run's, not the checkpoint's.
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
        )
        self.forget_prompts()

    @property
    def longest_pair(self) -> int:
        """One token less than the context: vLLM generates at least one."""
        return self.max_length - 1

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As lm-eval's: continuations."""
        for request, ids in zip(requests, self.tok_encode([request.args[0] for request in requests]), strict=True):
            self.check(ids, text=request.args[0])
            _, _, num_new = self.modify_gen_kwargs(dict(request.args[1]), default_max_gen_toks=self.max_gen_toks)
            self.num_truncated += len(ids) + num_new > self.max_length
        replies: list[str] = super().generate_until(requests, disable_tqdm)
        return replies
