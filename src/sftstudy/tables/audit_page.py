"""An audit to read: a page of HTML, with its style and figures inside, and the same numbers as Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from sftstudy.config import MarginRule, MedianRule, PaperRule, RandomRule, Screen, TopRule
from sftstudy.spec import StudySpec
from sftstudy.tables.audit import CompetitorReport, Correlation, PairReport, RungReport
from sftstudy.tables.audit_figures import SIGNALS
from sftstudy.tables.figures import STYLE
from sftstudy.tables.figures import WIDTH as TWO_COLUMNS
from sftstudy.tables.pieces import document, interval_chart, joined, table_of
from sftstudy.tables.printed import number_text
from sftstudy.tables.style import CLAIMS_STYLE

UNLIKE = 1.5
"""Ratio of samples seen at a rung beyond which signals are of unlike places in training."""

LOOK = (
    CLAIMS_STYLE
    + """\
.plain { margin: .6em 0 0; padding-left: 1.2em; }
.plain li { margin: .25em 0; }
.share { display: inline-block; width: 9em; height: .8em; background: var(--line); vertical-align: baseline; }
.share i { display: block; height: 100%; background: var(--bar); }
figure img { display: block; max-width: 100%; margin-top: .6em; }
"""
)


def to_html(study: StudySpec, screen: Screen, reports: Sequence[PairReport], images: Mapping[str, bytes]) -> str:
    """The whole page. `images`: caption -> PNG."""
    figures = [
        f'<figure><img alt="{escape(caption)}" style="width: {_width(image):.0%}"'
        f' src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, image in images.items()
    ]
    return document(
        title=f"Early stopping: {escape(study.name)}",
        style=LOOK,
        kind="Early stopping",
        heading=escape(study.name),
        head=[
            f"""<p class="note">{escape(study.question)}</p>
<p class="note">{escape(rule_text(screen))}</p>"""
        ],
        body=[
            f"""{joined(_section(screen, report) for report in reports)}
