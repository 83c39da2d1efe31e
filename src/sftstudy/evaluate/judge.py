"""Has MT-Bench answers judged over the OpenAI chat protocol, and scores the verdicts.

Every verdict is a line of a journal under scratch, so that no answer is judged twice; only server errors are asked again.
A question is judged against its reference if the references file has one. In MT-Bench's own file these are the questions of
FastChat's three categories.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from sftstudy.config import Judge, MtBenchSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate import rule_judge
from sftstudy.evaluate.questions import (
    Answer,
    Prompt,
    Question,
    QuestionSet,
    answer_id,
    answers_key,
    model_id,
    parse_answers,
    read_prompts,
    read_questions,
    read_references,
    to_lines,
)
from sftstudy.evaluate.shards import Item, mean_and_stderr, publish, publish_stopped
from sftstudy.evaluate.weights import Weights, find_weights, read_model
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout, score_stem
from sftstudy.records import Entry, Score, ScoreRecord, provenance, write_text
from sftstudy.spec import StageSpec, SuiteSpec, digest

if TYPE_CHECKING:
    from openai import AsyncOpenAI

NEED_REFERENCE = ("math", "reasoning", "coding")
"""Categories that can't be judged without a reference; FastChat's, less one of another benchmark."""

RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
"""FastChat's two patterns for a rating; the second is tried where the first finds nothing."""

FAILED = -1
"""FastChat's score of a verdict that gave no rating."""


class Verdict(Entry):
    """One reply of the judge, a line of the journal. `key` is its match's."""

    key: str
    status: Literal["ok", "unparsable", "refused", "server_error"]
    score: float
    judgment: str
    tstamp: float


@dataclass(frozen=True)
class Match:
    """One answer to one turn, with the prompt that asks for its rating."""

    ckpt: str
    question: Question
    turn: int
    prompt: Prompt
    user_prompt: str

    def key(self, judge: Judge) -> str:
        """Hash of who judges and everything that is sent. Where the judge is reached, and how often it is asked, don't count."""
        return digest([*_identity(judge), self.prompt.system_prompt, self.user_prompt])


def _identity(judge: Judge) -> list[str | int | None]:
    return [judge.server, judge.model, judge.max_tokens]


def leave_unjudged(stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], status: str, layout: Layout) -> None:
    """Write the judgments of a stage that was stopped, an empty file, and its score record."""
    folder = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    write_text(score_stem(folder, suite.name, f"{part}.judgments.jsonl"), "")
    publish_stopped(stage, suite, part=part, checkpoints=checkpoints, status=status, layout=layout)


