"""Chooses a checkpoint from per-item results made elsewhere: a CSV (also .csv.gz) or Parquet file.

Its columns ckpt, task, item, correct are read, and samples if there is one; others are left alone. `correct` is right or wrong
(true, false, 1, 0) or a grade between 0 and 1; every checkpoint has every item once. `samples` gives the order of the checkpoints,
else their names do, numbers in them as numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats as tests

from sftstudy import stats
from sftstudy.config import Race, Rule
from sftstudy.errors import StudyError
from sftstudy.hashes import sha256_of
from sftstudy.race import item_weights, looks, race, random_order
from sftstudy.records import CheckpointScores, ItemSelectionRecord, Mean, PairedVerdict, Racing, provenance
from sftstudy.select import Candidate, choose, errors_to_best, natural
from sftstudy.spec import digest
from sftstudy.stats import Array, Average, ItemScores
from sftstudy.stats.peaks import in_first_half, optimism

ALPHA = 0.05
COLUMNS = ("ckpt", "task", "item", "correct")
TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class ItemResults:
    """Checkpoints x items, checkpoints in order. `samples` is their place in the order where the file has no such column."""

    ckpts: tuple[str, ...]
    samples: tuple[float, ...]
    items: tuple[str, ...]
    tasks: tuple[str, ...]
    clusters: tuple[str, ...]
    values: Array

    def one(self, place: int) -> ItemScores:
        """One checkpoint as an arm of one seed."""
        return ItemScores((0,), self.items, self.tasks, self.clusters, self.values[place : place + 1])


def read_items(path: Path, *, cluster: str | None = None) -> ItemResults:
    """Read the file; items with one value of column `cluster` were drawn together. Raises StudyError for what is amiss in it."""
    table = _read(path, [*COLUMNS, *([cluster] if cluster else [])])
    values = _numbers(table["correct"], path)
    keys = ["ckpt", "task", "item"]
    for column in [*keys, *([cluster] if cluster else [])]:
        if (empty := table[column] == "").any():
            raise StudyError(f"{path}: row {_row(empty)}: {column} is empty; give every row its {column}")
    if (again := table.duplicated(keys)).any():
        here = table[again].iloc[0]
        first = int((table[keys] == here[keys]).all(axis=1).to_numpy().argmax()) + 1
        raise StudyError(
            f"{path}: row {_row(again)}: checkpoint {here['ckpt']} has item {here['item']} of task {here['task']} "
            f"already in row {first}; keep one of them"
        )
    grid = pd.Series(values, index=pd.MultiIndex.from_frame(table[keys])).unstack("ckpt")
    if (holes := grid.isna().to_numpy()).any():
        row, column = np.argwhere(holes)[0]
        task, item = grid.index[row]
        raise StudyError(
            f"{path}: checkpoint {grid.columns[column]} lacks item {item} of task {task} ({int(holes.sum())} rows are missing); "
            "every checkpoint needs every item: add the rows, or leave the items out for all"
        )
    samples = _samples(table, path)
    ckpts = sorted(grid.columns, key=lambda ckpt: (samples.get(ckpt, 0.0), natural(ckpt)))
    clusters = [f"{task}\t{item}" for task, item in grid.index]
    if cluster:
        groups = table.groupby(["task", "item"])[cluster]
        if (mixed := groups.nunique() > 1).any():
            task, item = mixed.index[mixed][0]
            raise StudyError(f"{path}: item {item} of task {task} has several values of {cluster}; an item belongs to one cluster")
        clusters = groups.first().loc[grid.index].tolist()
    return ItemResults(
        ckpts=tuple(ckpts),
        samples=tuple(samples.get(ckpt, float(place)) for place, ckpt in enumerate(ckpts, start=1)),
        items=tuple(f"{task}\t{item}" for task, item in grid.index),
        tasks=tuple(task for task, _ in grid.index),
        clusters=tuple(clusters),
        values=grid[ckpts].to_numpy(float).T,
    )


def choose_from_items(
    path: Path, *, rule: Rule = "best", average: Average = "micro", cluster: str | None = None, seed: int = 0
) -> ItemSelectionRecord:
    """Scores, choice, best against last, optimism and racing in replay. `seed` is of the race's order of items."""
    found = read_items(path, cluster=cluster)
    values = [stats.mean(row, found.tasks, average) for row in found.values]
    candidates = [Candidate(*entry) for entry in zip(found.ckpts, found.samples, values, strict=True)]
    arms = {ckpt: found.one(place) for place, ckpt in enumerate(found.ckpts)}
    best, last = choose(candidates, rule="best").ckpt, choose(candidates, rule="last").ckpt
    errors = errors_to_best(best, arms, unit="fraction", average=average)
    halves = [in_first_half(cluster) for cluster in found.clusters]
    flattery = optimism(found.values, halves, found.tasks, average=average) if 0 < sum(halves) < len(halves) else math.nan
    return ItemSelectionRecord(
        spec_hash=digest([rule, average, cluster, seed]),
        content_hash=sha256_of(path)[:16],
        file=path.name,
        rule=rule,
        average=average,
        cluster=cluster,
        tasks={task: found.tasks.count(task) for task in dict.fromkeys(found.tasks)},
        scores=[_scores(found, place) for place in range(len(found.ckpts))],
        ckpt=choose(candidates, rule=rule, errors=errors).ckpt,
        best_against_last=_verdict(found, best, last, average=average),
        errors_to_best=errors,
        optimism=None if math.isnan(flattery) else flattery,
        racing=_race(found, average, candidates, best, seed=seed),
        **provenance("numpy", "pandas", "scipy"),
    )


