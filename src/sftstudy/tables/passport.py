"""Makes a data passport: one page on what a model is trained on, from records alone, the same bytes every time.

The page is HTML with its style and its charts inside: no scripts, no other files, one A4 page in print for up to three phases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain, zip_longest

from sftstudy import records
from sftstudy.config import Phase, Source
from sftstudy.locate import name_of
from sftstudy.paths import Layout
from sftstudy.records import DataRecord, LengthHistogram, ModelRecord, OverlapExample, OverlapRecord, PhaseRecord
from sftstudy.spec import OverlapSpec
from sftstudy.tables.pieces import document, joined, row, table_of

MAX_EXAMPLES, MAX_SHOWN_WORDS = 6, 18
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 114, 30, 4, 14, 98
"""Of the chart, in its own units: its size, and where the bars stand in it."""


@dataclass(frozen=True)
class Passport:
    """What a page shows. `definitions` and `phases` have the same keys in the same order."""

    data: str
    model: str
    definitions: Mapping[str, Phase]
    phases: Mapping[str, PhaseRecord]
    base: ModelRecord
    validation: DataRecord
    overlap: OverlapRecord


def render_passport(spec: OverlapSpec, model: str, *, layout: Layout) -> None:
    """Write `passport.html` of a data set and a model. Raises StudyError for a record that is missing or broken."""
    passport = Passport(
        data=spec.data,
        model=model,
        definitions=spec.phases,
        phases={phase: records.read_record(layout.phase_record(model, spec.data, phase), PhaseRecord) for phase in spec.phases},
        base=records.read_record(layout.model_record(model), ModelRecord),
        validation=records.read_record(layout.data_record(spec.data), DataRecord),
        overlap=records.read_record(layout.overlap_record(spec.data), OverlapRecord),
    )
    records.write_text(layout.passport(model, spec.data), to_html(passport))


def to_html(passport: Passport) -> str:
    """The whole page."""
    title = f"{escape(passport.data)} &times; {escape(passport.base.chat_template)} &times; {escape(passport.model)}"
    found = remarks(passport)
    calm = "" if found else " calm"
    lines = found or ["Nothing was dropped or cut off, every reply trains its closing token, and no benchmark's words were found."]
    sections = [_phase(phase, passport.definitions[phase], record) for phase, record in passport.phases.items()]
    return document(
        title=f"Data passport: {title}",
        style="",
        kind="Data passport",
        heading=title,
        head=[
            f"""<p class="note">data set &times; chat template &times; model</p>
<ul class="remarks{calm}">
{joined(f"<li>{line}</li>" for line in lines)}
</ul>"""
        ],
        body=[*sections, _overlap(passport), _hashes(passport)],
    )


def remarks(passport: Passport) -> list[str]:
    """What a reader should not miss, as sentences in HTML: losses of rows, turns without an end, shared words."""
    found = []
    for phase, record in passport.phases.items():
        name = f"<b>{escape(phase)}</b>"
        for reason, count in sorted(record.dropped.items()):
            found.append(f"{name}: {count:,} of {record.num_read:,} rows dropped: {escape(_plain(reason))}.")
        if kept := record.exact_duplicates - record.dropped.get("exact_duplicate", 0):
            found.append(f"{name}: {kept:,} of {record.num_read:,} chats equal an earlier one and are kept.")
        if record.truncated:
            found.append(f"{name}: {record.truncated:,} of {record.num_samples:,} samples are cut off at the length limit.")
        if record.eos_supervised_share < 1:
            found.append(f"{name}: {_percent(1 - record.eos_supervised_share, 1)} of the replies do not train the closing token.")
        overlap = passport.overlap.phases[phase]
        for benchmark, shared in overlap.benchmarks.items():
            if shared.rows_hit:
                found.append(
                    f"{name}: {shared.rows_hit:,} of {overlap.num_rows:,} rows share words with {shared.items_hit:,} of "
                    f"{shared.num_items:,} items of <b>{escape(benchmark)}</b> ({_percent(shared.items_hit, shared.num_items)})."
                )
    unread = {
        benchmark: shared.unread for phase in passport.overlap.phases.values() for benchmark, shared in phase.benchmarks.items()
    }
    found += [
        f"<b>{escape(benchmark)}</b>: overlap is unknown, the items could not be read: {escape(reason)}."
        for benchmark, reason in unread.items()
        if reason
    ]
    return found


# --- phases ----------------------------------------------------------------------------------------------------------


def _phase(phase: str, definition: Phase, record: PhaseRecord) -> str:
    share = _percent(record.num_supervised_tokens, record.num_tokens)
    return f"""<section>
