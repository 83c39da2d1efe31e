"""lm-eval's Hugging Face back end, computing what prompts share once. Importing this loads torch.

Few-shot prompts of one subject differ in their last question only, and the options of a question in their last tokens. Here the
key-value state of a shared beginning is kept, and what comes after it, of several prompts at once, is one row without padding: a
tree of tokens, in which each sees its own ancestors (a 4-d mask) at its own place (position ids). Logits are computed where a
continuation is scored and nowhere else.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm
from transformers import DynamicCache

from sftstudy.evaluate.packs import Pack, Row, Tree, grow_tree, num_shared, plan_packs

TESTED_FAMILIES = frozenset({"llama", "mistral", "granite", "qwen2", "qwen3", "gpt_neox"})
"""Model types, as in `config.json`, whose answers the tests compare with those of lm-eval's own back end."""

TESTED_ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Position encodings that depend on a token's place alone. Others change with the length of the batch."""

TOKENS_PER_PROMPT = 16
"""A pack has this many tokens for each prompt of the batch size: one forward pass of fewer tokens than the stock back end's."""

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""lm-eval's: context and continuation as texts, then as token ids."""


class PrefixLM(HFLM):  # type: ignore[misc]
    """Answers loglikelihood requests with lm-eval's own numbers, but for rounding.

    Prompts longer than the context, rolling loglikelihoods, generation, and models of untested families go the stock way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shares = shares_prefixes(self.model.config)
        if not self._shares:
            print(f"hf-prefix: {self.model.config.model_type} models are scored as by hf, prompt by prompt", file=sys.stderr)

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        shares = self._shares and override_bs is None
        inside = [shares and len(context) + len(reply) <= self.max_length + 1 for _, context, reply in requests]
        ours = [request for request, fits in zip(requests, inside, strict=True) if fits]
        theirs = [request for request, fits in zip(requests, inside, strict=True) if not fits]
        found = iter(self._share(ours, disable_tqdm=disable_tqdm))
        stock = iter(super()._loglikelihood_tokens(theirs, disable_tqdm, override_bs) if theirs else [])
        return [next(found if fits else stock) for fits in inside]

    def _share(self, requests: list[Request], *, disable_tqdm: bool) -> list[tuple[float, bool]]:
        numbers: dict[Row, list[int]] = {}
        for number, (_, context, reply) in enumerate(requests):
            numbers.setdefault((*context, *reply[:-1]), []).append(number)
        rows = sorted(numbers)
        wanted_from = [len(row) - max(len(requests[number][2]) for number in numbers[row]) for row in rows]
        answers: dict[int, tuple[float, bool]] = {}
        state = _State(self.model)
        packs = plan_packs(rows, wanted_from, num_tokens=TOKENS_PER_PROMPT * int(self.batch_size))
        with torch.inference_mode(), tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            for pack in packs:
                state.move_to(rows[pack.rows[0]][: pack.stem])
                replies = [{number: requests[number][2] for number in numbers[rows[i]]} for i in pack.rows]
                for number, answer in state.answer(pack, [rows[i] for i in pack.rows], replies).items():
                    answers[number] = answer
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
                    bar.update(1)
        return [answers[number] for number in range(len(requests))]


class _State:
    """A model with the key-value state of a stem."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._stem: Row = ()
        self._cache = DynamicCache()

    def move_to(self, stem: Row) -> None:
        """Make `stem` the state, keeping what it shares with the one before."""
        known = num_shared(self._stem, stem)
        self._forget(len(self._stem) - known)
        self._stem = stem[:known]
        if known < len(stem):
            self._forward(grow_tree([stem], known), keep=[0])
            self._stem = stem

    def answer(self, pack: Pack, rows: list[Row], replies: list[dict[int, list[int]]]) -> dict[int, tuple[float, bool]]:
        """Number -> log-likelihood of a row's reply, and whether it is the greedy one. The row lacks a reply's last token."""
        tree = grow_tree(rows, pack.stem)
        asked = [
            (number, path[len(path) - len(reply) :], reply)
            for path, block in zip(tree.paths, replies, strict=True)
            for number, reply in block.items()
        ]
        keep = sorted({place for _, places, _ in asked for place in places})
        log_probs = torch.log_softmax(self._forward(tree, keep=keep), dim=-1, dtype=torch.float32)
        self._forget(len(tree.tokens))
        greedy = log_probs.argmax(dim=-1).tolist()
        index = {place: i for i, place in enumerate(keep)}
        flat = [(index[place], token) for _, places, reply in asked for place, token in zip(places, reply, strict=True)]
        where, tokens = torch.tensor(flat, device=log_probs.device).T
        values = iter(log_probs[where, tokens].tolist())
        return {
            number: (
                sum(next(values) for _ in reply),
                all(greedy[index[place]] == token for place, token in zip(places, reply, strict=True)),
            )
            for number, places, reply in asked
        }

    def _forward(self, tree: Tree, *, keep: list[int]) -> torch.Tensor:
        """Logits at some places of a tree behind the stem, shape (places, vocabulary). The tree's state is added to the stem's."""
        device, known = self._model.device, len(self._stem)
        sees, depths = lineage(tree.parents)
        places = depths + known
        seen = torch.cat([torch.ones((len(depths), known), dtype=torch.bool), sees], dim=1)
        distances = places[:, None] - torch.cat([torch.arange(known), places])

        def mask(window: int | None) -> torch.Tensor:
            visible = seen if window is None else seen & (distances < window)
            hidden = torch.zeros(visible.shape, dtype=self._model.dtype)
            hidden.masked_fill_(~visible, torch.finfo(hidden.dtype).min)
            return hidden[None, None].to(device)

        made = self._model(
            input_ids=torch.tensor([tree.tokens], device=device),
            position_ids=places[None].to(device),
            attention_mask=_masks(self._model.config, mask),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=torch.tensor(keep, device=device),
        )
        logits: torch.Tensor = made.logits[0]
        return logits

    def _forget(self, num_tokens: int) -> None:
        if num_tokens:
            self._cache.crop(-num_tokens)


def lineage(parents: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens of a tree each one sees, itself and its ancestors (tokens x tokens), and how many ancestors it has."""
    sees = torch.eye(len(parents), dtype=torch.bool)
    depths = [0] * len(parents)
    for place, parent in enumerate(parents):
        if parent >= 0:
            sees[place] |= sees[parent]
            depths[place] = depths[parent] + 1
    return sees, torch.tensor(depths)


def shares_prefixes(config: Any) -> bool:
    """Whether a model's answers are tested to be the same with shared prefixes."""
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return config.model_type in TESTED_FAMILIES and rope in TESTED_ROPES and config._attn_implementation in ("sdpa", "eager")


def _masks(config: Any, mask: Any) -> Any:
    """The mask of each kind of layer, in the form in which the model takes masks that are made already."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        windows = {"full_attention": None, "sliding_attention": config.sliding_window}
        return {kind: mask(windows[kind]) for kind in dict.fromkeys(kinds)}
    return mask(getattr(config, "sliding_window", None))