def describe(record: ItemSelectionRecord) -> str:
    """The record in a few lines, for a person at a terminal."""
    lines = [f"{score.ckpt:>12}  micro {_text(score.micro)}  macro {_text(score.macro)}" for score in record.scores]
    lines.append(f"chosen: {record.ckpt} ({record.rule}, {record.average})")
    verdict = record.best_against_last
    said = "can be told from" if verdict.distinguishable else "cannot be told from"
    if verdict.low is None or verdict.high is None:
        single = f"a single {record.cluster or 'item'} tells nothing apart"
        lines.append(f"the best is the last, {verdict.last}" if verdict.best == verdict.last else single)
    else:
        lines.append(
            f"best, {verdict.best}, {said} the last, {verdict.last}: {verdict.difference:+.4f} "
            f"[{verdict.low:+.4f}, {verdict.high:+.4f}], p {verdict.p:.2g}; "
            f"{verdict.p_after_choice:.2g} corrected for having chosen the best of {len(record.scores)}"
        )
    racing = record.racing
    lines.append(f"racing would have scored {1 - racing.saved:.0%} of it and chosen {racing.ckpt} (best: {racing.full_choice})")
    return "\n".join(lines)


def _text(mean: Mean) -> str:
    interval = "" if mean.low is None or mean.high is None else f" [{mean.low:.4f}, {mean.high:.4f}]"
    return f"{mean.value:.4f}{interval}"


