"""What a study's screen has saved and what it may have cost: the numbers, per model and data set.

A competitor that was stopped and trained to its end all the same, for the audit or for another study, is one that is checked: its
final score says whether stopping it was an error. Rank correlations are over all that have a final score; where a rule has stopped
the weak ones, these are the others, and the correlations are nearer to zero than they would be over all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from pydantic import Field
from scipy import stats

from sftstudy import records
from sftstudy.config import Screen
from sftstudy.paths import Layout
from sftstudy.records import DecisionRecord, Entry, Ruling, TrainingRecord
from sftstudy.screen import rung_name, rung_step
from sftstudy.spec import PlannedStage
from sftstudy.stats.ranks import rank_correlation
from sftstudy.tables.aggregate import Cell, Pair, Results, compare, make_cell
from sftstudy.tables.collect import read_training
from sftstudy.tables.early import Competitor, competitors, final_score, stage_metrics

LEVEL = 0.95

NUM_DRAWS = 2000
"""Random choices that chance is the mean of."""


class Correlation(Entry):
    """Spearman's rho of a signal with the final score, within groups, and its interval; None where too few have both."""

    rho: float | None
    low: float | None
    high: float | None
    num_competitors: int


class RungReport(Entry):
    """What was decided at a rung, how far its signals tell the final scores, and what all stops up to it save and lose."""

    rung: str
    calls: dict[str, int] = Field(description="go, stop, audit -> competitors")
    signals: dict[str, dict[str, float]] = Field(description="competitor -> signal -> its value")
    samples: dict[str, int] = Field(description="competitor -> samples that a run of it had seen there")
    correlations: dict[str, Correlation]
    saved: float = Field(description="share of the planned samples that the stops up to here save, were none audited")
    regret: float | None = Field(description="best final score of those stopped up to here less the best of the others, at least 0")
    regret_at_random: float | None = Field(description="the same in the mean over random choices of as many, within groups")


class CompetitorReport(Entry):
    """A recipe with its seeds, or a run. `stopped_at` is None if it was kept; samples count all of its own stages."""

    name: str
    group: list[str]
    stopped_at: str | None
    audited: bool
    final: float | None = Field(description="more is better")
    low: float | None = Field(description="its 95 % interval")
    high: float | None
    samples_planned: int
    samples_allowed: int = Field(description="what the study's own decisions let it train; other studies may want more")
    samples_trained: int
    hours: float = Field(description="of processes, GPU-hours where each has a GPU")
    hours_saved: float = Field(description="by the pace of finished stages of its batch size, else by its own")


class PairReport(Entry):
    """The screen of a study on one model and data set."""

    model: str
    data: str
    device: str = Field(description="what was trained on")
    rungs: list[RungReport]
    num_stopped: int
    num_checked: int = Field(description="stopped ones whose final score is known")
    num_false_stops: int = Field(description="checked ones that ended above the best that was kept: they would have won")
    false_stop_rate: float | None = Field(description="of the checked ones, with its exact interval")
    false_stop_low: float | None
    false_stop_high: float | None
    num_above_median: int = Field(description="checked ones that ended above the median of those kept")
    regret: float | None = Field(description="best checked less best kept, at least 0; a lower bound unless all are checked")
    lead: float | None = Field(description="best checked less best kept, paired by items, with its 95 % interval")
    lead_low: float | None
    lead_high: float | None
    samples_saved: float = Field(description="share of the planned samples that were not trained, the audit's not counted as saved")
    samples_saved_alone: float = Field(description="the same if no other study had wanted any of the stopped")
    samples_saved_unaudited: float = Field(description="the same if none had been audited either")
    hours: float
    hours_saved: float
    competitors: list[CompetitorReport]


@dataclass(frozen=True)
class _Trained:
    """A planned stage with its record, if it has one."""

    stage: PlannedStage
    record: TrainingRecord | None

    @property
    def batch(self) -> int:
        return int(self.stage.factors["effective_batch_size"])

    @property
    def samples(self) -> int:
        return self.record.num_steps * self.batch if self.record else 0


