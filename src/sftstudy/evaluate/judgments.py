"""What a FastChat single-judgment file says: each model's mean ratings, read again from the verdicts' text. Light.

FastChat's file has a line per verdict, and its tools don't agree on a line that is there twice: `show_result` averages all lines,
`clean_judgment`, which made the published files, keeps the first of each model, question, judge and prompt. Here the first counts,
and what `show_result` would print stands beside it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sftstudy.errors import StudyError
from sftstudy.evaluate.questions import Line, Question, read_lines
from sftstudy.evaluate.shards import mean_and_stderr
from sftstudy.evaluate.verdicts import FAILED, HIGHEST, LOWEST, rating_by_fastchat
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
        return rating_by_fastchat(self.judgment or "") if self.status == "ok" else None


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
            mean=_stored_mean(lines), turns={str(turn): _stored_mean(of for of in lines if of.of_turn == turn) for turn in _turns(lines)}
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
