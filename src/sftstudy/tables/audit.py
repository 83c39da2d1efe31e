"""What a study's screen has saved and what it may have cost: the numbers, per model and data set.

A competitor that was stopped and trained to its end all the same, for the audit or for another study, is one that is checked: its
final score says whether stopping it was an error. Rank correlations are over all that have a final score; where a rule has stopped
the weak ones, these are the others, and the correlations are nearer to zero than they would be over all.

What stops cost is known once all rungs have decided and all that were kept have a final score: against some of these a stopped one
seems better than it is. Rules compare within groups, and so do false stops; regret is of the best of all groups.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from pydantic import Field
from scipy import stats

from sftstudy import records
from sftstudy.paths import Layout
from sftstudy.records import DecisionRecord, Entry, Ruling, TrainingRecord
from sftstudy.screen import rung_step
from sftstudy.spec import PlannedScreen, PlannedStage
from sftstudy.stats.ranks import rank_correlation
from sftstudy.tables.aggregate import Cell, Pair, Results, compare, make_cell
from sftstudy.tables.collect import Missing, read_decisions, read_training
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
    regret: float | None = Field(
        description="best final score of those stopped up to here less the best kept at all rungs, at least 0"
    )
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
    samples_saved: int = Field(
        description="left out by a stop, and trained for no other study; known from the stopped stage's record"
    )
    samples_open: int = Field(description="neither trained, by today's spec, nor saved")
    hours: float = Field(description="of processes, GPU-hours where each has a GPU")
    hours_saved: float = Field(description="by the pace of finished stages of its batch size, else by its own")


class PairReport(Entry):
    """The screen of a study on one model and data set."""

    model: str
    data: str
    device: str = Field(description="what was trained on")
    rungs: list[RungReport]
    undecided: dict[str, str] = Field(description="rung without a decision of today's spec -> why")
    num_kept: int
    num_kept_scored: int = Field(
        description="kept ones whose final score is known; unless all are, nothing is said of what is lost"
    )
    num_stopped: int
    num_checked: int = Field(description="stopped ones whose final score is known")
    num_false_stops: int | None = Field(
        None, description="checked ones that ended above the best that was kept of their group: they would have won"
    )
    false_stop_rate: float | None = Field(None, description="of the checked ones, with its exact interval")
    false_stop_low: float | None = None
    false_stop_high: float | None = None
    num_above_median: int | None = Field(None, description="checked ones that ended above the median of those kept of their group")
    regret: float | None = Field(None, description="best checked less best kept, at least 0; a lower bound unless all are checked")
    lead: float | None = Field(None, description="best checked less best kept, paired by items, with its 95 % interval")
    lead_low: float | None = None
    lead_high: float | None = None
    samples_saved: float = Field(description="share of the planned samples that stops left out, the audit's not counted as saved")
    samples_open: float = Field(description="share that is neither trained nor saved")
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

    @property
    def samples_planned(self) -> int:
        return self.stage.num_steps * self.batch


def audit_pair(results: Results, screen: PlannedScreen, pair: Pair, *, layout: Layout) -> PairReport:
    """The report on one model and data set, as far as there are decisions and scores."""
    found = {competitor.name: competitor for competitor in competitors(results.study, screen, pair)}
    finals = {name: final_score(results, screen.benchmark, pair, competitor) for name, competitor in found.items()}
    decided, undecided = _decided(read_decisions(results.study.name, screen, layout=layout))
    decisions = {rung: _rulings(decided[rung], pair, list(found.values())) if rung in decided else {} for rung in screen.decisions}
    calls = {name: {rung: rulings.get(name) for rung, rulings in decisions.items()} for name in found}
    trained = {
        name: [[_Trained(stage, read_training(stage, layout=layout)) for stage in member.stages] for member in competitor.members]
        for name, competitor in found.items()
    }
    paces = _paces([one for runs in trained.values() for one in _flat(runs)], layout=layout)
    cells = {name: _final_cell(results, screen.benchmark, pair, competitor) for name, competitor in found.items()}
    rows = [_competitor(found[name], calls[name], finals[name], cells[name], trained[name], paces) for name in found]
    kept = {row.name: row.final for row in rows if row.stopped_at is None and row.final is not None}
    checked = {row.name: row.final for row in rows if row.stopped_at is not None and row.final is not None}
    num_stopped = sum(row.stopped_at is not None for row in rows)
    settled = not undecided and len(kept) == len(rows) - num_stopped
    planned = sum(row.samples_planned for row in rows)
    return PairReport(
        model=pair[0],
        data=pair[1],
        device=next((one.record.device for runs in trained.values() for one in _flat(runs) if one.record), ""),
        rungs=[_rung(rung, rulings, rows, finals, trained, settled=settled) for rung, rulings in decisions.items()],
        undecided=undecided,
        num_kept=len(rows) - num_stopped,
        num_kept_scored=len(kept),
        num_stopped=num_stopped,
        num_checked=len(checked),
        **(_lost(checked, kept, {name: one.group for name, one in found.items()}) if settled else {}),
        **(_lead(results, screen.benchmark, cells, checked, kept) if settled else {}),
        samples_saved=sum(row.samples_saved for row in rows) / planned,
        samples_open=sum(row.samples_open for row in rows) / planned,
        samples_saved_alone=1 - sum(row.samples_allowed for row in rows) / planned,
        samples_saved_unaudited=1 - sum(_samples(trained[row.name], row.stopped_at) for row in rows) / planned,
        hours=sum(row.hours for row in rows),
        hours_saved=sum(row.hours_saved for row in rows),
        competitors=rows,
    )


def _decided(found: Mapping[str, DecisionRecord | Missing]) -> tuple[dict[str, DecisionRecord], dict[str, str]]:
    """Rung -> its decision, and rung -> why it has none: one that follows a rung without a decision does not count either."""
    decided: dict[str, DecisionRecord] = {}
    undecided: dict[str, str] = {}
    for rung, decision in found.items():
        if isinstance(decision, Missing):
            undecided[rung] = decision.reason
        elif undecided:
            undecided[rung] = "no decision before it"
        else:
            decided[rung] = decision
    return decided, undecided


def _rulings(decision: DecisionRecord, pair: Pair, found: Sequence[Competitor]) -> dict[str, Ruling]:
    """Competitor -> what was decided of it at a rung, if it was still in."""
    decided = decision.rulings
    keys = {c.name: f"{pair[0]}/{pair[1]}/{c.recipe}/seed{c.members[0].seed}/{c.members[0].stages[0].stage}" for c in found}
    return {name: decided[key] for name, key in keys.items() if decided[key].place is not None}


def _lost(checked: dict[str, float], kept: dict[str, float], groups: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """What is said of the stops of those that are checked. Of each group at least one is kept."""
    rivals: dict[tuple[str, ...], list[float]] = {}
    for name, final in kept.items():
        rivals.setdefault(groups[name], []).append(final)
    false_stops = sum(final > max(rivals[groups[name]]) for name, final in checked.items())
    found = {
        "num_false_stops": false_stops,
        "num_above_median": sum(final > median(rivals[groups[name]]) for name, final in checked.items()),
    }
    if not checked:
        return found
    interval = stats.binomtest(false_stops, len(checked)).proportion_ci(LEVEL)
    return found | {
        "false_stop_rate": false_stops / len(checked),
        "false_stop_low": float(interval.low),
        "false_stop_high": float(interval.high),
        "regret": max(0.0, max(checked.values()) - max(kept.values())),
    }


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
    stop = None if audited else stopped_at
    saved = [(one, samples) for stages in trained for one, samples in zip(stages, _saved(stages, stop), strict=True)]
    num_planned, num_trained = _samples(trained, None), sum(one.samples for one in _flat(trained))
    num_saved = sum(samples for _, samples in saved)
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
        samples_planned=num_planned,
        samples_allowed=_samples(trained, stop),
        samples_trained=num_trained,
        samples_saved=num_saved,
        samples_open=num_planned - num_trained - num_saved,
        hours=sum(one.record.time_s * one.record.num_processes for one in _flat(trained) if one.record) / 3600,
        hours_saved=sum(samples * paces.get(one.batch, 0.0) for one, samples in saved) / 3600,
    )


def _final_cell(results: Results, benchmark: str, pair: Pair, competitor: Competitor) -> Cell:
    """A competitor's peaks with their items."""
    seeds = {member.seed for member in competitor.members}
    runs = [run for run in results.runs(pair, competitor.recipe, benchmark) if run.seed in seeds]
    return make_cell(runs, "peak", results.study.benchmarks[benchmark], lambda point: results.items_of(point, benchmark))