def audit_pair(results: Results, screen: Screen, pair: Pair, *, layout: Layout) -> PairReport:
    """The report on one model and data set, as far as there are decisions and scores."""
    found = {competitor.name: competitor for competitor in competitors(results.study, screen, pair)}
    finals = {name: final_score(results, screen.benchmark, pair, competitor) for name, competitor in found.items()}
    decisions = {
        rung_name(rung): _rulings(results.study.name, rung_name(rung), pair, list(found.values()), layout=layout)
        for rung in screen.rungs
    }
    calls = {name: {rung: rulings.get(name) for rung, rulings in decisions.items()} for name in found}
    trained = {
        name: [[_Trained(stage, read_training(stage, layout=layout)) for stage in member.stages] for member in competitor.members]
        for name, competitor in found.items()
    }
    paces = _paces([one for runs in trained.values() for one in _flat(runs)], layout=layout)
    cells = {name: _final_cell(results, screen.benchmark, pair, competitor) for name, competitor in found.items()}
    rows = [_competitor(found[name], calls[name], finals[name], cells[name], trained[name], paces) for name in found]
    kept = {row.name: row.final for row in rows if row.stopped_at is None and row.final is not None}
    stopped = [row for row in rows if row.stopped_at is not None]
    checked = {row.name: row.final for row in stopped if row.final is not None}
    false_stops = sum(final > max(kept.values()) for final in checked.values()) if kept else 0
    interval = stats.binomtest(false_stops, len(checked)).proportion_ci(LEVEL) if checked and kept else None
    planned = sum(row.samples_planned for row in rows)
    return PairReport(
        model=pair[0],
        data=pair[1],
        device=next((one.record.device for runs in trained.values() for one in _flat(runs) if one.record), ""),
        rungs=[_rung(rung, rulings, rows, finals, trained) for rung, rulings in decisions.items()],
        num_stopped=len(stopped),
        num_checked=len(checked),
        num_false_stops=false_stops,
        false_stop_rate=false_stops / len(checked) if interval else None,
        false_stop_low=float(interval.low) if interval else None,
        false_stop_high=float(interval.high) if interval else None,
        num_above_median=sum(final > median(kept.values()) for final in checked.values()) if kept else 0,
        regret=max(0.0, max(checked.values()) - max(kept.values())) if checked and kept else None,
        **_lead(results, screen.benchmark, cells, checked, kept),
        samples_saved=1 - sum(row.samples_trained for row in rows) / planned,
        samples_saved_alone=1 - sum(row.samples_allowed for row in rows) / planned,
        samples_saved_unaudited=1 - sum(_samples(trained[row.name], row.stopped_at) for row in rows) / planned,
        hours=sum(row.hours for row in rows),
        hours_saved=sum(row.hours_saved for row in rows),
        competitors=rows,
    )


def _rulings(study: str, rung: str, pair: Pair, found: Sequence[Competitor], *, layout: Layout) -> dict[str, Ruling]:
    """Competitor -> what was decided of it at a rung; empty as long as nothing is decided."""
    path = layout.screens(study) / f"{rung}.json"
    if not path.exists():
        return {}
    decided = records.read_record(path, DecisionRecord).rulings
    keys = {c.name: f"{pair[0]}/{pair[1]}/{c.recipe}/seed{c.members[0].seed}/{c.members[0].stages[0].stage}" for c in found}
    return {name: decided[key] for name, key in keys.items() if key in decided and decided[key].place is not None}


# --- competitors -------------------------------------------------------------------------------------------------------


def _competitor(
    competitor: Competitor,
    calls: dict[str, Ruling | None],
    final: float | None,
    cell: Cell,
    trained: list[list[_Trained]],
    paces: dict[int, float],
) -> CompetitorReport:
    ended = [(rung, ruling.call) for rung, ruling in calls.items() if ruling and ruling.call in ("stop", "audit")]
    stopped_at, audited = (ended[0][0], ended[0][1] == "audit") if ended else (None, False)
    missing = [(one, one.stage.num_steps * one.batch - one.samples) for one in _flat(trained)]
    estimate = cell.estimate if final is not None else None
    ends = (estimate.low, estimate.high) if estimate and estimate.low is not None and estimate.high is not None else None
    if ends and not cell.higher_is_better:
        ends = (-ends[1], -ends[0])
    return CompetitorReport(
        name=competitor.name,
        group=list(competitor.group),
        stopped_at=stopped_at,
        audited=audited,
        final=final,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        samples_planned=_samples(trained, None),
        samples_allowed=_samples(trained, None if audited else stopped_at),
        samples_trained=sum(one.samples for one in _flat(trained)),
        hours=sum(one.record.time_s * one.record.num_processes for one in _flat(trained) if one.record) / 3600,
        hours_saved=sum(samples * paces.get(one.batch, 0.0) for one, samples in missing) / 3600,
    )


def _final_cell(results: Results, benchmark: str, pair: Pair, competitor: Competitor) -> Cell:
    """A competitor's peaks with their items."""
    seeds = {member.seed for member in competitor.members}
    runs = [run for run in results.runs(pair, competitor.recipe, benchmark) if run.seed in seeds]
    return make_cell(runs, "peak", results.study.benchmarks[benchmark], lambda point: results.items_of(point, benchmark))


def _lead(
    results: Results, benchmark: str, cells: dict[str, Cell], checked: dict[str, float], kept: dict[str, float]
) -> dict[str, float | None]:
    """The best that was stopped and checked less the best that was kept; None without either."""
    nothing: dict[str, float | None] = dict.fromkeys(("lead", "lead_low", "lead_high"))
    if not checked or not kept:
        return nothing
    first, second = cells[max(checked, key=checked.__getitem__)], cells[max(kept, key=kept.__getitem__)]
    if not first.higher_is_better:
        first, second = second, first
    difference = compare(first, second, results.study.benchmarks[benchmark])
    return {"lead": difference.value, "lead_low": difference.low, "lead_high": difference.high} if difference else nothing


