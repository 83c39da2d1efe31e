"""MT-Bench's files in FastChat's formats: questions, references, answers. Light: loads no model library."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sftstudy.config import NO_NAME, MtBenchSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate.weights import Weights
from sftstudy.locate import locate
from sftstudy.paths import BASE_STAGE, Layout, base_answers
from sftstudy.semantics import SEMANTICS
from sftstudy.spec import StageSpec, SuiteSpec, digest

NUM_TURNS = 2


class Line(BaseModel):
    """A line of one of FastChat's files, of which we read the keys that we need."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Question(Line):
    """A question of two turns."""

    question_id: int
    category: str
    turns: list[str]


class Choice(Line):
    """One reply to all turns of a question."""

    index: int
    turns: list[str]


class Answer(Line):
    """A model's answer to a question, or a reference answer."""

    question_id: int
    answer_id: str
    model_id: str
    choices: list[Choice]
    tstamp: float
    first_tokens: list[int] = []
    """First token ids of the first prompt: ours, FastChat's files have none."""

    @property
    def turns(self) -> list[str]:
        """Texts of the first choice."""
        return self.choices[0].turns if self.choices else []


L = TypeVar("L", bound=Line)


@dataclass(frozen=True)
class QuestionSet:
    """A suite's questions, in file order, and the hash of their texts."""

    questions: list[Question]

    @cached_property
    def hashes(self) -> dict[int, str]:
        """Question id -> hash of category and turns."""
        return {question.question_id: digest([question.category, question.turns]) for question in self.questions}


def read_questions(suite: MtBenchSuite, layout: Layout) -> QuestionSet:
    """The suite's questions, or its fixed subset.

    Raises StudyError on a malformed file, an unknown id, or a question without two turns.
    """
    path = locate(suite.questions, layout, registry="benchmarks.yaml")
    questions = read_lines(path, Question)
    _require_unique(path, [question.question_id for question in questions])
    if suite.question_ids is not None:
        wanted = set(suite.question_ids)
        if missing := sorted(wanted - {question.question_id for question in questions}):
            raise StudyError(f"{path}: no question {missing[0]}; correct question_ids in benchmarks.yaml")
        questions = [question for question in questions if question.question_id in wanted]
    for question in questions:
        if len(question.turns) != NUM_TURNS:
            raise StudyError(
                f"{path}: question {question.question_id}: {len(question.turns)} turns; MT-Bench questions have {NUM_TURNS}"
            )
    if not questions:
        raise StudyError(f"{path}: holds no questions; correct `questions` in benchmarks.yaml")
    return QuestionSet(questions)


def read_references(suite: MtBenchSuite, layout: Layout) -> dict[int, list[str]]:
    """Question id -> reference answers of both turns, for the questions that have them. Raises StudyError if a turn lacks one."""
    if suite.references is None:
        return {}
    path = locate(suite.references, layout, registry="benchmarks.yaml")
    answers = read_lines(path, Answer)
    _require_unique(path, [answer.question_id for answer in answers])
    _require_turns(path, answers)
    return {answer.question_id: answer.turns for answer in answers}


def read_lines(path: Path, kind: type[L]) -> list[L]:
    """All lines of a JSONL file. Raises StudyError that names file, line and key."""
    lines = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):  # answers may hold other line separators
        if not line.strip():
            continue
        try:
            lines.append(kind.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "line"
            raise StudyError(f"{path}: line {number}: {key}: {first['msg']}; see FastChat's format") from None
    return lines


def _require_unique(path: Path, ids: list[int]) -> None:
    if repeated := [number for number in sorted(set(ids)) if ids.count(number) > 1]:
        raise StudyError(f"{path}: question {repeated[0]} stands there more than once; remove one")


def _require_turns(path: Path, answers: list[Answer]) -> None:
    for answer in answers:
        if len(answer.turns) != NUM_TURNS:
            raise StudyError(
                f"{path}: question {answer.question_id}: {len(answer.turns)} of {NUM_TURNS} answers; give one to each turn"
            )


def model_id(stage: StageSpec, ckpt: str) -> str:
    """A checkpoint's name in FastChat's files."""
    return f"{stage.model}/{stage.data}/{stage.recipe}/seed{stage.seed}/{stage.stage}/{ckpt}"


def answers_key(suite: MtBenchSuite, questions: QuestionSet, *, weights: Weights, tokenizer_hash: str, seed: int) -> str:
    """Identity of a checkpoint's answers: all that they depend on, and nothing of the judge."""
    settings = [suite.max_new_tokens, suite.precision, suite.batch_size, seed, SEMANTICS["answer_mt_bench"]]
    return digest([weights.ckpt, weights.weights_hash, tokenizer_hash, settings, list(questions.hashes.items())])


def answer_id(key: str, question: Question) -> str:
    """Identity of one answer; the judge compares it to refuse answers of other weights or settings."""
    return digest([key, question.question_id])


def parse_answers(path: Path) -> list[Answer]:
    """A part's answers. Raises StudyError if they are missing, malformed or incomplete."""
    if not path.is_file():
        raise StudyError(f"{path}: missing; build it with `snakemake -c all {path}`")
    answers = read_lines(path, Answer)
    _require_turns(path, answers)
    return answers


def read_against(stage: StageSpec, suite: SuiteSpec, questions: QuestionSet, layout: Layout) -> dict[int, Answer]:
    """Question id -> the answer that ours are compared with; empty where answers are rated one by one.

    Raises StudyError if a question has none, or several by different models.
    """
    if not isinstance(suite.suite, MtBenchSuite) or suite.suite.against is None:
        return {}
    if suite.suite.against == "base":
        folder = layout.stage_results(stage.model, NO_NAME, NO_NAME, 0, BASE_STAGE)
        path, answers = base_answers(folder, suite.name), parse_answers(base_answers(folder, suite.name))
    else:
        path = locate(suite.suite.against, layout, registry="benchmarks.yaml")
        answers = parse_answers(path)
    found: dict[int, Answer] = {}
    for answer in answers:
        if found.setdefault(answer.question_id, answer) is not answer:
            raise StudyError(f"{path}: question {answer.question_id}: two answers; keep those of one model")
    if missing := [question.question_id for question in questions.questions if question.question_id not in found]:
        raise StudyError(f"{path}: no answer to question {missing[0]}; name a file with answers to all questions")
    return found


def files_of_suite(suite: MtBenchSuite, layout: Layout) -> dict[str, Path]:
    """Key in the suite's definition -> the file that it names."""
    places = {"questions": suite.questions, "references": suite.references, "prompts": suite.prompts}
    return {key: locate(place, layout, registry="benchmarks.yaml") for key, place in places.items() if place is not None}


def to_lines(rows: list[dict[str, Any]]) -> str:
    """JSONL text."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def seed_of(question: Question, *, turn: int, seed: int) -> int:
    """Seed of one reply, from question, turn and the run's seed alone, so that batches don't matter."""
    return int(hashlib.sha256(f"{seed}/{question.question_id}/{turn}".encode()).hexdigest()[:15], 16)