<h2>{escape(phase)} <small>{record.num_samples:,} samples, {record.num_tokens:,} tokens, {share} of them trained on</small></h2>
<div class="columns">
<div>
{_rows_table(record)}
<p class="note">From {"; ".join(escape(_named(source)) for source in definition.sources)}</p>
</div>
{_histogram(record.length_histogram, record.tokens_per_sample)}
<div>
{_roles_table(record)}
<p class="note">{_facts(record)}</p>
</div>
</div>
</section>"""


def _rows_table(record: PhaseRecord) -> str:
    dropped = sorted(record.dropped.items(), key=lambda entry: (-entry[1], entry[0]))
    lines = [
        row("read", f"{record.num_read:,}"),
        *(row(escape(_plain(reason)), f"&minus;{count:,}", style="loss") for reason, count in dropped),
        *([row("repeated by weight", f"+{record.repeated:,}")] if record.repeated else []),
        row("kept", f"{record.num_samples:,}", style="sum"),
        row("of these cut off", f"{record.truncated:,}"),
    ]
    return table_of([], lines, caption="Rows")


def _roles_table(record: PhaseRecord) -> str:
    lines = [
        row(
            escape(role),
            f"{found.num_turns:,}",
            f"{found.num_tokens:,}",
            _percent(found.num_supervised_tokens, found.num_tokens),
        )
        for role, found in record.role_tokens.items()
    ]
    return table_of(["role", "turns", "tokens", "trained on"], lines, caption="Loss mask")


def _facts(record: PhaseRecord) -> str:
    closing = _percent(record.eos_supervised_share, 1)
    return (
        f"Closing token trained on in {closing} of replies; {record.supervised_per_turn:.1f} tokens trained on per reply; "
        f"{record.bos_per_sample:.2f} BOS per sample."
    )


def _histogram(histogram: LengthHistogram, lengths: Mapping[str, float]) -> str:
    """Chart of tokens per sample: bars from edge to edge, a line at the median."""
    first, last, most = histogram.edges[0], histogram.edges[-1], max(histogram.counts)

    def across(tokens: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (tokens - first) / (last - first)

    bars = []
    for start, end, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        left, width = across(start), max(across(end) - across(start) - 1, 0.5)
        height = (BOTTOM - TOP) * count / most
        bars.append(f'<rect class="bar" x="{left:.1f}" y="{BOTTOM - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>')
    middle = across(lengths["median"])
    anchor, beside = ("start", middle + 4) if middle < WIDTH / 2 else ("end", middle - 4)
    told = (
        f"{lengths['min']:,.0f} to {lengths['max']:,.0f} tokens, median {lengths['median']:,.0f}, "
        f"mean {lengths['mean']:,.0f}, 95 % below {lengths['p95']:,.0f}"
    )
    return f"""<figure>
