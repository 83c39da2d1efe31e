"""FastChat's judgment files: lines of our verdicts, and what the lines of any file say about each model. Light.

FastChat's file has a line per verdict, and its tools don't agree on a line that is there twice: `show_result` averages all lines,
`clean_judgment`, which made the published files, keeps the first of each model, question, judge and prompt. Here the first counts,
and what `show_result` would print stands beside it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftstudy.errors import StudyError
from sftstudy.evaluate.prompts import PROMETHEUS
from sftstudy.evaluate.questions import Answer, Line, Question, read_lines
from sftstudy.evaluate.shards import mean_and_stderr
from sftstudy.evaluate.verdicts import FAILED, HIGHEST, LOWEST, Verdict, rating_by_fastchat, read_result
from sftstudy.hashes import sha256_of
from sftstudy.records import JudgmentsRecord, ModelJudgments, Ratings, ShownByFastChat, provenance
from sftstudy.semantics import SEMANTICS
from sftstudy.spec import digest

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
"""MT-Bench's, in the order of its question numbers: ten from 81 on are writing, the next ten role play, and so on."""

FIRST_QUESTION, BLOCK = 81, 10

OTHER = "other"
"""Category of a question that is not MT-Bench's own."""


class Judgment(Line):
    """A line of FastChat's single-judgment file. `repeat` and `status` are ours: FastChat's files have none."""

    question_id: int
    model: str
    judge: tuple[str, str]
    judgment: str | None
    score: float
    turn: int | None = None
    repeat: int = 0
    status: str = "ok"

    @property
    def of_turn(self) -> int:
        """1 or 2; old files say it only by the prompt's name."""
        return self.turn or (2 if self.judge[1].endswith("-multi-turn") else 1)

    @property
    def key(self) -> tuple[int, int, tuple[str, str], int]:
        """What may stand in a file once per model."""
        return self.question_id, self.of_turn, self.judge, self.repeat

    @property
    def rating(self) -> float | None:
        """The rating in the text, as FastChat reads it; None if it gave none, or was marked as failed."""
        if self.status != "ok":
            return None
        return (read_result if self.judge[1].startswith(PROMETHEUS) else rating_by_fastchat)(self.judgment or "")


def single_lines(judge: str, verdicts: Iterable[Verdict], models: Mapping[str, str]) -> list[dict[str, Any]]:
    """Lines of FastChat's `{judge}_single.jsonl`, with our `status` and the judging's number; `models` is checkpoint -> name."""
    return [
        {
            "question_id": verdict.match.question.question_id,
            "model": models[verdict.match.ckpt],
            "judge": [judge, verdict.match.prompt_name],
            "user_prompt": verdict.match.user_prompt,
            "judgment": verdict.reply.text,
            "score": FAILED if verdict.value is None else _shortest(verdict.value),
            "turn": verdict.match.turn,
            "tstamp": verdict.reply.tstamp,
            "status": verdict.status,
            "repeat": verdict.repeat,
        }
        for verdict in verdicts
    ]


def pair_lines(
    judge: str, verdicts: Iterable[Verdict], models: Mapping[str, str], *, others: Mapping[int, Answer]
) -> list[dict[str, Any]]:
    """Lines of FastChat's `{judge}_pair.jsonl`: `model_1` is ours, which stands first in game 1 and second in game 2."""
    games: dict[tuple[str, int, int, int], list[Verdict]] = {}
    for verdict in verdicts:
        match = verdict.match
        games.setdefault((match.ckpt, match.question.question_id, match.turn, verdict.repeat), []).append(verdict)
    winners = {1.0: "model_1", 0.0: "model_2", 0.5: "tie", None: "error"}
    return [
        {
            "question_id": question_id,
            "model_1": models[ckpt],
            "model_2": others[question_id].model_id,
            "g1_winner": winners[first.value],
            "g2_winner": winners[second.value],
            "judge": [judge, first.match.prompt_name],
            "g1_user_prompt": first.match.user_prompt,
            "g1_judgment": first.reply.text,
            "g2_user_prompt": second.match.user_prompt,
            "g2_judgment": second.reply.text,
            "turn": turn,
            "tstamp": second.reply.tstamp,
            "g1_status": first.status,
            "g2_status": second.status,
            "repeat": repeat,
        }
        for (ckpt, question_id, turn, repeat), (first, second) in games.items()
    ]


