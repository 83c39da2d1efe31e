"""What a study's screen has saved and what it may have cost: `audit.json`, and the same to read, `audit.md`.

A competitor that was stopped and trained to its end all the same, for the audit or for another study, is one that is checked: its
final score says whether stopping it was an error. Rank correlations are over all that have a final score; where a rule has stopped
the weak ones, these are the others, and the correlations are nearer to zero than they would be over all.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from pydantic import Field
from scipy import stats

from sftstudy import records
from sftstudy.config import Screen
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import DecisionRecord, Entry, Ruling
from sftstudy.screen import rung_name, rung_step
from sftstudy.spec import StudySpec
from sftstudy.stats.ranks import rank_correlation
from sftstudy.tables.aggregate import Pair, Results, load_results
from sftstudy.tables.collect import read_training
from sftstudy.tables.early import Competitor, competitors, final_score
from sftstudy.tables.printed import number_text

LEVEL = 0.95


class Correlation(Entry):
    """Spearman's rho of a signal with the final score, within groups, and its interval; None where too few have both."""

    rho: float | None
    low: float | None
    high: float | None
    num_competitors: int


class RungReport(Entry):
    """What was decided at a rung, and how far its signals tell the final scores."""

    rung: str
    calls: dict[str, int] = Field(description="go, stop, audit -> competitors")
    correlations: dict[str, Correlation]


class CompetitorReport(Entry):
    """A recipe with its seeds, or a run. `stopped_at` is None if it was kept; samples count all of its own stages."""

    name: str
    group: list[str]
    stopped_at: str | None
    audited: bool
    final: float | None
    samples_planned: int
    samples_allowed: int = Field(description="what the study's own decisions let it train; other studies may want more")
    samples_trained: int
    process_hours: float
    process_hours_saved: float


class PairReport(Entry):
    """The screen of a study on one model and data set."""

    model: str
    data: str
    rungs: list[RungReport]
    num_stopped: int
    num_checked: int = Field(description="stopped ones whose final score is known")
    num_false_stops: int = Field(description="checked ones that ended above the best that was kept: they would have won")
    false_stop_rate: float | None = Field(description="of the checked ones, with its exact interval")
    false_stop_low: float | None
    false_stop_high: float | None
    num_above_median: int = Field(description="checked ones that ended above the median of those kept")
    regret: float | None = Field(description="best checked less best kept, at least 0; a lower bound unless all are checked")
    samples_saved: float = Field(description="share of the planned samples that were not trained, the audit's not counted as saved")
    samples_saved_alone: float = Field(description="the same if no other study had wanted any of the stopped")
    process_hours: float
    process_hours_saved: float
    competitors: list[CompetitorReport]


def audit_study(study: StudySpec, *, layout: Layout) -> None:
    """Write `audit.json` and `audit.md` of a study. Raises StudyError if it has no screen."""
    if study.screen is None:
        raise StudyError(f"studies/{study.name}.yaml: screen: missing; there is nothing to audit")
    results = load_results(study, layout=layout)
    reports = [audit_pair(results, study.screen, pair, layout=layout) for pair in results.pairs]
    folder = layout.study_folder(study.name) / "screen"
    text = ",\n".join(report.model_dump_json(indent=1) for report in reports)
    records.write_text(folder / "audit.json", f"[{text}]\n")
    records.write_text(folder / "audit.md", "\n".join(to_markdown(study, study.screen, report) for report in reports))