<section>
{joined(figures)}
</section>"""
        ],
    )


def to_markdown(study: StudySpec, screen: Screen, report: PairReport) -> str:
    """The report on one model and data set."""
    lines = [
        f"# Early stopping in study {study.name}: {report.model}, {report.data}",
        "",
        rule_text(screen),
        "",
        *(f"- {line}" for line in plain_words(screen, report)),
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
            f"| {row.name} | {outcome(row, report)} | {_final(row)} | {row.samples_trained:,} | {row.samples_planned:,} |"
            for row in report.competitors
        ),
        "",
        CORRELATIONS,
        "",
    ]
    return "\n".join(lines)


CORRELATIONS = (
    "Correlations are Spearman's rho over those with a final score, with 95 % intervals (Bonett and Wright)."
    " The paper's finding is a negative one with the gradient norm and a positive one with the loss."
    " A rule that works leaves them weaker than they are over all."
)


# --- in plain words ----------------------------------------------------------------------------------------------------


def rule_text(screen: Screen) -> str:
    """What the rule does, in a few sentences."""
    rungs = " and ".join(f"{rung:.0%}" for rung in screen.rungs)
    group = f" among those of equal {', '.join(screen.group_by).replace('_', ' ')}" if screen.group_by else ""
    seeds = "the seeds of a recipe as one" if screen.seeds == "together" else "each run by itself"
    return (
        f"After {rungs} of the first stage, {_goes(screen)}{group}, {seeds}; the others stop."
        f" Signals are means over the last {screen.window:.0%} of the steps until then."
        f" The final score is the peak on {screen.benchmark}, which the decisions do not see."
    )


def _goes(screen: Screen) -> str:
    rule = screen.rule
    match rule:
        case PaperRule():
            return f"the {rule.keep:.0%} with the lowest gradient norm go on (of equal ones, those with the higher loss)"
        case TopRule():
            return f"the {rule.keep:.0%} with the {rule.best} {SIGNALS[rule.signal]} go on"
        case MarginRule():
            return f"those go on whose {SIGNALS[rule.signal]} is within {rule.margin:.0%} of the {rule.best}"
        case MedianRule():
            return f"those go on whose {SIGNALS[rule.signal]} is no worse than the median ({rule.best} is best)"
        case RandomRule():
            return f"{rule.keep:.0%} go on by chance"


def plain_words(screen: Screen, report: PairReport) -> list[str]:
    """What was stopped, saved and lost, a sentence or two each."""
    stopped, num = report.num_stopped, len(report.competitors)
    audited = sum(row.audited for row in report.competitors)
    if len(report.undecided) == len(report.rungs):
        return [f"Nothing is decided yet. {_undecided(report)}"]
    lines = [
        f"Stopped: {stopped} of {num}"
        + (f", {audited} of these for the audit only: they were trained on to see what became of them." if audited else "."),
        f"Saved: {report.samples_saved:.0%} of the samples and about {_hours(report)}."
        f" The rule alone would have saved {report.samples_saved_unaudited:.0%}, with its audit {report.samples_saved_alone:.0%}"
        + ("; other studies wanted some of that." if any(map(_is_shared, report.competitors)) else "."),
    ]
    lines += [line for line in (_open(report), *map(_unlike, report.rungs[:1])) if line]
    if report.undecided:
        return [*lines, f"Lost: not known before all rungs have decided. {_undecided(report)}"]
    if report.num_kept_scored < report.num_kept:
        number = report.num_kept - report.num_kept_scored
        return [*lines, f"Lost: not known, {number} of {report.num_kept} kept have no final score yet."]
    if report.regret is None:
        return [
            *lines,
            "Lost: not known, no stopped one was trained to its end." if stopped else "Lost: nothing, none was stopped.",
        ]
    group = " of its group" if screen.group_by else ""
    bound = "" if report.num_checked == stopped else "at least "
    lead = "" if report.lead is None else _lead_text(report)
    over = " of all groups" if screen.group_by else ""
    best = "nothing that is known" if report.regret == 0 else f"{bound}{number_text(report.regret)}"
    return [
        *lines,
        f"Lost: {best} on {screen.benchmark}, by the best that was stopped against the best kept{over}.{lead}",
        f"False stops: {report.num_false_stops} of {report.num_checked} checked ended above the best that was kept{group}, "
        f"{report.false_stop_rate:.0%} [{report.false_stop_low:.0%}, {report.false_stop_high:.0%}]; "
        f"{report.num_above_median} ended above the median of the kept{group}.",
    ]


def _undecided(report: PairReport) -> str:
    rungs = ", ".join(f"{float(rung):.0%} ({why})" for rung, why in report.undecided.items())
    return f"Without a decision: {rungs}; results/missing.csv names the records."


def _hours(report: PairReport) -> str:
    """Hours saved, of all that are planned where none are open."""
    hours = "GPU-hours" if report.device == "cuda" else "process-hours"
    planned = "" if report.samples_open else f" of {report.hours + report.hours_saved:.2g}"
    return f"{report.hours_saved:.2g}{planned} {hours}"


def _is_shared(row: CompetitorReport) -> bool:
    """Whether another study trained what this one stopped."""
    return row.samples_trained > row.samples_allowed


def _open(report: PairReport) -> str:
    names = ", ".join(row.name for row in report.competitors if row.samples_open)
    if not names:
        return ""
    return f"Not trained yet: {report.samples_open:.0%} of the samples, of {names}. They count neither as trained nor as saved."


def _unlike(rung: RungReport) -> str:
    """What is to be minded where competitors are looked at after unlike numbers of samples, as phased runs and stacked ones are."""
    least, most = (choose(rung.samples, key=lambda name: (rung.samples[name], name)) for choose in (min, max))
    few, many = rung.samples[least], rung.samples[most]
    if many <= UNLIKE * few:
        return ""
    return (
        f"Unlike places: at {float(rung.rung):.0%} a run had seen {few:,} samples ({least}) to {many:,} ({most})."
        " Loss and gradient norm fall with training, so this compares places as well as recipes."
    )


def _lead_text(report: PairReport) -> str:
    if report.lead is None or report.lead_low is None or report.lead_high is None:
        return ""
    told = "can" if report.lead_low > 0 or report.lead_high < 0 else "cannot"
    lead, low, high = (number_text(value) for value in (report.lead, report.lead_low, report.lead_high))
    return f" Stopped less kept, over items and seeds: {lead} [{low}, {high}]; they {told} be told apart."


def outcome(row: CompetitorReport, report: PairReport) -> str:
    """What became of a competitor."""
    if row.stopped_at is None:
        return "still in" if report.undecided else "kept"
    return f"{'stopped, audited' if row.audited else 'stopped'} at {float(row.stopped_at):.0%}"


def _final(row: CompetitorReport) -> str:
    if row.final is None:
        return "not known"
    ends = "" if row.low is None or row.high is None else f" [{number_text(row.low)}, {number_text(row.high)}]"
    return f"{number_text(row.final)}{ends}"


def _rho(correlation: Correlation) -> str:
    if correlation.rho is None:
        return f"(n = {correlation.num_competitors})"
    interval = "" if correlation.low is None else f" [{correlation.low:.2f}, {correlation.high:.2f}]"
    return f"{correlation.rho:.2f}{interval} (n = {correlation.num_competitors})"


# --- as a page ---------------------------------------------------------------------------------------------------------


def _section(screen: Screen, report: PairReport) -> str:
    words = joined(f"<li>{escape(line)}</li>" for line in plain_words(screen, report))
    rungs = [
        f'<tr><th scope="row">{float(rung.rung):.0%}, {SIGNALS[signal]}</th>'
        f"<td>{rung.calls['go']}</td><td>{rung.calls['stop']}</td><td>{rung.calls['audit']}</td>"
        f"<td>{escape(_rho(correlation))}</td><td>{_chart(correlation)}</td></tr>"
        for rung in report.rungs
        for signal, correlation in rung.correlations.items()
    ]
    rows = [
        f'<tr><th scope="row">{escape(row.name)}</th><td>{_badge(row, report)}</td><td>{escape(_final(row))}</td>'
        f"<td>{row.samples_trained:,} of {row.samples_planned:,}</td><td>{_share(row)}</td></tr>"
        for row in sorted(report.competitors, key=lambda row: (row.final is None, -(row.final or 0.0), row.name))
    ]
    return f"""<section>
