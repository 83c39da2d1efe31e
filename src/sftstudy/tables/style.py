"""The look of a data passport: CSS for screen and for one A4 page, dark on white, in fonts that every system has."""

PASSPORT_STYLE = """\
:root { --ink: #1c2733; --soft: #52606d; --line: #d5dce2; --bar: #2f6690; --mark: #a33a1f; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); }
body { font: 13px/1.4 "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 28px 28px 20px; }
h1 { margin: 0; font-size: 24px; line-height: 1.2; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 15px; font-weight: 600; }
h2 small { font-weight: 400; font-size: 13px; color: var(--soft); margin-left: 8px; }
p { margin: 0; }
.kind { color: var(--bar); font-weight: 600; letter-spacing: .08em; text-transform: uppercase; font-size: 11px; }
.note { color: var(--soft); font-size: 12px; }
.remarks { margin: 12px 0 0; padding: 9px 14px 9px 28px; border-left: 4px solid var(--mark); background: #fbf4f1; }
.remarks.calm { border-color: var(--bar); background: #f1f5f8; }
section { margin-top: 14px; padding-top: 10px; border-top: 1px solid var(--line); break-inside: avoid; }
.columns { display: grid; grid-template-columns: 1fr 1.25fr 1.35fr; gap: 24px; margin-top: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 12px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 2px; }
th { font-weight: 400; text-align: left; }
thead th { color: var(--soft); border-bottom: 1px solid var(--line); vertical-align: bottom; }
th, td { padding: 2px 8px 2px 0; }
td { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
thead th + th { text-align: right; }
tr.sum > * { border-top: 1px solid var(--line); font-weight: 600; }
.loss { color: var(--mark); }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: 12px; padding-bottom: 2px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 10px "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; fill: var(--soft); }
.bar { fill: var(--bar); }
.axis { stroke: var(--soft); }
.middle { stroke: var(--mark); stroke-dasharray: 3 2; }
.facts { margin-top: 6px; }
.examples { margin: 8px 0 0; padding-left: 18px; font-size: 12px; }
.examples span { color: var(--soft); }
section > table { margin-top: 8px; }
.hashes { font-size: 11px; }
.hashes td, .hashes th { font-size: 11px; padding-top: 1px; padding-bottom: 1px; }
code { font: 11px Consolas, Menlo, "DejaVu Sans Mono", monospace; }
@page { size: A4; margin: 11mm; }
@media print { body { font-size: 11px; } main { padding: 0; max-width: none; } h1 { font-size: 20px; } }
@media (max-width: 640px) { .columns { grid-template-columns: 1fr; } }
"""