<figcaption>Samples by length in tokens</figcaption>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Samples by length: {told}">
<text x="{LEFT - 4}" y="{TOP + 9}" text-anchor="end">{most:,}</text>
{joined(bars)}
<line class="axis" x1="{LEFT}" y1="{BOTTOM}" x2="{WIDTH - RIGHT}" y2="{BOTTOM}"/>
<line class="middle" x1="{middle:.1f}" y1="{TOP - 12}" x2="{middle:.1f}" y2="{BOTTOM}"/>
<text x="{beside:.1f}" y="{TOP - 4}" text-anchor="{anchor}">median {lengths["median"]:,.0f}</text>
<text x="{LEFT}" y="{HEIGHT - 4}">{first:,}</text>
<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{last - 1:,}</text>
</svg>
<p class="note">mean {lengths["mean"]:,.0f}; 95 % have at most {lengths["p95"]:,.0f}</p>
</figure>"""


# --- overlap and hashes ----------------------------------------------------------------------------------------------


def _overlap(passport: Passport) -> str:
    overlap = passport.overlap
    phases = list(passport.phases)
    benchmarks = list(overlap.phases[phases[0]].benchmarks)
    groups = {"": 2} | {escape(phase): 2 for phase in phases}
    heads = ["benchmark", "items", *(["items hit", "rows"] * len(phases))]
    lines = []
    for benchmark in benchmarks:
        found = [overlap.phases[phase].benchmarks[benchmark] for phase in phases]
        cells = [
            "?" if hit.unread else f'<span class="loss">{number:,}</span>' if number else "0"
            for hit in found
            for number in (hit.items_hit, hit.rows_hit)
        ]
        lines.append(row(escape(benchmark), "?" if found[0].unread else f"{found[0].num_items:,}", *cells))
    shown = [
        f"<li>“{escape(_cut(example.words))}” <span>{escape(phase)}, {escape(_short(example.row))}; "
        f"{escape(benchmark)} item {example.item_number:,}, {escape(_short(example.item))}</span></li>"
        for phase, benchmark, example in examples(overlap, phases)
    ]
    listed = f'\n<ol class="examples">\n{joined(shown)}\n</ol>' if shown else ""
    return f"""<section>
<h2>Overlap with benchmarks <small>items and training rows that share {overlap.num_words} words in a row, or a whole short text
of {overlap.min_words} different words or more</small></h2>
{table_of(heads, lines, groups=groups)}{listed}
</section>"""


def examples(overlap: OverlapRecord, phases: Sequence[str]) -> list[tuple[str, str, OverlapExample]]:
    """(phase, benchmark, example) of as many as a page has room for: the plainest of each pair, then the second of each, ..."""
    pairs = [
        [(phase, benchmark, example) for example in found.examples]
        for phase in phases
        for benchmark, found in overlap.phases[phase].benchmarks.items()
    ]
    ranked = chain.from_iterable(zip_longest(*pairs))
    return [entry for entry in ranked if entry is not None][:MAX_EXAMPLES]


def _hashes(passport: Passport) -> str:
    made: dict[str, tuple[str, str]] = {phase: (record.data_hash, record.spec_hash) for phase, record in passport.phases.items()}
    checks = {"validation": passport.validation, "overlap": passport.overlap}
    made |= {name: (record.content_hash, record.spec_hash) for name, record in checks.items()}
    lines = [row(escape(name), *(f"<code>{value}</code>" for value in hashes)) for name, hashes in made.items()]
    base = passport.base
    return f"""<section class="hashes">
<p class="note">Chat template <code>{escape(base.chat_template)}</code>, tokenizer <code>{base.tokenizer_hash}</code>,
model <code>{base.spec_hash}</code></p>
{table_of(["record", "content hash", "spec hash"], lines)}
</section>"""


# --- pieces of a page ------------------------------------------------------------------------------------------------


def _percent(part: float, whole: float) -> str:
    """A share in percent, in HTML; 0 % and 100 % stand for none and all alone."""
    share = 100 * part / whole
    if share in (0, 100):
        return f"{share:.0f} %"
    return "&lt;0.1 %" if share < 0.1 else "&gt;99.9 %" if share > 99.9 else f"{share:.1f} %"


def _plain(reason: str) -> str:
    return reason.replace("_", " ")


def _cut(words: str) -> str:
    listed = words.split()
    return words if len(listed) <= MAX_SHOWN_WORDS else " ".join(listed[:MAX_SHOWN_WORDS]) + " …"


def _short(origin: str) -> str:
    """The last two parts of a file's path: a page that is passed on need not tell where its maker keeps files."""
    return "/".join(origin.split("/")[-2:])


def _named(source: Source) -> str:
    return _short(name_of(source.location)) + (f" (weight {source.weight:g})" if source.weight < 1 else "")