<h2>{escape(report.model)}, {escape(report.data)}</h2>
<ul class="plain">
{words}
</ul>
{table_of(["signal at a rung", "go", "stop", "audit", "rank correlation with the final score", ""], rungs)}
<p class="note">{escape(CORRELATIONS)}</p>
{table_of(["competitor", "outcome", "final score", "samples trained", ""], rows)}
</section>"""


def _width(image: bytes) -> float:
    """Of a PNG, as a share of two columns."""
    return min(1.0, int.from_bytes(image[16:20], "big") / (TWO_COLUMNS * float(STYLE["savefig.dpi"])))


def _badge(row: CompetitorReport, report: PairReport) -> str:
    kind = "holds" if row.stopped_at is None else "open" if row.audited else "fails"
    return f'<span class="badge {kind}">{outcome(row, report)}</span>'


def _share(row: CompetitorReport) -> str:
    share = row.samples_trained / row.samples_planned if row.samples_planned else 0.0
    return f'<span class="share"><i style="width: {share:.1%}"></i></span>'


def _chart(correlation: Correlation) -> str:
    """The interval of a correlation on the axis from -1 to 1."""
    if correlation.rho is None or correlation.low is None or correlation.high is None:
        return ""
    return interval_chart(correlation.low, correlation.rho, correlation.high, reach=1.0, label="interval from -1 to 1")
