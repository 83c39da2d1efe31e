"""Builds a small `results/` tree of true records, without any training: what the tests of tables read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sftstudy import records, stats
from sftstudy.config import NO_NAME, Figure, Table
from sftstudy.paths import BASE_CKPT, BASE_STAGE, Layout, score_stem
from sftstudy.records import CheckpointEntry, ModelRecord, Score, ScoreRecord, SelectionRecord, StepMetrics, TrainingRecord
from sftstudy.spec import PlannedBenchmark, PlannedStage, Setting, StudySpec
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.render import FORMATS, render_table

COMMON: dict[str, Any] = {"content_hash": "c", "commit": "abc", "versions": {"sftstudy": "0"}}
EXAM = PlannedBenchmark(suite="exams", chance=0.25, unit="fraction", metric="acc")
CHAT = PlannedBenchmark(suite="chat", chance=1.0, unit="rating", judge="rule", clustered=True)


@dataclass
class Tree:
    """A growing results tree and the plan that goes with it."""

    layout: Layout
    benchmarks: dict[str, PlannedBenchmark] = field(default_factory=lambda: {"exam": EXAM})
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    sweeps: dict[str, list[str]] = field(default_factory=dict)
    stages: list[PlannedStage] = field(default_factory=list)
    spread: float | None = None

    def study(self, name: str = "toy") -> StudySpec:
        return StudySpec(
            name=name, question="?", stages=self.stages, benchmarks=self.benchmarks, sweeps=self.sweeps, tables=self.tables,
            figures=self.figures,
        )  # fmt: skip

    def base(self, items: Mapping[str, Sequence[float | None]], *, model: str = "m") -> PlannedStage:
        """The untouched model with one list of item values per benchmark."""
        folder = self.layout.model_record(model)
        record = ModelRecord(
            **COMMON, spec_hash="m", num_parameters=1, weights_hash="w-base", tokenizer_hash="t", chat_template="c"
        )
        records.write_record(folder, record)
        return self._scored((model, NO_NAME, NO_NAME, 0, BASE_STAGE), {BASE_CKPT: (0, 0, items)}, {}, last=False, weights="w-base")

    def stage(
        self,
        recipe: str,
        checkpoints: Mapping[str, tuple[int, int, Mapping[str, Sequence[float | None]]]],
        *,
        seed: int = 1,
        stage: str = "01-stacked",
        last: bool = True,
        pair: tuple[str, str] = ("m", "d"),
        factors: dict[str, Any] | None = None,
        steps: Sequence[tuple[int, float, float]] = (),
        selected: str | None = None,
    ) -> PlannedStage:
        """A trained stage: checkpoint -> (samples seen, spent, benchmark -> item values); `steps` are (samples, loss, norm)."""
        folder = self.layout.stage_results(*pair, recipe, seed, stage)
        planned = self._scored((*pair, recipe, seed, stage), checkpoints, factors or {}, last=last, weights="")
        entries = [
            CheckpointEntry(
                ckpt=ckpt, step=1, samples_seen=seen, samples_spent=spent, supervised_tokens_seen=1, weights_hash=f"w-{ckpt}"
            )
            for ckpt, (seen, spent, _) in checkpoints.items()
        ]
        training = TrainingRecord(
            **COMMON, spec_hash=planned.spec_hash, num_steps=max(1, len(steps)), samples_seen=entries[-1].samples_seen,
            samples_spent=entries[-1].samples_spent, checkpoints=entries, loss_normalisation="supervised tokens of the step",
            packed=False, sharding="none", optimizer="adamw", tokens_per_s=1,
            precision="fp32", attention="sdpa", device="cpu", num_processes=1, num_threads=1, num_attempts=1, time_s=1,
            peak_memory_gb=1,
        )  # fmt: skip
        records.write_record(folder / "training.json", training)
        lines = [
            StepMetrics(
                step=number, samples_seen=samples, loss=loss, grad_norm=norm, learning_rate=1e-3, num_supervised_tokens=1,
                num_tokens=1, time_s=1, tokens_per_s=1,
            )
            for number, (samples, loss, norm) in enumerate(steps, 1)
        ]  # fmt: skip
        records.write_text(folder / "metrics.jsonl", "".join(line.model_dump_json() + "\n" for line in lines))
        if selected:
            entry = next(entry for entry in entries if entry.ckpt == selected)
            choice = SelectionRecord(
                **COMMON, spec_hash="s", ckpt=selected, samples_seen=entry.samples_seen, weights_hash=entry.weights_hash,
                benchmark="exam", rule="best", candidates={},
            )  # fmt: skip
            records.write_record(folder / "selection.json", choice)
        return planned

    def _scored(
        self,
        place: tuple[str, str, str, int, str],
        checkpoints: Mapping[str, tuple[int, int, Mapping[str, Sequence[float | None]]]],
        factors: dict[str, Any],
        *,
        last: bool,
        weights: str,
    ) -> PlannedStage:
        model, data, recipe, seed, stage = place
        suites = sorted({definition.suite for definition in self.benchmarks.values()})
        planned = PlannedStage(
            model=model, data=data, recipe=recipe, seed=seed, stage=stage, spec_hash=f"spec-{recipe}-{seed}-{stage}", last=last,
            factors=factors, scores={suite: {"all": f"score-{suite}-{recipe}-{seed}-{stage}"} for suite in suites},
        )  # fmt: skip
        self.stages.append(planned)
        for suite in suites:
            scores, tables = [], []
            for ckpt, (seen, spent, items) in checkpoints.items():
                for name, values in items.items():
                    if self.benchmarks[name].suite == suite:
                        table = item_table(ckpt, name, values, turns=self.benchmarks[name].unit == "rating")
                        tables.append(table)
                        scores.append(self._score(ckpt, seen, spent, name, table, weights or f"w-{ckpt}"))
            stem = score_stem(self.layout.stage_results(*place), suite, "all")
            record = ScoreRecord(
                **COMMON, spec_hash=planned.scores[suite]["all"], model=model, data=data, recipe=recipe, seed=seed, stage=stage,
                suite=suite, part="all", scores=scores,
            )  # fmt: skip
            records.write_record(stem.with_name("all.json"), record)
            pd.concat(tables).to_parquet(stem.with_name("all.parquet"), index=False)
        return planned

    def _score(self, ckpt: str, seen: int, spent: int, name: str, table: pd.DataFrame, weights: str) -> Score:
        definition = self.benchmarks[name]
        failed = float(table["value"].isna().mean())
        value = stats.mean(table["value"].to_numpy(float), table["task"].tolist(), definition.average)
        return Score(
            ckpt=ckpt, samples_seen=seen, samples_spent=spent, weights_hash=weights, benchmark=name, task=name, task_version="1",
            metric=definition.metric, value=None if failed > 0.5 else value, stderr=None, num_items=len(table), num_fewshot=0,
            harness="toy", harness_version="1", judge=definition.judge, failure_share=failed,
            items_hash=f"items-{name}-{len(table)}",
            protocol_hash=f"protocol-{name}", first_tokens=[1, 2], spread=self.spread if definition.judge else None,
        )  # fmt: skip


def stacked(study: StudySpec) -> StudySpec:
    """The same study, which says of every recipe that it is stacked."""
    recipes = sorted({stage.recipe for stage in study.stages} - {NO_NAME})
    settings = [Setting(subject="recipe", name=name, key="strategy", value="stacked") for name in recipes]
    return study.model_copy(update={"settings": settings})


def drop(tree: Tree, recipe: str, ckpt: str, *, after: int, seed: int = 1, stage: str = "01-stacked") -> None:
    """Make a checkpoint of a scored stage one that a race on `exam` dropped."""
    stem = score_stem(tree.layout.stage_results("m", "d", recipe, seed, stage), "exams", "all")
    record = records.read_record(stem.with_name("all.json"), ScoreRecord)
    gone = {"value": None, "dropped_after": after, "num_items": after, "protocol_hash": "", "first_tokens": []}
    scores = [score.model_copy(update=gone) if score.ckpt == ckpt else score for score in record.scores]
    records.write_record(stem.with_name("all.json"), record.model_copy(update={"scores": scores}))
    items = pd.read_parquet(stem.with_name("all.parquet"))
    items[items["ckpt"] != ckpt].to_parquet(stem.with_name("all.parquet"), index=False)


def item_table(ckpt: str, name: str, values: Sequence[float | None], *, turns: bool) -> pd.DataFrame:
    """Items of one checkpoint: names are numbers, or question.turn; half of the items belong to each of two tasks."""
    names = [f"{number // 2}.{number % 2 + 1}" if turns else str(number) for number in range(len(values))]
    tasks = [f"{name}-{'a' if number < len(values) / 2 else 'b'}" for number in range(len(values))]
    return pd.DataFrame(
        {
            "ckpt": ckpt, "benchmark": name, "task": tasks, "item": names, "item_hash": [f"h{item}" for item in names],
            "metric": "rating" if turns else "acc", "value": np.array(values, dtype=float), "weight": 1.0,
        }
    )  # fmt: skip


def edit(path: Path, **changes: Any) -> None:
    """Change top-level keys of a record on disk."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Page(HTMLParser):
    """Ids, targets of buttons, and everything that would ask for another file or a script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.outside: list[str] = []
        self.depth = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.depth += tag not in ("meta", "br")
        self.ids += [known["id"] or ""] if "id" in known else []
        self.targets += [known["popovertarget"] or ""] if "popovertarget" in known else []
        if tag in ("script", "link", "img", "iframe") or (known.get("href") or "").startswith(("http", "/")):
            self.outside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1


def render(tree: Tree, table: str = "arms") -> dict[str, str]:
    """Format -> text of a table of the tree's study, and of its pedigree."""
    collect_scores([tree.study()], layout=tree.layout)
    render_table(tree.study(), table, FORMATS, layout=tree.layout)
    folder = tree.layout.study_folder("toy") / "tables"
    return {kind: (folder / f"{table}.{kind}").read_text() for kind in (*FORMATS, "pedigree.json")}
