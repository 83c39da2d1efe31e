"""The look of a page (a data passport, a plan): CSS for screen and for one A4 page, dark on white, in fonts every system has."""

PAGE_STYLE = """\
:root { --ink: #1c2733; --soft: #52606d; --line: #d5dce2; --bar: #2f6690; --mark: #a33a1f; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font-size: 13px; line-height: 1.4; }
body, svg text { font-family: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
main { max-width: 68em; margin: 0 auto; padding: 2em; }
h1 { margin: 0; font-size: 1.8em; line-height: 1.2; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 1.15em; font-weight: 600; }
h2 small { font-weight: 400; font-size: .87em; color: var(--soft); margin-left: .5em; }
p { margin: 0; }
.kind { color: var(--bar); font-weight: 600; letter-spacing: .08em; text-transform: uppercase; font-size: .85em; }
.note { color: var(--soft); font-size: .92em; overflow-wrap: anywhere; }
.remarks { margin: .9em 0 0; padding: .6em 1em .6em 2.1em; border-left: .3em solid var(--mark); background: #fbf4f1; }
.remarks.calm { border-color: var(--bar); background: #f1f5f8; }
section { margin-top: 1em; padding-top: .7em; border-top: 1px solid var(--line); break-inside: avoid; }
.columns { display: grid; grid-template-columns: 1fr 1.25fr 1.35fr; gap: 2em; margin-top: .5em; }
.columns > * { min-width: 0; }
.columns p { margin-top: .4em; }
table { border-collapse: collapse; width: 100%; font-size: .92em; font-variant-numeric: tabular-nums; }
section > table { margin-top: .5em; }
caption { text-align: left; color: var(--soft); padding-bottom: .15em; }
th { font-weight: 400; text-align: left; }
thead th { color: var(--soft); }
thead tr:last-child > * { border-bottom: 1px solid var(--line); }
th, td { padding: .15em .6em .15em 0; }
td, thead th + th { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
tr.sum > * { border-top: 1px solid var(--line); font-weight: 600; }
.loss { color: var(--mark); }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .92em; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 10px; fill: var(--soft); }
.bar { fill: var(--bar); }
.axis { stroke: var(--soft); }
.middle { stroke: var(--mark); stroke-dasharray: 3 2; }
.examples { margin: .6em 0 0; padding-left: 1.5em; font-size: .92em; }
.examples span { display: block; color: var(--soft); overflow-wrap: anywhere; }
.hashes table { font-size: .85em; }
code { font: .92em Consolas, Menlo, "DejaVu Sans Mono", monospace; }
@page { size: A4; margin: 11mm; }
@media print { body { font-size: 9.6px; } main { padding: 0; } }
@media screen and (max-width: 640px) { .columns { grid-template-columns: 1fr; } }
"""

CLAIMS_STYLE = """\
header table, section table { margin-top: .6em; }
header td, section td { vertical-align: top; }
th[scope=row] { vertical-align: top; padding-right: 1.2em; white-space: nowrap; }
header th[scope=row] { white-space: normal; }
h2 { line-height: 1.5; }
a { color: inherit; text-decoration-color: var(--line); text-underline-offset: .2em; }
.badge { display: inline-block; padding: 0 .6em; border-radius: .9em; font-size: .92em; font-weight: 500; white-space: nowrap; }
h2 .badge { font-size: .8em; margin-right: .3em; }
.badge.holds { background: #e3f0e8; color: #1d6b43; }
.badge.fails { background: #fbe9e4; color: #a33a1f; }
.badge.open { background: #eef1f4; color: #52606d; }
td small { color: var(--soft); white-space: nowrap; }
.why, .needs { color: var(--soft); }
.why { display: block; }
.needs { width: 26%; }
tr.group th { padding-top: .8em; font-weight: 500; }
tr.group small { color: var(--soft); font-weight: 400; margin-left: .5em; }
thead th.text { text-align: left; }
tr.sum .needs { font-weight: 400; }
svg.interval { width: 14em; margin-left: auto; }
.band { fill: #e6edf3; }
.zero { stroke: var(--soft); stroke-width: .8; }
.range { stroke: var(--bar); stroke-width: 2; }
.value { fill: var(--bar); }
details { margin-top: .6em; overflow-x: auto; }
details table { margin-top: .6em; }
summary { color: var(--soft); cursor: pointer; }
"""

GUIDE_STYLE = """\
.advice { font-size: 1.08em; }
.advice li + li { margin-top: .3em; }
h2.pair { margin-top: 1.6em; font-size: 1.4em; }
h3 { margin: 0; font-size: 1em; font-weight: 600; }
section.long { break-inside: auto; }
article { margin-top: .8em; break-inside: avoid; }
.paper { color: var(--soft); }
ul.plain, ol.steps { margin: .4em 0 0; padding-left: 1.4em; }
ul.plain li, ol.steps li { margin-top: .2em; overflow-wrap: anywhere; }
ol.steps li { margin-top: .7em; }
small { color: var(--soft); white-space: nowrap; }
svg.lines { max-width: 56em; margin-top: .6em; }
svg.lines .grid { stroke: var(--line); stroke-width: .7; }
svg.lines polyline { fill: none; stroke: #b4bfc9; stroke-width: 1.3; }
svg.lines .dot { fill: #b4bfc9; }
svg.lines .marked polyline { stroke: #5d94bd; stroke-width: 1.8; }
svg.lines .marked .dot { fill: #5d94bd; }
svg.lines g:hover polyline { stroke: var(--mark); }
svg.lines .named { fill: var(--ink); font-weight: 600; }
.wide { overflow-x: auto; }
.wide table { margin-top: .5em; }
table.words td { text-align: right; }
table.words th[scope=row] { white-space: normal; }
.wide svg.interval { min-width: 8em; width: 11em; }
pre { margin: .5em 0 0; padding: .7em 1em; background: #f4f6f8; overflow-x: auto; }
pre { font: .88em/1.45 Consolas, Menlo, "DejaVu Sans Mono", monospace; }
a:focus-visible, pre:focus-visible, summary:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; }
@media print { pre { white-space: pre-wrap; } .wide { overflow: visible; } }
"""

REPORT_STYLE = """\
.question { margin-top: .3em; font-size: 1.15em; color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .2em 1.4em; margin: 1em 0; padding: 0; list-style: none; }
.summary li { overflow-wrap: anywhere; }
section > h2 { margin-bottom: .4em; }
article + article { margin-top: 1.6em; }
.heading { margin-top: .7em; font-style: italic; color: var(--soft); }
.better { color: #00795a; }
.fewest { color: #0063a6; }
a.cell { text-decoration: none; }
a.cell:hover { text-decoration: underline; }
.after { margin-top: .6em; }
.files { margin-top: .3em; }
.files a { margin-right: .8em; }
table.prose td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
figure { margin: .8em 0 0; break-inside: avoid; }
figure + figure { margin-top: 1.6em; }
figure img { display: block; max-width: 100%; height: auto; }
@media print { nav { display: none; } details::details-content { content-visibility: visible; } }
"""