def judge(stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], layout: Layout) -> ScoreRecord:
    """Judge a part's answers, write `{part}.judgments.jsonl` in FastChat's format, the score record and its items.

    Raises StudyError if answers are missing or not today's, or if the judge can't be reached at all.
    """
    if not isinstance(suite.suite, MtBenchSuite):
        raise StudyError(f"suite {suite.name}: its kind is {suite.suite.kind}; score it with score_harness")
    names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    check_worlds(suite.world_hashes, layout)
    stem = score_stem(layout.stage_results(*names), suite.name, part)
    journal = score_stem(layout.stage_scratch(*names), suite.name, f"{part}.verdicts.jsonl")
    questions, references = read_questions(suite.suite, layout), read_references(suite.suite, layout)
    prompts = read_prompts(suite.suite, layout)
    all_weights = find_weights(stage, checkpoints, layout)
    answers = _todays_answers(stem.with_name(f"{part}.answers.jsonl"), stage, suite.suite, questions, all_weights, layout=layout)
    matches = [
        match
        for weights in all_weights
        for question in questions.questions
        for match in make_matches(
            weights.ckpt, question, answers[weights.ckpt][question.question_id], references.get(question.question_id), prompts
        )
    ]
    verdicts = collect_verdicts(suite.suite.judge, matches, journal=journal)

    judgments = [_judgment(stage, suite.suite.judge, match, verdicts[match.key(suite.suite.judge)]) for match in matches]
    write_text(stem.with_name(f"{part}.judgments.jsonl"), to_lines(judgments))
    task_version = digest([[prompt.model_dump() for prompt in prompts.values()], sorted(references.items())])[:8]
    protocol = [
        _identity(suite.suite.judge),
        [prompts[name].model_dump() for name in sorted(prompts)],
        [[question.model_dump(), references.get(question.question_id)] for question in questions.questions],
    ]
    scores: list[Score] = []
    items: dict[str, list[Item]] = {}
    for weights in all_weights:
        mine = [(match, verdicts[match.key(suite.suite.judge)]) for match in matches if match.ckpt == weights.ckpt]
        items[weights.ckpt] = [_item(suite.name, questions, match, verdict) for match, verdict in mine]
        scores += score_items(
            items[weights.ckpt],
            suite.name,
            weights=weights,
            judge=suite.suite.judge,
            questions=questions,
            task_version=task_version,
            protocol_hash=digest(protocol),
            first_tokens={number: answer.first_tokens for number, answer in answers[weights.ckpt].items()},
        )
    return publish(
        stage,
        suite,
        part=part,
        checkpoints=checkpoints,
        content_hash=digest(
            [[score.weights_hash, score.items_hash, score.task_version] for score in scores]
            + [[answer.answer_id, answer.turns] for block in answers.values() for answer in block.values()]
        ),
        scores=scores,
        items=items,
        libraries=("openai",),
        layout=layout,
    )


def _todays_answers(
    path: Path, stage: StageSpec, suite: MtBenchSuite, questions: QuestionSet, all_weights: list[Weights], *, layout: Layout
) -> dict[str, dict[int, Answer]]:
    """Checkpoint -> question id -> answer. Raises StudyError if one is absent, or was given by other weights or settings."""
    tokenizer_hash = read_model(stage, layout).tokenizer_hash
    by_id = {answer.answer_id: answer for answer in parse_answers(path)}
    found: dict[str, dict[int, Answer]] = {}
    for weights in all_weights:
        key = answers_key(suite, questions, weights=weights, tokenizer_hash=tokenizer_hash, seed=stage.seed)
        wanted = {question.question_id: answer_id(key, question) for question in questions.questions}
        if missing := [number for number, identity in wanted.items() if identity not in by_id]:
            raise StudyError(
                f"{path}: no answer by today's {weights.ckpt} to question {missing[0]}; `snakemake -c all --forcerun {path}`"
            )
        found[weights.ckpt] = {number: by_id[identity] for number, identity in wanted.items()}
    return found


