"""Writes a model's answers to MT-Bench questions, in FastChat's format.

Two turns by the tokenizer's own chat template; the second follows the model's own first answer. Answers are kept batch by batch as
they come, so that a killed job goes on where it was; suites that ask the same questions in the same way share them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sftstudy import timesheet
from sftstudy.config import MtBenchSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate.generate import generate, stop_tokens
from sftstudy.evaluate.journal import open_journal, read_journal
from sftstudy.evaluate.progress import Progress
from sftstudy.evaluate.questions import (
    NUM_TURNS,
    Answer,
    Choice,
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
    encode_chat,
    find_weights,
    load_model,
    load_tokenizer,
    read_model,
    require_chat_template,
)
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout, answers_file, score_stem
from sftstudy.records import write_text
from sftstudy.spec import StageSpec, SuiteSpec

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
        shard = answers_file(layout.stage_scratch(*names), f"{weights.ckpt}-{key}")
        if not shard.is_file():
            weights.check_there()  # of all checkpoints, before hours go into the first
        shards.append((weights, key, shard))
    lines = ""
    for weights, key, shard in shards:
        if not shard.is_file():
            journal = shard.with_name(f"{shard.stem}.{suite.name}.partial.jsonl")  # a job of another suite may be at it too
            answers = _answer_all(stage, suite.suite, questions, weights=weights, key=key, journal=journal, layout=layout)
            write_text(shard, to_lines([answer.model_dump() for answer in answers]))
            journal.unlink(missing_ok=True)
        else:
            timesheet.known(len(questions.questions))
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
    stage: StageSpec,
    suite: MtBenchSuite,
    questions: QuestionSet,
    *,
    weights: Weights,
    key: str,
    journal: Path,
    layout: Layout,
) -> list[Answer]:
    """One checkpoint's answers to all questions, in the questions' order. `journal` keeps those of finished batches."""
    found = {answer.answer_id: answer for answer in read_journal(journal, Answer)}
    # batches of similar length waste little on padding; they are the same in every attempt, as rounding may depend on them
    ordered = sorted(questions.questions, key=lambda question: (len(question.turns[0]), question.question_id))
    batches = [ordered[start : start + suite.batch_size] for start in range(0, len(ordered), suite.batch_size)]
    left = [batch for batch in batches if any(answer_id(key, question) not in found for question in batch)]
    timesheet.known(len(ordered) - sum(map(len, left)))
    if left:
        weights.check()
        tokenizer = load_tokenizer(stage, layout)
        require_chat_template(tokenizer, model=stage.model)
        model = load_model(weights.folder, precision=suite.precision)
        progress = Progress(f"{weights.ckpt} answers", len(ordered), len(ordered) - sum(map(len, left)))
        with open_journal(journal) as append:
            for batch in left:
                with timesheet.working(units=len(batch)):
                    turns = answer_batch(model, tokenizer, batch, max_new_tokens=suite.max_new_tokens, seed=stage.seed)
                for question in batch:
                    answer = Answer(
                        question_id=question.question_id,
                        answer_id=answer_id(key, question),
                        model_id=model_id(stage, weights.ckpt),
                        choices=[Choice(index=0, turns=turns[question.question_id])],
                        tstamp=time.time(),
                        first_tokens=encode_chat(tokenizer, _ask(question, 0))[:NUM_FIRST_TOKENS],
                    )
                    found[answer.answer_id] = answer
                    append(answer)
                timesheet.safe()
                progress.report(len(batch))
    return [found[answer_id(key, question)] for question in questions.questions]


def answer_batch(model: Any, tokenizer: Any, questions: list[Question], *, max_new_tokens: int, seed: int) -> dict[int, list[str]]:
    """Question id -> the model's replies to both turns. The run's seed also seeds the sampling."""
    chats: list[list[dict[str, str]]] = [[] for _ in questions]
    stop_ids = stop_tokens(model, tokenizer)
    for turn in range(NUM_TURNS):
        for chat, question in zip(chats, questions, strict=True):
            chat += _ask(question, turn)
        replies = generate(
            model,
            [encode_chat(tokenizer, chat) for chat in chats],
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