def _read(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """The wanted columns as they are, and `samples` if there is one, but all names as text, empty where there is none."""
    kind = path.name.lower()
    try:
        if kind.endswith((".csv", ".csv.gz")):
            header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
            columns = _columns(header.tolist(), wanted, path)
            table = pd.read_csv(path, dtype=str, keep_default_na=False)[columns]
        elif kind.endswith(".parquet"):
            file = pq.ParquetFile(path)
            columns = _columns(file.schema_arrow.names, wanted, path)
            table = file.read(columns).to_pandas(ignore_metadata=True).map(_decoded)
        else:
            raise StudyError(f"{path}: not a .csv, .csv.gz or .parquet file; convert it")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file; give the per-item results as --items FILE") from None
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise StudyError(f"{path}: cannot be read ({str(error).splitlines()[0]}); write it again as CSV or Parquet") from None
    if table.empty:
        raise StudyError(f"{path}: has no rows; write a row per checkpoint and item")
    names = [column for column in wanted if column != "correct"]
    return table.assign(**{name: table[name].astype(object).map(str).where(table[name].notna(), "") for name in names})


def _columns(found: Sequence[str], wanted: Sequence[str], path: Path) -> list[str]:
    """Those of the file's columns that are read. Raises StudyError if one is missing, or there twice."""
    if absent := [column for column in wanted if column not in found]:
        names = ", ".join(map(repr, found))
        remedy = f"{names} is one column: separate columns by commas" if len(found) == 1 else f"rename one of {names}"
        raise StudyError(f"{path}: no column {absent[0]!r}; {remedy}")
    columns = [column for column in dict.fromkeys([*wanted, "samples"]) if column in found]
    if twice := [column for column in columns if found.count(column) > 1]:
        raise StudyError(f"{path}: several columns {twice[0]!r}; keep one of them")
    return columns


def _decoded(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def _numbers(column: pd.Series[str], path: Path) -> Array:
    """`correct` as numbers between 0 and 1."""
    texts = column.map(lambda value: TRUTHS.get(str(value).strip().lower(), value))
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(float, na_value=math.nan)
    if (wrong := ~((numbers >= 0) & (numbers <= 1))).any():
        row = int(wrong.argmax())
        raise StudyError(
            f"{path}: row {row + 1}: correct is {_told(column, row)}; give true or false, 1 or 0, or a grade between 0 and 1"
        )
    return numbers


def _samples(table: pd.DataFrame, path: Path) -> dict[str, float]:
    """Checkpoint -> samples, empty without such a column."""
    if "samples" not in table.columns:
        return {}
    numbers = pd.to_numeric(table["samples"], errors="coerce").to_numpy(float, na_value=math.nan)
    if (wrong := ~(np.isfinite(numbers) & (numbers >= 0))).any():
        row = int(wrong.argmax())
        raise StudyError(f"{path}: row {row + 1}: samples is {_told(table['samples'], row)}; give a number, or no such column")
    grouped = pd.Series(numbers).groupby(table["ckpt"].to_numpy())
    if (mixed := grouped.nunique() > 1).any():
        ckpt = mixed.index[mixed][0]
        raise StudyError(f"{path}: checkpoint {ckpt} has several values of samples; a checkpoint has seen one number of them")
    return {str(ckpt): float(value) for ckpt, value in grouped.first().items()}


def _told(column: pd.Series[str], row: int) -> str:
    text = "" if column.isna().iloc[row] else str(column.iloc[row])
    return repr(text) if text else "empty"


def _row(mask: pd.Series[bool]) -> int:
    return int(mask.to_numpy().argmax()) + 1


def _scores(found: ItemResults, place: int) -> CheckpointScores:
    row, names = found.values[place], np.asarray(found.tasks)
    return CheckpointScores(
        ckpt=found.ckpts[place],
        samples=found.samples[place],
        num_items=len(row),
        micro=_mean(found.one(place), "micro"),
        macro=_mean(found.one(place), "macro"),
        tasks={task: float(row[names == task].mean()) for task in dict.fromkeys(found.tasks)},
    )


def _mean(arm: ItemScores, average: Average) -> Mean:
    found = stats.estimate(arm, "fraction", average=average)
    assert found is not None, "every checkpoint has every item"
    return Mean(value=found.value, low=found.low, high=found.high)


def _verdict(found: ItemResults, best: str, last: str, *, average: Average) -> PairedVerdict:
    """The paired comparison; of a checkpoint with itself, or on a single item or cluster, nothing is distinguishable."""
    first, second = (found.one(found.ckpts.index(ckpt)) for ckpt in (best, last))
    difference = stats.paired_difference(first, second, unit="fraction", average=average)
    gap = first.values[0] - second.values[0]
    binary = bool(np.isin([first.values, second.values], (0.0, 1.0)).all())
    wins, losses = int((gap > 0).sum()), int((gap < 0).sum())
    p = 1.0 if difference is None else difference.p
    corrected = min(1.0, p * max(len(found.ckpts) - 1, 1))
    return PairedVerdict(
        best=best,
        last=last,
        difference=stats.mean(gap, found.tasks, average),
        low=None if difference is None or best == last else difference.low,
        high=None if difference is None or best == last else difference.high,
        p=p,
        only_best=wins,
        only_last=losses,
        mcnemar_p=_mcnemar(wins, losses) if binary else None,
        distinguishable=p <= ALPHA,
        p_after_choice=corrected,
        distinguishable_after_choice=corrected <= ALPHA,
    )


def _mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of the items that only one of two got right."""
    return float(tests.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _race(found: ItemResults, average: Average, candidates: Sequence[Candidate], best: str, *, seed: int) -> Racing:
    order, rules = random_order(found.items, seed=seed), Race()
    values = found.values[:, order]
    raced = race(
        lambda place, num_seen: values[place, :num_seen],
        item_weights(found.tasks, average)[order],
        num_candidates=len(values),
        at=looks(len(order), first=rules.first, growth=rules.growth),
        error_rate=rules.error_rate,
    )
    ckpt = choose([candidates[place] for place in raced.survivors], rule="best").ckpt
    return Racing(
        ckpt=ckpt,
        full_choice=best,
        same_choice=ckpt == best,
        error_rate=rules.error_rate,
        num_items=dict(zip(found.ckpts, raced.num_items, strict=True)),
        saved=raced.saved,
    )