def audit_pair(results: Results, screen: Screen, pair: Pair, *, layout: Layout) -> PairReport:
    """The report on one model and data set, as far as there are decisions and scores."""
    found = competitors(results.study, screen, pair)
    finals = {c.name: final_score(results, screen.benchmark, pair, c) for c in found}
    decisions = {
        rung_name(rung): _rulings(results.study.name, rung_name(rung), pair, found, layout=layout) for rung in screen.rungs
    }
    rows = [
        _competitor(c, {rung: rulings.get(c.name) for rung, rulings in decisions.items()}, finals[c.name], layout) for c in found
    ]
    kept = [row.final for row in rows if row.stopped_at is None and row.final is not None]
    stopped = [row for row in rows if row.stopped_at is not None]
    checked = [row.final for row in stopped if row.final is not None]
    false_stops = sum(final > max(kept) for final in checked) if kept else 0
    interval = stats.binomtest(false_stops, len(checked)).proportion_ci(LEVEL) if checked and kept else None
    planned, trained = sum(row.samples_planned for row in rows), sum(row.samples_trained for row in rows)
    return PairReport(
        model=pair[0],
        data=pair[1],
        rungs=[
            RungReport(
                rung=rung,
                calls={call: sum(r.call == call for r in rulings.values()) for call in ("go", "stop", "audit")},
                correlations={signal: _correlation(rulings, signal, finals) for signal in ("grad_norm", "loss")},
            )
            for rung, rulings in decisions.items()
        ],
        num_stopped=len(stopped),
        num_checked=len(checked),
        num_false_stops=false_stops,
        false_stop_rate=false_stops / len(checked) if interval else None,
        false_stop_low=float(interval.low) if interval else None,
        false_stop_high=float(interval.high) if interval else None,
        num_above_median=sum(final > median(kept) for final in checked) if kept else 0,
        regret=max(0.0, max(checked) - max(kept)) if checked and kept else None,
        samples_saved=1 - trained / planned,
        samples_saved_alone=1 - sum(row.samples_allowed for row in rows) / planned,
        process_hours=sum(row.process_hours for row in rows),
        process_hours_saved=sum(row.process_hours_saved for row in rows),
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


def _competitor(competitor: Competitor, calls: dict[str, Ruling | None], final: float | None, layout: Layout) -> CompetitorReport:
    ended = [(rung, ruling.call) for rung, ruling in calls.items() if ruling and ruling.call in ("stop", "audit")]
    stopped_at = ended[0][0] if ended and ended[0][1] == "stop" else None
    planned = allowed = trained = 0
    seconds = saved = 0.0
    for member in competitor.members:
        pace = 0.0  # of a process, per sample
        for stage in member.stages:
            batch = int(stage.factors["effective_batch_size"])
            record = read_training(stage, layout=layout)
            steps = record.num_steps if record else 0
            if record and steps:
                pace = record.time_s * record.num_processes / (steps * batch)
                seconds += record.time_s * record.num_processes
            planned += stage.num_steps * batch
            if stopped_at is None:
                allowed += stage.num_steps * batch
            elif stage is member.stages[0]:
                allowed += rung_step(float(stopped_at), num_steps=stage.num_steps) * batch
            trained += steps * batch
            saved += (stage.num_steps - steps) * batch * pace
    return CompetitorReport(
        name=competitor.name,
        group=list(competitor.group),
        stopped_at=ended[0][0] if ended else None,
        audited=bool(ended) and ended[0][1] == "audit",
        final=final,
        samples_planned=planned,
        samples_allowed=allowed,
        samples_trained=trained,
        process_hours=seconds / 3600,
        process_hours_saved=saved / 3600,
    )


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


# --- to read -----------------------------------------------------------------------------------------------------------


def to_markdown(study: StudySpec, screen: Screen, report: PairReport) -> str:
    """The report as a page."""
    lines = [
        f"# Early stopping in study {study.name}: {report.model}, {report.data}",
        "",
        f"Rule: {screen.rule.model_dump_json()}; final score: peak on {screen.benchmark}"
        f"{', mean over seeds' if screen.seeds == 'together' else ''}.",
        "",
        f"- Saved: {report.samples_saved:.0%} of the samples ({report.samples_saved_alone:.0%} without other studies' wishes),"
        f" and, by the pace until then, {report.process_hours_saved:.2g} process-hours; {report.process_hours:.2g} were spent.",
        f"- Stopped: {report.num_stopped} of {len(report.competitors)}; the final score of {report.num_checked} of these is known.",
        f"- False stops, above the best that was kept: {_rate(report)}; above the median of the kept: {report.num_above_median}.",
        f"- Regret: {_regret(report)}.",
        "",
        "| rung | go | stop | audit | final score with gradient norm | with loss |",
        "|---|---|---|---|---|---|",
        *(
            f"| {rung.rung} | {rung.calls['go']} | {rung.calls['stop']} | {rung.calls['audit']} "
            f"| {_rho(rung.correlations['grad_norm'])} | {_rho(rung.correlations['loss'])} |"
            for rung in report.rungs
        ),
        "",
        "| competitor | outcome | final score | samples trained | of planned |",
        "|---|---|---|---|---|",
        *(
            f"| {row.name} | {_outcome(row)} | {'' if row.final is None else number_text(row.final)} "
            f"| {row.samples_trained:,} | {row.samples_planned:,} |"
            for row in report.competitors
        ),
        "",
        "Correlations are Spearman's rho over those with a final score, with 95 % intervals (Bonett and Wright). A rule that works"
        " leaves them weaker than they are over all.",
        "",
    ]
    return "\n".join(lines)


def _outcome(row: CompetitorReport) -> str:
    if row.stopped_at is None:
        return "kept"
    return f"{'audited, stopped' if row.audited else 'stopped'} at {row.stopped_at}"


def _rate(report: PairReport) -> str:
    if report.false_stop_rate is None:
        return "not known, none was checked"
    return (
        f"{report.num_false_stops} of {report.num_checked} checked, "
        f"{report.false_stop_rate:.0%} [{report.false_stop_low:.0%}, {report.false_stop_high:.0%}]"
    )


def _regret(report: PairReport) -> str:
    if report.regret is None:
        return "not known" if report.num_stopped else "none, nothing was stopped"
    bound = "" if report.num_checked == report.num_stopped else "at least "
    return f"{bound}{number_text(report.regret)}"


def _rho(correlation: Correlation) -> str:
    if correlation.rho is None:
        return f"(n = {correlation.num_competitors})"
    interval = "" if correlation.low is None else f" [{correlation.low:.2f}, {correlation.high:.2f}]"
    return f"{correlation.rho:.2f}{interval} (n = {correlation.num_competitors})"
