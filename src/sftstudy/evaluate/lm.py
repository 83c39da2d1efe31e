"""A model as lm-eval sees it, by one of three back ends, with a check on how each prompt starts. Importing this loads torch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import torch
from lm_eval.models.huggingface import HFLM

from sftstudy.config import Backend
from sftstudy.errors import StudyError
from sftstudy.evaluate.prefix import PrefixLM
from sftstudy.evaluate.weights import NUM_FIRST_TOKENS, Weights, adds_bos, load_model, starts_wrong
from sftstudy.spec import canonical

T = TypeVar("T")


class Checks:
    """Mixed into a back end of lm-eval. Prompts with two BOS tokens, or without the one that the tokenizer adds, raise StudyError.

    Prompts longer than the model's context lose their beginning, as always in lm-eval; `num_truncated` counts them. `first_tokens`
    keeps the first ids of each prompt by its text, `chats` the messages behind each text that the chat template made.
    """

    tokenizer: Any
    max_length: int

    def forget_prompts(self) -> None:
        """Begin anew to count and keep prompts."""
        self.num_truncated = 0
        self.first_tokens: dict[str, list[int]] = {}
        self.chats: dict[str, str] = {}
        self._adds_bos = adds_bos(self.tokenizer)

    @property
    def longest_pair(self) -> int:
        """Tokens of context and continuation that the back end takes without truncating; the last of them is not an input."""
        return self.max_length + 1

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As lm-eval's: text of a chat."""
        text: str = super().apply_chat_template(chat_history, add_generation_prompt)  # type: ignore[misc]
        self.chats[text] = canonical(chat_history)
        return text

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        for texts, context, continuation in requests:
            self.check(context, text=texts[0] if texts else "")  # lm-eval's rolling windows have no texts
            self.num_truncated += len(context) + len(continuation) > self.longest_pair
        answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)  # type: ignore[misc]
        return answers

    def check(self, ids: list[int], *, text: str) -> None:
        """Keep how a prompt starts. Raises StudyError if that is wrong."""
        self.first_tokens[text] = ids[:NUM_FIRST_TOKENS]
        if fault := starts_wrong(ids, self.tokenizer, bos_expected=self._adds_bos):
            remedy = "set chat_template in benchmarks.yaml, or mend the tokenizer's template"
            raise StudyError(f"a prompt {fault} (ids {ids[:NUM_FIRST_TOKENS]}); {remedy}")


class CheckedLM(Checks, HFLM):  # type: ignore[misc]
    """lm-eval's own Hugging Face back end, `hf`."""

    def __init__(self, model: Any, *, tokenizer: Any, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")
        self.forget_prompts()

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, truncation: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As lm-eval's: token ids and mask of a padded batch of prompts to continue."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        for text, row, kept in zip(strings, ids, mask.bool(), strict=True):
            self.check(row[kept].tolist(), text=text)
        if left_truncate_len and ids.shape[1] > left_truncate_len:
            self.num_truncated += int((mask.sum(dim=1) > left_truncate_len).sum())
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask


class CheckedPrefixLM(CheckedLM, PrefixLM):
    """The same with shared prefixes, `hf-prefix`."""


class AnsweringOnly:
    """A model that answers the requests of some items, given as task and place, and says nothing to the others.

    So a sample is asked exactly as in the whole exam: lm-eval draws other few-shot examples for an item when others are left out.
    """

    def __init__(self, lm: CheckedLM, places: set[tuple[str, int]]) -> None:
        self._lm, self._places = lm, places

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """As lm-eval's: log-likelihood and whether it is the greedy one."""
        return self._answer(self._lm.loglikelihood, requests, (0.0, False))

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """As lm-eval's: log-likelihood of whole texts."""
        return self._answer(self._lm.loglikelihood_rolling, requests, 0.0)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """As lm-eval's: continuations."""
        return self._answer(self._lm.generate_until, requests, "")

    def _answer(self, ask: Callable[[list[Any]], list[T]], requests: list[Any], silence: T) -> list[T]:
        asked = [(request.task_name, request.doc_id) in self._places for request in requests]
        answers = iter(ask([request for request, is_asked in zip(requests, asked, strict=True) if is_asked]))
        return [next(answers) if is_asked else silence for is_asked in asked]


def load_lm(backend: Backend, weights: Weights, *, tokenizer: Any, precision: Literal["fp32", "bf16"], batch_size: int) -> Any:
    """A checkpoint behind one back end. Raises StudyError if the back end cannot run here."""
    if backend == "vllm":
        require_vllm()
        from sftstudy.evaluate.vllm import CheckedVllm

        return CheckedVllm(weights.folder, tokenizer=tokenizer, precision=precision)
    kind = {"hf": CheckedLM, "hf-prefix": CheckedPrefixLM}[backend]
    return kind(load_model(weights.folder, precision=precision), tokenizer=tokenizer, batch_size=batch_size)


def require_vllm() -> None:
    """Raise StudyError unless vLLM is installed and there is a GPU for it."""
    remedy = "set backend: hf-prefix in benchmarks.yaml"
    if find_spec("vllm") is None:
        raise StudyError(f"backend vllm: the package is not installed; make the environment of envs/vllm.yaml, or {remedy}")
    if not torch.cuda.is_available():
        raise StudyError(f"backend vllm: there is no GPU; ask for one, or {remedy}")


def free_memory() -> None:
    """Give a dropped model's memory back, for the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