def make_matches(
    ckpt: str, question: Question, answer: Answer, reference: list[str] | None, prompts: dict[str, Prompt]
) -> list[Match]:
    """What the judge is asked about one question: the first turn alone, then the second with the whole conversation."""
    if reference is None and question.category in NEED_REFERENCE:
        raise StudyError(
            f"question {question.question_id}: {question.category} needs a reference answer; give `references` in benchmarks.yaml"
        )
    name = "single-v1" if reference is None else "single-math-v1"
    first, second = prompts[name], prompts[f"{name}-multi-turn"]
    one_reference = {} if reference is None else {"ref_answer_1": reference[0]}
    both_references = {} if reference is None else {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
    return [
        Match(
            ckpt,
            question,
            1,
            first,
            first.prompt_template.format(question=question.turns[0], answer=answer.turns[0], **one_reference),
        ),
        Match(
            ckpt,
            question,
            2,
            second,
            second.prompt_template.format(
                question_1=question.turns[0],
                question_2=question.turns[1],
                answer_1=answer.turns[0],
                answer_2=answer.turns[1],
                **both_references,
            ),
        ),
    ]


def collect_verdicts(judge: Judge, matches: list[Match], *, journal: Path) -> dict[str, Verdict]:
    """Key -> verdict for all matches: those of the journal, and new ones, which are added to it as they come.

    Raises StudyError if the judge answers none of the requests.
    """
    verdicts = {verdict.key: verdict for verdict in read_journal(journal) if verdict.status != "server_error"}
    open_matches = {match.key(judge): match for match in matches if match.key(judge) not in verdicts}
    if not open_matches:
        return verdicts
    with rule_judge.serve() if judge.server == "rule" else nullcontext(judge.base_url or "") as base_url:
        new = asyncio.run(_ask_all(judge, open_matches, base_url=base_url, journal=journal))
    if all(verdict.status == "server_error" for verdict in new):
        raise StudyError(f"judge {judge.model}: none of {len(new)} requests was answered: {new[0].judgment}; mend it, run again")
    return verdicts | {verdict.key: verdict for verdict in new}


def read_journal(path: Path) -> list[Verdict]:
    """All whole lines of a journal; a line that a killed job left unfinished is dropped."""
    if not path.is_file():
        return []
    verdicts = []
    for line in path.read_text().split("\n"):
        try:
            verdicts.append(Verdict.model_validate_json(line))
        except ValidationError:
            continue
    return verdicts


async def _ask_all(judge: Judge, matches: dict[str, Match], *, base_url: str, journal: Path) -> list[Verdict]:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    limit = asyncio.Semaphore(judge.concurrency)
    is_local = judge.server == "rule"
    client = AsyncOpenAI(
        base_url=base_url,
        api_key=_api_key(judge),
        max_retries=judge.num_retries,  # with back-off, on 408, 409, 429, 5xx, timeouts and lost connections
        http_client=DefaultAsyncHttpxClient(trust_env=False) if is_local else None,  # no proxy on the way to this machine
    )
    with _appender(journal) as append:

        async def ask_one(key: str, match: Match) -> Verdict:
            async with limit:
                verdict = await _ask(client, judge, match, key=key)
            append(verdict)
            return verdict

        async with client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask_one(key, match)) for key, match in matches.items()]
    return [task.result() for task in tasks]


async def _ask(client: AsyncOpenAI, judge: Judge, match: Match, *, key: str) -> Verdict:
    """One verdict. What the endpoint did not answer, after all retries, is one too: a server error."""
    import openai

    def verdict(status: Literal["ok", "unparsable", "refused", "server_error"], judgment: str, score: float = FAILED) -> Verdict:
        return Verdict(key=key, status=status, score=score, judgment=judgment, tstamp=time.time())

    try:
        reply = await client.chat.completions.create(
            model=judge.model,
            messages=[{"role": "system", "content": match.prompt.system_prompt}, {"role": "user", "content": match.user_prompt}],
            temperature=0,
            max_tokens=judge.max_tokens,
        )
    except (openai.APIError, json.JSONDecodeError) as error:
        code = str(getattr(error, "code", None) or "")
        return verdict("refused" if code.startswith("content_") else "server_error", f"{type(error).__name__}: {error}")
    if not reply.choices:
        return verdict("server_error", "the reply has no choices")
    choice = reply.choices[0]
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return verdict("refused", choice.message.refusal or choice.message.content or "")
    judgment = choice.message.content or ""
    rating = read_rating(judgment)
    return verdict("unparsable", judgment) if rating is None else verdict("ok", judgment, rating)


def read_rating(judgment: str) -> float | None:
    """The rating in a judgment by FastChat's patterns; None if there is none, or none from 1 to 10."""
    found = RATING.search(judgment) or RATING_BACKUP.search(judgment)
    rating = float(found[1]) if found else 0.0
    return rating if 1 <= rating <= 10 else None


def _api_key(judge: Judge) -> str:
    if judge.api_key_env is None:
        return "none"
    if judge.api_key_env not in os.environ:
        raise StudyError(
            f"judge {judge.model}: environment variable {judge.api_key_env} is not set; export it, or pass it to the job"
        )
    return os.environ[judge.api_key_env]