def _flat(runs: list[list[_Trained]]) -> list[_Trained]:
    return [one for stages in runs for one in stages]


def _samples(trained: list[list[_Trained]], stopped_at: str | None) -> int:
    """Samples of a competitor's own stages, of the first one up to a rung and of no other if it is stopped there."""
    total = 0
    for stages in trained:
        for one in stages:
            steps = one.stage.num_steps
            if stopped_at is not None:
                steps = rung_step(float(stopped_at), num_steps=steps) if one is stages[0] else 0
            total += steps * one.batch
    return total


def _paces(trained: Sequence[_Trained], *, layout: Layout) -> dict[int, float]:
    """Batch size -> seconds of a process per sample, in the median step: the first steps, and all of a stopped stage, are slower.

    Of finished stages where there are any of that batch size, else of those that were stopped.
    """
    found: dict[tuple[int, bool], list[float]] = {}
    for one in trained:
        if one.record and one.record.num_steps:
            second = median(step.time_s for step in stage_metrics(one.stage, layout=layout)) * one.record.num_processes
            found.setdefault((one.batch, one.record.status == records.FINISHED), []).append(second / one.batch)
    return {batch: median(found.get((batch, True)) or found[batch, False]) for batch in {batch for batch, _ in found}}


# --- rungs -------------------------------------------------------------------------------------------------------------


def _rung(
    rung: str,
    rulings: dict[str, Ruling],
    rows: Sequence[CompetitorReport],
    finals: dict[str, float | None],
    trained: dict[str, list[list[_Trained]]],
) -> RungReport:
    stopped = {row.name: row.stopped_at for row in rows if row.stopped_at is not None and float(row.stopped_at) <= float(rung)}
    spent = sum(_samples(trained[row.name], stopped.get(row.name)) for row in rows)
    known = [row for row in rows if row.final is not None]
    return RungReport(
        rung=rung,
        calls={call: sum(ruling.call == call for ruling in rulings.values()) for call in ("go", "stop", "audit")},
        signals={
            name: {"grad_norm": ruling.grad_norm, "loss": ruling.loss}
            for name, ruling in rulings.items()
            if ruling.grad_norm is not None and ruling.loss is not None
        },
        samples={name: _samples(trained[name][:1], rung) for name in rulings},
        correlations={signal: _correlation(rulings, signal, finals) for signal in ("grad_norm", "loss")},
        saved=1 - spent / sum(row.samples_planned for row in rows),
        regret=_regret(known, stopped),
        regret_at_random=_regret_at_random(known, stopped),
    )


def _regret(known: Sequence[CompetitorReport], stopped: dict[str, str]) -> float | None:
    """The best of those with a final score less the best of these that were not stopped; None if all or none of these were."""
    finals = {row.name: row.final for row in known if row.final is not None}
    kept = [final for name, final in finals.items() if name not in stopped]
    return max(finals.values()) - max(kept) if 0 < len(kept) < len(finals) else None


def _regret_at_random(known: Sequence[CompetitorReport], stopped: dict[str, str]) -> float | None:
    """The same if as many of each group were stopped at random."""
    if _regret(known, stopped) is None:
        return None
    groups: dict[tuple[str, ...], list[CompetitorReport]] = {}
    for row in known:
        groups.setdefault(tuple(row.group), []).append(row)
    return fmean(_regret(known, dict.fromkeys(names, "")) or 0.0 for names in _draws(list(groups.values()), stopped))


def _draws(groups: Sequence[Sequence[CompetitorReport]], stopped: dict[str, str]) -> Iterator[list[str]]:
    """Names drawn in place of those that were stopped, as many of each group, the same every time."""
    chance = random.Random(1)
    for _ in range(NUM_DRAWS):
        yield [row.name for rows in groups for row in chance.sample(list(rows), k=sum(one.name in stopped for one in rows))]


def _correlation(rulings: dict[str, Ruling], signal: str, finals: dict[str, float | None]) -> Correlation:
    """Of those that have a final score, within the groups that compete."""
    known = [(ruling, final) for name, ruling in rulings.items() if (final := finals[name]) is not None]
    found = (
        rank_correlation(
            [getattr(ruling, signal) for ruling, _ in known],
            [final for _, final in known],
            groups=[tuple(ruling.group) for ruling, _ in known],
            level=LEVEL,
        )
        if known
        else None
    )
    if found is None:
        return Correlation(rho=None, low=None, high=None, num_competitors=len(known))
    return Correlation(rho=found.value, low=found.low, high=found.high, num_competitors=len(known))
