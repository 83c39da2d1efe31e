"""Continues prompts in a batch: greedily at temperature 0, else by draws that depend on each row's own seed.

Sampling is plain, by temperature alone: a model's generation settings (top-p, repetition penalty) are not applied. Each row has a
generator of its own, so its random draws don't depend on the batch; only rounding does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KEEP_SHARE = 0.75
"""Ended rows stay in the batch until no more than this share of it still grows: dropping them copies the key-value cache."""


def stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a reply: the model's and the tokenizer's eos, and what the chat template puts after an assistant's text."""
    eos = getattr(model.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    mark = "MARK"
    chat = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
    after = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(mark)[2]
    found.add(
        next((token for token in tokenizer(after, add_special_tokens=False).input_ids if token in tokenizer.all_special_ids), None)
    )
    return {token for token in found if token is not None}


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    temperatures: Sequence[float],
    seeds: Sequence[int],
    max_new_tokens: int | Sequence[int],
    stop_ids: Iterable[int],
) -> list[list[int]]:
    """Continue each prompt: the likeliest token at temperature 0, else a draw by the row's own generator. Stop tokens are left out.

    Prompts are padded on the left. A reply also ends where the model's context does; a prompt that fills it gets an empty one.
    """
    import torch

    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    stop, context = set(stop_ids), model.config.max_position_embeddings
    room = [min(limit, context - len(prompt)) for limit, prompt in zip(limits, prompts, strict=True)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    replies: list[list[int]] = [[] for _ in prompts]
    rows = [row for row, length in enumerate(room) if length > 0]  # of the batch, in order; some may have ended
    if not rows:
        return replies
    growing = set(rows)
    width = max(len(prompts[row]) for row in rows)
    ids = torch.tensor([[0] * (width - len(prompts[row])) + prompts[row] for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in rows], device=model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = None
    with torch.inference_mode():
        while True:
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = output.past_key_values
            tokens = choose(output.logits[:, -1], [temperatures[row] for row in rows], [generators[row] for row in rows])
            for row, token in zip(rows, tokens, strict=True):
                if row in growing and token not in stop:
                    replies[row].append(token)
                if token in stop or len(replies[row]) == room[row]:
                    growing.discard(row)
            if not growing:
                return replies
            ids = torch.tensor(tokens, device=model.device).unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = (positions[:, -1:] + 1).clamp(max=context - 1)  # rows that have ended may stand at the context's end
            if len(growing) <= KEEP_SHARE * len(rows):
                kept = torch.tensor([place for place, row in enumerate(rows) if row in growing], device=model.device)
                rows = [row for row in rows if row in growing]
                ids, mask, positions = ids[kept], mask[kept], positions[kept]
                cache.batch_select_indices(kept)


def choose(logits: torch.Tensor, temperatures: Sequence[float], generators: Sequence[torch.Generator]) -> list[int]:
    """The next token of each row of `logits` [rows, vocabulary]. Draws are the CPU's, whose generators are the same everywhere."""
    import torch

    tokens: list[int] = logits.float().argmax(dim=1).tolist()
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if drawn:
        probabilities = logits[drawn].float().cpu()
        for place, row in enumerate(drawn):
            softened = torch.softmax(probabilities[place] / temperatures[row], dim=0)
            tokens[row] = int(torch.multinomial(softened, 1, generator=generators[row]))
    return tokens