@contextmanager
def _appender(journal: Path) -> Iterator[Any]:
    """A function that appends a verdict to the journal as one whole line."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    torn = journal.is_file() and not journal.read_bytes().endswith(b"\n")
    with journal.open("a") as file:
        if torn:
            file.write("\n")

        def append(verdict: Verdict) -> None:
            file.write(verdict.model_dump_json() + "\n")
            file.flush()

        yield append


def _judgment(stage: StageSpec, judge: Judge, match: Match, verdict: Verdict) -> dict[str, Any]:
    """A line of FastChat's judgment file."""
    return {
        "question_id": match.question.question_id,
        "model": model_id(stage, match.ckpt),
        "judge": [judge.model, match.prompt.name],
        "user_prompt": match.user_prompt,
        "judgment": verdict.judgment,
        "score": int(verdict.score) if verdict.score == int(verdict.score) else verdict.score,
        "turn": match.turn,
        "tstamp": verdict.tstamp,
        "status": verdict.status,
    }


def _item(benchmark: str, questions: QuestionSet, match: Match, verdict: Verdict) -> Item:
    return Item(
        benchmark=benchmark,
        task=match.question.category,
        item=f"{match.question.question_id}.{match.turn}",
        item_hash=digest([questions.hashes[match.question.question_id], match.turn]),
        value=verdict.score if verdict.status == "ok" else None,
    )


def score_items(
    items: list[Item],
    benchmark: str,
    *,
    weights: Weights,
    judge: Judge,
    questions: QuestionSet,
    task_version: str,
    protocol_hash: str,
    first_tokens: dict[int, list[int]],
) -> list[Score]:
    """Mean ratings of one checkpoint: over all (task `benchmark`), per turn, per category. `first_tokens` is by question id.

    Errors come from the means of questions, since the two turns of a question hang together. A score whose share of failed verdicts
    exceeds the judge's limit has no value.
    """
    groups = {benchmark: items}
    for turn in ("1", "2"):
        groups[f"turn{turn}"] = [item for item in items if item.item.endswith(f".{turn}")]
    for category in dict.fromkeys(question.category for question in questions.questions):
        groups[category] = [item for item in items if item.task == category]
    return [
        _score(
            task,
            group,
            benchmark,
            weights=weights,
            judge=judge,
            task_version=task_version,
            protocol_hash=protocol_hash,
            first_tokens=first_tokens[int(group[0].item.partition(".")[0])],
        )
        for task, group in groups.items()
    ]


def _score(
    task: str,
    items: list[Item],
    benchmark: str,
    *,
    weights: Weights,
    judge: Judge,
    task_version: str,
    protocol_hash: str,
    first_tokens: list[int],
) -> Score:
    ratings: dict[str, list[float]] = {}
    for item in items:
        if item.value is not None:
            ratings.setdefault(item.item.partition(".")[0], []).append(item.value)
    rated = [rating for question in ratings.values() for rating in question]
    failure_share = 1 - len(rated) / len(items)
    publish = bool(rated) and failure_share <= judge.max_failure_share
    stderr = mean_and_stderr([sum(question) / len(question) for question in ratings.values()])[1] if publish else None
    provided = provenance()["versions"]["sftstudy"]
    return Score(
        ckpt=weights.ckpt,
        samples_seen=weights.samples_seen,
        samples_spent=weights.samples_spent,
        weights_hash=weights.weights_hash,
        benchmark=benchmark,
        task=task,
        task_version=task_version,
        metric="rating",
        value=mean_and_stderr(rated)[0] if publish else None,
        stderr=stderr,
        num_items=len(items),
        num_fewshot=0,
        harness="sftstudy",
        harness_version=provided,
        judge=judge.model,
        failure_share=failure_share,
        items_hash=digest([item.item_hash for item in items]),
        protocol_hash=protocol_hash,
        first_tokens=first_tokens,
    )
