"""Writes a model's answers to MT-Bench questions, in FastChat's format.

Two turns by the tokenizer's own chat template; the second follows the model's own first answer. Sampling is plain, by
temperature alone: a model's generation settings (top-p, repetition penalty) are not applied. Each reply has a generator of its
own, so its random draws don't depend on the batch; only rounding does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftstudy.config import MtBenchSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate.questions import (
    NUM_TURNS,
    Question,
    QuestionSet,
    answer_id,
    answers_key,
    model_id,
    parse_answers,
    read_questions,
    seed_of,
    to_lines,
)
from sftstudy.evaluate.weights import (
    NUM_FIRST_TOKENS,
    Weights,
    adds_bos,
    find_weights,
    load_model,
    load_tokenizer,
    read_model,
    require_chat_template,
    starts_wrong,
)
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout, score_stem
from sftstudy.records import write_text
from sftstudy.spec import StageSpec, SuiteSpec

if TYPE_CHECKING:
    import torch

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""FastChat's (fastchat/llm_judge/common.py)."""

OTHER_TEMPERATURE = 0.7
"""FastChat's for a category that is not in its table."""


def answer(stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], layout: Layout) -> Path:
    """Write `{part}.answers.jsonl` for a block of a stage's checkpoints, and return its path.

    Answers of a checkpoint that were finished before, by the same weights, tokenizer, questions and settings, are only published
    again. Raises StudyError if weights or questions are missing.
    """
    if not isinstance(suite.suite, MtBenchSuite):
        raise StudyError(f"suite {suite.name}: its kind is {suite.suite.kind}; score it with score_harness")
    names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    check_worlds(suite.world_hashes, layout)
    questions = read_questions(suite.suite, layout)
    tokenizer_hash = read_model(stage, layout).tokenizer_hash
    shards: list[tuple[Weights, str, Path]] = []
    for weights in find_weights(stage, checkpoints, layout):
        key = answers_key(suite.suite, questions, weights=weights, tokenizer_hash=tokenizer_hash, seed=stage.seed)
        shard = score_stem(layout.stage_scratch(*names), suite.name, f"{weights.ckpt}-{key}.answers.jsonl")
        if not shard.is_file():
            weights.check_there()  # of all checkpoints, before hours go into the first
        shards.append((weights, key, shard))
    lines = ""
    for weights, key, shard in shards:
        if not shard.is_file():
            write_text(shard, _answer_all(stage, suite.suite, questions, weights=weights, key=key, layout=layout))
        lines += shard.read_text()
    path = score_stem(layout.stage_results(*names), suite.name, f"{part}.answers.jsonl")
    write_text(path, lines)
    parse_answers(path)
    return path


def leave_unanswered(stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], status: str, layout: Layout) -> None:
    """Write the answers of a stage that was stopped: an empty file."""
    folder = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    write_text(score_stem(folder, suite.name, f"{part}.answers.jsonl"), "")


def _answer_all(
    stage: StageSpec, suite: MtBenchSuite, questions: QuestionSet, *, weights: Weights, key: str, layout: Layout
) -> str:
    """One checkpoint's answers to all questions as JSONL text."""
    weights.check()
    tokenizer = load_tokenizer(stage, layout)
    require_chat_template(tokenizer, model=stage.model)
    model = load_model(weights.folder, precision=suite.precision)
    # batches of similar length waste little on padding
    ordered = sorted(questions.questions, key=lambda question: (len(question.turns[0]), question.question_id))
    turns: dict[int, list[str]] = {}
    for start in range(0, len(ordered), suite.batch_size):
        batch = ordered[start : start + suite.batch_size]
        turns |= answer_batch(model, tokenizer, batch, max_new_tokens=suite.max_new_tokens, seed=stage.seed)
    return to_lines(
        [
            {
                "question_id": question.question_id,
                "answer_id": answer_id(key, question),
                "model_id": model_id(stage, weights.ckpt),
                "choices": [{"index": 0, "turns": turns[question.question_id]}],
                "tstamp": time.time(),
                "first_tokens": _encode(tokenizer, _ask(question, 0))[:NUM_FIRST_TOKENS],
            }
            for question in questions.questions
        ]
    )


