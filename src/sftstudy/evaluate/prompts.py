"""What a judge is asked about an answer: FastChat's prompts for one answer or for two, or Prometheus's for one. Light."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sftstudy.errors import StudyError
from sftstudy.evaluate.questions import Answer, Line, Question, read_lines

NEED_REFERENCE = ("math", "reasoning", "coding")
"""Categories that can't be judged without a reference; FastChat's, less one of another benchmark."""

GAMES = 2
"""Each pair is judged twice: our answer stands first in game 0, second in game 1."""


PROMETHEUS = "prometheus-"
"""Prefix of a prompt's name in judgment files, before the rubric's."""


class Prompt(Line):
    """A judge's prompt in FastChat's format."""

    name: str
    type: str
    system_prompt: str
    prompt_template: str
    output_format: str


@dataclass(frozen=True)
class Asked:
    """A question, an answer to it, and what else a judge is shown: a reference and, in a pair, the other answer."""

    ckpt: str
    question: Question
    answer: Answer
    reference: Sequence[str] | None
    other: Answer | None = None

    def __post_init__(self) -> None:
        if self.reference is None and self.question.category in NEED_REFERENCE:
            raise StudyError(
                f"question {self.question.question_id}: {self.question.category} needs a reference answer; "
                "give `references` in benchmarks.yaml"
            )

    def is_tie(self, turn: int) -> bool:
        """Whether the other answer is the same up to a turn: both orders of the pair then read the same."""
        return self.other is not None and self.answer.turns[:turn] == self.other.turns[:turn]


@dataclass(frozen=True)
class Match:
    """One turn of an answer with the texts that ask for its verdict. `game` tells the two orders of a pair apart."""

    ckpt: str
    question: Question
    turn: int
    prompt_name: str
    system_prompt: str
    user_prompt: str
    output_format: str
    game: int = 0


class FastChatPrompts:
    """FastChat's templates. A question is judged against its reference if there is one, in the second turn with the first."""

    def __init__(self, path: Path, *, pairs: bool) -> None:
        """Read a judge_prompts.jsonl. Raises StudyError if a prompt is missing or asks for something else."""
        self.pairs = pairs
        self.plain, self.math = ("pair-v2", "pair-math-v1") if pairs else ("single-v1", "single-math-v1")
        found = {prompt.name: prompt for prompt in read_lines(path, Prompt)}
        names = [f"{name}{turn}" for name in (self.plain, self.math) for turn in ("", "-multi-turn")]
        wanted = ("pairwise", "[[A]]") if pairs else ("single", "[[rating]]")
        for name in names:
            if name not in found:
                raise StudyError(f"{path}: no prompt {name}; take FastChat's judge_prompts.jsonl, or one in its format")
            if (found[name].type, found[name].output_format) != wanted:
                raise StudyError(f"{path}: {name}: must have type `{wanted[0]}` and output_format `{wanted[1]}`")
        self.prompts = {name: found[name] for name in sorted(names)}

    @property
    def protocol(self) -> list[dict[str, str]]:
        """The texts that make a verdict comparable with another."""
        return [prompt.model_dump() for prompt in self.prompts.values()]

    def matches(self, asked: Asked) -> list[Match]:
        """The first turn alone, then the second with the whole conversation; of a pair both orders of each."""
        games = range(GAMES if self.pairs else 1)
        return [self._match(asked, turn, game) for turn in (1, 2) for game in games]

    def _match(self, asked: Asked, turn: int, game: int) -> Match:
        name = self.plain if asked.reference is None else self.math
        prompt = self.prompts[name if turn == 1 else f"{name}-multi-turn"]
        question, turns = asked.question, asked.question.turns
        texts = {"question": turns[0]} if turn == 1 else {"question_1": turns[0], "question_2": turns[1]}
        texts |= {f"ref_answer_{number}": text for number, text in enumerate((asked.reference or [])[:turn], start=1)}
        if asked.other is None:
            answers = {"": asked.answer}
        else:
            answers = dict(zip(("_a", "_b"), [asked.answer, asked.other][:: -1 if game else 1], strict=True))
        for mark, answer in answers.items():
            if turn == 1:
                texts[f"answer{mark}"] = answer.turns[0]
            else:
                texts |= {f"answer{mark}_{number}": answer.turns[number - 1] for number in (1, 2)}
        user_prompt = prompt.prompt_template.format(**texts)
        return Match(asked.ckpt, question, turn, prompt.name, prompt.system_prompt, user_prompt, prompt.output_format, game)


class PrometheusPrompts:
    """Prometheus's absolute grading: feedback and a result from 1 to 5 by a rubric. The second turn is shown with the first."""

    SYSTEM, WITH, WITHOUT = "ABS_SYSTEM_PROMPT", "ABSOLUTE_PROMPT", "ABSOLUTE_PROMPT_WO_REF"

    def __init__(self, path: Path, rubric: str) -> None:
        """Read the texts of a Python file that assigns them to names, such as `prompts.py` of package `prometheus_eval`."""
        found = _texts(path)
        names = (self.SYSTEM, self.WITH, self.WITHOUT, rubric)
        if missing := [name for name in names if name not in found]:
            known = ", ".join(name for name in found if name.endswith("_RUBRIC"))
            raise StudyError(f"{path}: has no text {missing[0]}; name a rubric of it ({known}) and the file of prometheus_eval")
        self.rubric = rubric
        self.prompts = {name: found[name] for name in names}

    @property
    def protocol(self) -> list[dict[str, str]]:
        """The texts that make a verdict comparable with another."""
        return [self.prompts]

    def matches(self, asked: Asked) -> list[Match]:
        """The first turn, then the second, whose instruction is the conversation so far."""
        first, second = asked.question.turns
        talk = f"User: {first}\n\nAssistant: {asked.answer.turns[0]}\n\nUser: {second}"
        name = self.WITHOUT if asked.reference is None else self.WITH
        matches = []
        for turn, instruction in ((1, first), (2, talk)):
            reference = {} if asked.reference is None else {"reference_answer": asked.reference[turn - 1]}
            texts = {"instruction": instruction, "response": asked.answer.turns[turn - 1], "rubric": self.prompts[self.rubric]}
            prompt, called = self.prompts[name].format(**texts, **reference), f"{PROMETHEUS}{self.rubric}"
            matches.append(Match(asked.ckpt, asked.question, turn, called, self.prompts[self.SYSTEM], prompt, "[RESULT]"))
        return matches


Prompts = FastChatPrompts | PrometheusPrompts


def _texts(path: Path) -> Mapping[str, str]:
    """Name -> text that a Python file assigns to it, stripped where the file strips it. Nothing is run."""
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, ValueError):
        raise StudyError(f"{path}: not a Python file; name `prompts.py` of package prometheus_eval") from None
    found = {}
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        value, strips = node.value, False
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "strip" and not value.args:
            value, strips = value.func.value, True
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[node.targets[0].id] = value.value.strip() if strips else value.value
    return found
