"""A model as lm-eval sees it: its Hugging Face back end, with a check on how each prompt starts. Importing this loads torch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lm_eval.models.huggingface import HFLM

from sftstudy.errors import StudyError
from sftstudy.evaluate.weights import NUM_FIRST_TOKENS, Weights, adds_bos, load_model, starts_wrong
from sftstudy.spec import canonical


class CheckedLM(HFLM):  # type: ignore[misc]
    """lm-eval's back end. A prompt with two BOS tokens, or without the one that the tokenizer adds, raises StudyError.

    Prompts longer than the model's context lose their beginning, as always in lm-eval; `num_truncated` counts them. `first_tokens`
    keeps the first ids of each prompt by its text, `chats` the messages behind each text that the chat template made.
    """

    def __init__(self, weights: Weights, *, tokenizer: Any, precision: Literal["fp32", "bf16"], batch_size: int) -> None:
        model = load_model(weights.folder, precision=precision)
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")
        self.forget_prompts()
        self._adds_bos = adds_bos(tokenizer)

    def forget_prompts(self) -> None:
        """Begin anew to count and keep prompts."""
        self.num_truncated = 0
        self.first_tokens: dict[str, list[int]] = {}
        self.chats: dict[str, str] = {}

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As lm-eval's: text of a chat."""
        text: str = super().apply_chat_template(chat_history, add_generation_prompt)
        self.chats[text] = canonical(chat_history)
        return text

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        for texts, context, continuation in requests:
            self._check(context, text=texts[0] if texts else "")  # lm-eval's rolling windows have no texts
            self.num_truncated += len(context) + len(continuation) > self.max_length + 1
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)
        return answers

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, truncation: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As lm-eval's: token ids and mask of a padded batch of prompts to continue."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        for text, row, kept in zip(strings, ids, mask.bool(), strict=True):
            self._check(row[kept].tolist(), text=text)
        if left_truncate_len and ids.shape[1] > left_truncate_len:
            self.num_truncated += int((mask.sum(dim=1) > left_truncate_len).sum())
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask

    def _check(self, ids: list[int], *, text: str) -> None:
        self.first_tokens[text] = ids[:NUM_FIRST_TOKENS]
        if fault := starts_wrong(ids, self.tokenizer, bos_expected=self._adds_bos):
            remedy = "set chat_template in benchmarks.yaml, or mend the tokenizer's template"
            raise StudyError(f"a prompt {fault} (ids {ids[:NUM_FIRST_TOKENS]}); {remedy}")
