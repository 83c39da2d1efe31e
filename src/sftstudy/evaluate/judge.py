"""Has MT-Bench answers judged by one judge or a panel, and scores the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sftstudy.config import Judge, MtBenchSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate.budget import Usage
from sftstudy.evaluate.judgments import pair_lines, single_lines
from sftstudy.evaluate.panel import judge_all, make_panelist
from sftstudy.evaluate.prompts import Asked
from sftstudy.evaluate.questions import (
    Answer,
    QuestionSet,
    answer_id,
    answers_key,
    files_of_suite,
    model_id,
    parse_answers,
    read_against,
    read_questions,
    read_references,
    to_lines,
)
from sftstudy.evaluate.ratings import RATINGS, WINS, Rating, item_values, read_ratings, spread, summarize, tasks
from sftstudy.evaluate.shards import Item, publish, publish_stopped
from sftstudy.evaluate.verdicts import Verdict
from sftstudy.evaluate.weights import Weights, find_weights, read_model
from sftstudy.hashes import sha256_of
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout, score_stem
from sftstudy.records import Judging, Score, ScoreRecord, provenance, write_text
from sftstudy.spec import StageSpec, SuiteSpec, digest


def leave_unjudged(stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], status: str, layout: Layout) -> None:
    """Write the judgments of a stage that was stopped, an empty file, and its score record."""
    folder = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    write_text(score_stem(folder, suite.name, f"{part}.judgments.jsonl"), "")
    publish_stopped(stage, suite, part=part, checkpoints=checkpoints, status=status, layout=layout)


def judge(stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], layout: Layout) -> ScoreRecord:
    """Judge a part's answers, write `{part}.judgments.jsonl` in FastChat's format, the score record and its items.

    Raises StudyError if answers are missing or not today's, if a judge can't be reached at all, or if its budget is used up.
    """
    if not isinstance(suite.suite, MtBenchSuite):
        raise StudyError(f"suite {suite.name}: its kind is {suite.suite.kind}; score it with score_harness")
    settings = suite.suite
    names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    check_worlds(suite.world_hashes, layout)
    stem = score_stem(layout.stage_results(*names), suite.name, part)
    questions, references = read_questions(settings, layout), read_references(settings, layout)
    panel = [make_panelist(judge, settings, model_hashes=suite.model_hashes, layout=layout) for judge in settings.judges]
    all_weights = find_weights(stage, checkpoints, layout)
    answers = _todays_answers(stem.with_name(f"{part}.answers.jsonl"), stage, settings, questions, all_weights, layout=layout)
    others = read_against(stage, suite, questions, layout)
    asked = [
        Asked(ckpt, question, answer[question.question_id], references.get(question.question_id), others.get(question.question_id))
        for ckpt, answer in answers.items()
        for question in questions.questions
    ]
    journals = {ckpt: score_stem(layout.stage_scratch(*names), suite.name, f"{ckpt}.replies.jsonl") for ckpt in checkpoints}
    verdicts: dict[str, list[Verdict]] = {}
    for member in panel:
        name = member.judge.model
        log = next(iter(journals.values())).with_name(f"{part}.server.log")
        verdicts[name] = judge_all(member, asked, journals=journals, ledger=layout.judging_ledger(suite.name, name), log=log)

    models = {ckpt: model_id(stage, ckpt) for ckpt in checkpoints}
    judgments = [
        line
        for name, given in verdicts.items()
        for line in (pair_lines(name, given, models, others=others) if settings.against else single_lines(name, given, models))
    ]
    write_text(stem.with_name(f"{part}.judgments.jsonl"), to_lines(judgments))

    task_version = digest([[member.prompts.protocol for member in panel], sorted(references.items())])[:8]
    protocol = [
        [[member.identity, member.prompts.protocol] for member in panel],
        [[question.model_dump(), references.get(question.question_id)] for question in questions.questions],
        "base" if settings.against == "base" else [[number, others[number].turns] for number in sorted(others)],
    ]
    scores: list[Score] = []
    items: dict[str, list[Item]] = {}
    for weights in all_weights:
        ratings = [rating for name, given in verdicts.items() for rating in read_ratings(name, given, weights.ckpt)]
        items[weights.ckpt] = _items(suite.name, questions, ratings)
        scores += score_ratings(
            ratings,
            suite.name,
            weights=weights,
            suite=settings,
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
            + [[number, answer.turns] for number, answer in others.items()]
        ),
        scores=scores,
        items=items,
        judging=[_judging(member.judge, verdicts[member.judge.model], ckpt) for ckpt in checkpoints for member in panel],
        files={name: sha256_of(path) for name, path in files_of_suite(settings, layout).items()},
        libraries=("aiohttp", *sorted({member.judge.server or "" for member in panel} & {"transformers", "vllm"})),
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


def _items(benchmark: str, questions: QuestionSet, ratings: Sequence[Rating]) -> list[Item]:
    categories = {question.question_id: question.category for question in questions.questions}
    return [
        Item(
            benchmark=benchmark,
            task=categories[number],
            item=f"{number}.{turn}",
            item_hash=digest([questions.hashes[number], turn]),
            value=value,
        )
        for (number, turn), value in item_values(ratings).items()
    ]


def score_ratings(
    ratings: Sequence[Rating],
    benchmark: str,
    *,
    weights: Weights,
    suite: MtBenchSuite,
    questions: QuestionSet,
    task_version: str,
    protocol_hash: str,
    first_tokens: Mapping[int, list[int]],
) -> list[Score]:
    """Scores of one checkpoint: over all (task `benchmark`), per turn, per category. `first_tokens` is by question id."""
    scores = []
    for task, group in tasks(ratings, benchmark).items():
        found = summarize(group, scale=WINS if suite.against else RATINGS, max_failure_share=suite.max_failure_share)
        places = [(rating.question_id, rating.turn) for rating in group]
        scores.append(
            Score(
                ckpt=weights.ckpt,
                samples_seen=weights.samples_seen,
                samples_spent=weights.samples_spent,
                weights_hash=weights.weights_hash,
                benchmark=benchmark,
                task=task,
                task_version=task_version,
                metric="win_rate" if suite.against else "rating",
                value=found.value,
                stderr=found.stderr,
                lowest=found.lowest,
                highest=found.highest,
                spread=found.spread,
                disagreement=found.disagreement,
                num_items=found.num_items,
                num_fewshot=0,
                harness="sftstudy",
                harness_version=provenance()["versions"]["sftstudy"],
                judge=suite.judge,
                failure_share=found.failure_share,
                items_hash=digest([digest([questions.hashes[number], turn]) for number, turn in dict.fromkeys(places)]),
                protocol_hash=protocol_hash,
                first_tokens=first_tokens[places[0][0]],
            )
        )
    return scores


def _judging(judge: Judge, verdicts: Sequence[Verdict], ckpt: str) -> Judging:
    """What a judge did with a checkpoint's answers. Verdicts that share a reply share its tokens."""
    mine = [verdict for verdict in verdicts if verdict.match.ckpt == ckpt]
    ratings = read_ratings(judge.model, mine, ckpt)
    values = [value for value in item_values(ratings).values() if value is not None]
    used = sum({verdict.reply.key: verdict.reply.usage for verdict in mine}.values(), Usage())
    return Judging(
        ckpt=ckpt,
        judge=judge.model,
        num_judgings=judge.num_judgings,
        verdicts=dict(sorted(Counter(verdict.status for verdict in mine).items())),
        value=sum(values) / len(values) if values else None,
        spread=spread(ratings),
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        cost=used.cost(judge),
    )