def answer_batch(model: Any, tokenizer: Any, questions: list[Question], *, max_new_tokens: int, seed: int) -> dict[int, list[str]]:
    """Question id -> the model's replies to both turns. The run's seed also seeds the sampling."""
    chats: list[list[dict[str, str]]] = [[] for _ in questions]
    stop_ids = stop_tokens(model, tokenizer)
    for turn in range(NUM_TURNS):
        for chat, question in zip(chats, questions, strict=True):
            chat += _ask(question, turn)
        replies = generate(
            model,
            [_encode(tokenizer, chat) for chat in chats],
            temperatures=[TEMPERATURES.get(question.category, OTHER_TEMPERATURE) for question in questions],
            seeds=[seed_of(question, turn=turn + 1, seed=seed) for question in questions],
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
        )
        for chat, reply in zip(chats, replies, strict=True):
            chat.append({"role": "assistant", "content": tokenizer.decode(reply, skip_special_tokens=True).strip()})
    return {
        question.question_id: [message["content"] for message in chat if message["role"] == "assistant"]
        for question, chat in zip(questions, chats, strict=True)
    }


def _ask(question: Question, turn: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.turns[turn]}]


def _encode(tokenizer: Any, chat: list[dict[str, str]]) -> list[int]:
    """Tokens of a prompt as training and lm-eval make them: BOS is the template's, or else the tokenizer's own if it adds one."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    own_bos = adds_bos(tokenizer)
    if own_bos and ids[:1] != [tokenizer.bos_token_id]:
        ids = [tokenizer.bos_token_id, *ids]
    if fault := starts_wrong(ids, tokenizer, bos_expected=own_bos):
        raise StudyError(f"a chat prompt {fault}; mend the tokenizer's chat template")
    return ids


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
    prompts: list[list[int]],
    *,
    temperatures: list[float],
    seeds: list[int],
    max_new_tokens: int,
    stop_ids: Iterable[int],
) -> list[list[int]]:
    """Continue each prompt: the likeliest token at temperature 0, else a draw by the row's own generator. Stop tokens are left out.

    Prompts are padded on the left. A reply also ends where the model's context does; a prompt that fills it gets an empty one.
    """
    import torch

    stop, context = set(stop_ids), model.config.max_position_embeddings
    prompts = [prompt[:context] for prompt in prompts]  # one that is longer gets no reply, and may not stretch the batch
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    replies: list[list[int]] = [[] for _ in prompts]
    room = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
    alive = [length > 0 for length in room]
    cache = None
    with torch.inference_mode():
        while any(alive):
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = output.past_key_values
            tokens = _choose(output.logits[:, -1].float().cpu(), temperatures, generators)
            for row, token in enumerate(tokens):
                if alive[row] and token not in stop:
                    replies[row].append(token)
                alive[row] = alive[row] and token not in stop and len(replies[row]) < room[row]
            ids = torch.tensor(tokens, device=model.device).unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            positions = (positions[:, -1:] + 1).clamp(max=context - 1)  # rows that have ended may stand at the context's end
    return replies


def _choose(logits: torch.Tensor, temperatures: list[float], generators: list[torch.Generator]) -> list[int]:
    """The next token of each row. `logits` is fp32 [rows, vocabulary] on the CPU, where generators are the same everywhere."""
    import torch

    tokens: list[int] = logits.argmax(dim=1).tolist()
    for row, temperature in enumerate(temperatures):
        if temperature > 0:
            probabilities = torch.softmax(logits[row] / temperature, dim=0)
            tokens[row] = int(torch.multinomial(probabilities, 1, generator=generators[row]))
    return tokens