def _shortest(score: float) -> float:
    return int(score) if score == int(score) else score


def summarize_judgments(path: Path, *, questions: Path | None = None) -> JudgmentsRecord:
    """Mean ratings of every model in a file. Categories are the questions file's, or MT-Bench's own by question number.

    Raises StudyError if the file is missing, malformed or empty.
    """
    for file in (path, questions):
        if file and not file.is_file():
            raise StudyError(f"{file}: missing; name a file of FastChat's format")
    categories = {question.question_id: question.category for question in read_lines(questions, Question)} if questions else None
    lines = read_lines(path, Judgment)
    if not lines:
        raise StudyError(f"{path}: holds no judgments; name a file of FastChat's format, such as gpt-4_single.jsonl")
    models: dict[str, list[Judgment]] = {}
    for line in lines:
        models.setdefault(line.model, []).append(line)
    read = {"questions": sha256_of(questions) if questions else None}
    return JudgmentsRecord(
        spec_hash=digest({"read": read, "semantics": SEMANTICS["summarize_mt_bench"]}),
        content_hash=sha256_of(path),
        judges=sorted({line.judge[0] for line in lines}),
        models={name: _summarize_model(models[name], categories) for name in sorted(models)},
        **provenance(),
    )


def category_of(question_id: int, categories: Mapping[int, str] | None = None) -> str:
    """A question's category by a questions file, or by MT-Bench's numbers."""
    if categories is not None:
        return categories.get(question_id, OTHER)
    block = (question_id - FIRST_QUESTION) // BLOCK
    return CATEGORIES[block] if 0 <= block < len(CATEGORIES) else OTHER


def _summarize_model(lines: Sequence[Judgment], categories: Mapping[int, str] | None) -> ModelJudgments:
    first: dict[tuple[int, int, tuple[str, str], int], Judgment] = {}
    repeated: Counter[str] = Counter()
    for line in lines:
        kept = first.setdefault(line.key, line)
        if kept is not line:
            repeated["same" if (kept.judgment, kept.score) == (line.judgment, line.score) else "other"] += 1
    counted = list(first.values())
    return ModelJudgments(
        overall=_ratings(counted),
        turns={str(turn): _ratings(line for line in counted if line.of_turn == turn) for turn in _turns(counted)},
        categories={
            name: _ratings(line for line in counted if category_of(line.question_id, categories) == name)
            for name in dict.fromkeys(category_of(line.question_id, categories) for line in sorted(counted, key=lambda of: of.key))
        },
        num_lines=len(lines),
        num_duplicates=repeated["same"],
        num_repeats=repeated["other"],
        num_off_scale=sum(line.rating is not None and not LOWEST <= line.rating <= HIGHEST for line in counted),
        num_scores_corrected=sum((FAILED if line.rating is None else line.rating) != line.score for line in counted),
        fastchat=ShownByFastChat(
            mean=_stored_mean(lines),
            turns={str(turn): _stored_mean(of for of in lines if of.of_turn == turn) for turn in _turns(lines)},
        ),
    )


def _turns(lines: Sequence[Judgment]) -> list[int]:
    return sorted({line.of_turn for line in lines})


def _ratings(lines: Iterable[Judgment]) -> Ratings:
    """Mean over verdicts that gave a rating, error over questions, and the means if all that gave none were lowest or highest."""
    lines = list(lines)
    rated = [line.rating for line in lines if line.rating is not None]
    of_questions: dict[int, list[float]] = {}
    for line in lines:
        if line.rating is not None:
            of_questions.setdefault(line.question_id, []).append(line.rating)
    num_unparsable = len(lines) - len(rated)
    return Ratings(
        mean=statistics.fmean(rated) if rated else None,
        stderr=mean_and_stderr([statistics.fmean(values) for values in of_questions.values()])[1] if rated else None,
        num_judged=len(lines),
        num_unparsable=num_unparsable,
        lowest=(sum(rated) + LOWEST * num_unparsable) / len(lines),
        highest=(sum(rated) + HIGHEST * num_unparsable) / len(lines),
    )


def _stored_mean(lines: Iterable[Judgment]) -> float | None:
    """What `python -m fastchat.llm_judge.show_result` prints: the mean of all stored scores but -1."""
    stored = [line.score for line in lines if line.score != FAILED]
    return statistics.fmean(stored) if stored else None