def _lead(
    results: Results, benchmark: str, cells: dict[str, Cell], checked: dict[str, float], kept: dict[str, float]
) -> dict[str, Any]:
    """The best that was stopped and checked less the best that was kept; nothing if none is checked."""
    if not checked:
        return {}
    first, second = cells[max(checked, key=checked.__getitem__)], cells[max(kept, key=kept.__getitem__)]
    if not first.higher_is_better:
        first, second = second, first
    difference = compare(first, second, results.study.benchmarks[benchmark])
    return {"lead": difference.value, "lead_low": difference.low, "lead_high": difference.high} if difference else {}


def _flat(runs: list[list[_Trained]]) -> list[_Trained]:
    return [one for stages in runs for one in stages]


def _samples(trained: list[list[_Trained]], stopped_at: str | None) -> int:
    """Samples of a competitor's own stages, if it is stopped at a rung or at none."""
    return sum(sum(_allowed(stages, stopped_at)) for stages in trained)


def _allowed(stages: Sequence[_Trained], stopped_at: str | None) -> list[int]:
    """Samples of each of a run's own stages: of the first one up to a rung and of no other, if it is stopped there."""
    if stopped_at is None:
        return [one.samples_planned for one in stages]
    first, *behind = stages
    return [rung_step(float(stopped_at), num_steps=first.stage.num_steps) * first.batch, *(0 for _ in behind)]


def _saved(stages: Sequence[_Trained], stopped_at: str | None) -> list[int]:
    """Samples of each of a run's own stages that its stop saved: none before its record says so, as other studies may train it."""
    first = stages[0].record
    if stopped_at is None or first is None or first.status == records.FINISHED:
        return [0 for _ in stages]
    allowed = _allowed(stages, stopped_at)
    return [one.samples_planned - max(one.samples, samples) for one, samples in zip(stages, allowed, strict=True)]


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
    *,
    settled: bool,
) -> RungReport:
    stopped = {row.name: row.stopped_at for row in rows if row.stopped_at is not None and float(row.stopped_at) <= float(rung)}
    spent = sum(_samples(trained[row.name], stopped.get(row.name)) for row in rows)
    # who stops later is neither stopped here nor kept
    compared = [row for row in rows if row.final is not None and (row.stopped_at is None or row.name in stopped)] if settled else []
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
        regret=_regret(compared, stopped),
        regret_at_random=_regret_at_random(compared, stopped),
    )


def _regret(known: Sequence[CompetitorReport], stopped: dict[str, str]) -> float | None:
    """The best of those with a final score less the best of these that were not stopped; None if none was."""
    finals = {row.name: row.final for row in known if row.final is not None}
    kept = [final for name, final in finals.items() if name not in stopped]
    return max(finals.values()) - max(kept) if len(kept) < len(finals) else None


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
