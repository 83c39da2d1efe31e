"""The cells of a table of scores: each has a text for print, a tidy line and a pedigree, all three under one key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sftstudy.averages import NORMALISED
from sftstudy.config import NO_NAME
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE
from sftstudy.pedigree import DifferenceCell, PedigreeRecord, ScoreCell, SourceCheckpoint, made_by
from sftstudy.spec import Setting
from sftstudy.stats.peaks import optimism_of_peak, samples_to_peak
from sftstudy.tables.aggregate import Cell, Measure, Pair, Point, Results, Verdict, compare
from sftstudy.tables.collect import FAULTS
from sftstudy.tables.configuration import Assumptions, key_text, value_text
from sftstudy.tables.printed import Printed, Text, factor_text, number_text, range_text, slug

CSV_COLUMNS = (
    "key", "model", "data", "benchmark", "unit", "chance", "judge", "measure", "arm", "recipe", "row", "column", "value", "low",
    "high", "num_items", "num_seeds", "num_planned_seeds", "samples_seen", "samples_low", "samples_high", "samples_spent",
    "optimism", "optimism_low", "optimism_high", "best", "p_against_best", "p", "status",
)  # fmt: skip
BASE = "base"
RACED = "raced"
"""Status of a cell whose runs' earlier stages have checkpoints that a race dropped."""

SEED = 0
"""Of bootstrap draws: the same table from the same records."""

OF_PEAK = ("samples_low", "samples_high", "optimism", "optimism_low", "optimism_high")
"""What only a peak has, and what takes draws: seconds for an arm of many checkpoints and items."""


@dataclass(frozen=True)
class Place:
    """Where a cell stands: what it is about, and its label in the table, an arm's name or the levels of two factors."""

    pair: Pair
    benchmark: str
    measure: Measure
    recipe: str
    arm: str = ""
    row: Any = None
    column: Any = None
    normalised: bool = False

    @property
    def is_base(self) -> bool:
        """The untouched model."""
        return self.recipe == NO_NAME

    @property
    def label(self) -> str:
        """As people write it."""
        return self.arm or f"{factor_text(self.row)}, {factor_text(self.column)}"

    @property
    def measured(self) -> str:
        """What the CSV calls the measure."""
        return f"{NORMALISED} {self.measure}" if self.normalised else self.measure


class Sheet:
    """A table of scores in the making. Cells that are added get a line and a pedigree, and give back their text.

    `drawn`: the pedigree of the same table, if it was made before; nothing is drawn again.
    """

    def __init__(self, results: Results, table: str, caption: str, *, drawn: PedigreeRecord | None = None) -> None:
        self.results = results
        self._drawn = drawn
        self.assumed = Assumptions(results.study)
        self.printed = Printed(
            study=results.study.name,
            table=table,
            caption=caption,
            columns=CSV_COLUMNS,
            pedigree=PedigreeRecord(
                study=results.study.name,
                table=table,
                cells={},
                records={},
                benchmarks={name: results.asked(name) for name in results.study.benchmarks},
            ),
        )

    def base(self, pair: Pair, benchmark: str, measure: Measure, *, normalised: bool = False) -> Text:
        """The untouched model's score, which stands beside both measures."""
        place = Place((pair[0], NO_NAME), benchmark, measure, NO_NAME, BASE, normalised=normalised)
        return self.add(place, self.cell(place), line={"data": pair[1], "recipe": ""})

    def cell(self, place: Place) -> Cell:
        """The numbers of a place."""
        if place.normalised:
            return self.results.normalised(place.pair, place.recipe, place.benchmark, place.measure)
        return self.results.cell(place.pair, place.recipe, place.benchmark, place.measure)

    def add(self, place: Place, cell: Cell, verdict: Verdict | None = None, *, line: dict[str, Any] | None = None) -> Text:
        """File a cell under its key; the text has its score, interval and marks."""
        study, key = self.results.study, self.key(place)
        definition = study.benchmarks[place.benchmark]
        lacking = {
            seed: self.results.lacking(place.pair, place.recipe, seed, place.benchmark)
            for seed in cell.planned_seeds
            if seed not in cell.seeds
        }
        reasons = sorted({reason for reasons in lacking.values() for reason in reasons.values()})
        status = "; ".join([*reasons, RACED] if cell.raced else reasons)
        numbers = {
            "samples_seen": cell.samples_seen,
            "samples_spent": cell.samples_spent,
            "status": status,
            **({"best": verdict.best, "p_against_best": verdict.p} if verdict else {}),
            **self._of_peak(place, cell),
        }
        known = {"value": None, "low": None, "high": None, "num_items": None}
        if cell.estimate is not None:
            known = {name: getattr(cell.estimate, name) for name in known}
        if place.normalised:
            known["num_items"] = None
        self.printed.lines.append(
            {
                "key": key,
                "model": place.pair[0],
                "data": place.pair[1],
                "benchmark": place.benchmark,
                "unit": definition.unit,
                "chance": 0.0 if place.normalised else definition.chance,
                "judge": definition.judge,
                "measure": place.measured,
                "arm": place.arm,
                "recipe": place.recipe,
                "row": place.row,
                "column": place.column,
                "num_seeds": len(cell.seeds),
                "num_planned_seeds": len(cell.planned_seeds),
                **known,
                **numbers,
                **(line or {}),
            }
        )
        assumed = self.assumed.of_cell(*place.pair, place.recipe, place.benchmark)
        pedigree = {
            "model": place.pair[0],
            "data": place.pair[1],
            "recipe": place.recipe,
            "arm": place.label,
            "benchmark": place.benchmark,
            "measure": place.measured.replace(place.measure, BASE) if place.is_base else place.measured,
            "metric": NORMALISED if place.normalised else definition.metric,
            "seeds": list(cell.seeds),
            "planned_seeds": list(cell.planned_seeds),
            "checkpoints": [self._source(place, seed, point) for seed, point in zip(cell.seeds, cell.points, strict=True)],
            "missing": {path: reason for reasons in lacking.values() for path, reason in reasons.items()},
            "assumed": assumed_texts(assumed),
            **known,
            **numbers,
        }
        self._file(key, ScoreCell.model_validate(pedigree))
        return _score(cell, verdict, key, lacking)

    def score(self, key: str) -> ScoreCell:
        """A cell that was added."""
        found = self.printed.pedigree.cells[key]
        assert isinstance(found, ScoreCell), "differences have keys of their own"
        return found

    def add_difference(self, places: tuple[Place, Place], cells: tuple[Cell, Cell]) -> None:
        """File the paired difference of two cells, for prose; it is not printed. Nothing if either is empty."""
        benchmark = places[0].benchmark
        difference = compare(*cells, self.results.study.benchmarks[benchmark])
        if difference is None:
            return
        arm = f"{places[0].arm} - {places[1].arm}"
        key = self.key(Place(places[0].pair, benchmark, places[0].measure, "", f"{places[0].arm}-minus-{places[1].arm}"))
        numbers = {name: getattr(difference, name) for name in ("value", "low", "high", "p", "num_items")}
        pair = places[0].pair
        line = {"key": key, "model": pair[0], "data": pair[1], "benchmark": benchmark, "measure": places[0].measure, "arm": arm}
        self.printed.lines.append(line | numbers)
        self._file(key, DifferenceCell.model_validate(numbers | {"cells": tuple(map(self.key, places))}))

    def key(self, place: Place) -> str:
        """Name of a cell within its table: benchmark, arm (or row and column), measure; model and data first if there are several.

        Letters, digits, `.`, `_`, `+` and `-` only, so that it can stand in LaTeX, in an address and in a file's name.
        """
        several = len(self.results.pairs) > 1
        where = [name for name in place.pair if name != NO_NAME] if several else []
        levels = [] if place.arm else [factor_text(level).replace(",", "") for level in (place.row, place.column)]
        measure = [NORMALISED] * place.normalised if place.is_base else [place.measured]
        return "/".join(slug(part) for part in [*where, place.benchmark, *([place.arm] if place.arm else levels), *measure])

    def _file(self, key: str, cell: ScoreCell | DifferenceCell) -> None:
        if self.printed.pedigree.cells.setdefault(key, cell) != cell:
            raise StudyError(
                f"study {self.printed.study}: table {self.printed.table}: two cells are called {key};"
                " let arms differ in letters or digits"
            )

    def _source(self, place: Place, seed: int, point: Point) -> SourceCheckpoint:
        layout, (model, data) = self.results.layout, place.pair
        training = layout.stage_results(model, data, place.recipe, seed, point.stage) / "training.json"
        paths = {
            "training": layout.model_record(model) if point.stage == BASE_STAGE else training,
            "scores": point.items.with_suffix(".json"),
            "items": point.items,
        }
        below = {name: path.relative_to(layout.results).as_posix() for name, path in paths.items()}
        for name in ("training", "scores"):
            if below[name] not in self.printed.pedigree.records:
                self.printed.pedigree.records[below[name]] = made_by(paths[name])
        judged = sorted(point.items.parent.glob(f"{point.items.stem}.*.jsonl"))
        names = ("stage", "ckpt", "value", "samples_seen", "samples_spent", "weights_hash")
        known = {
            "seed": seed,
            **{name: getattr(point, name) for name in names},
            **below,
            "judged": [path.relative_to(layout.results).as_posix() for path in judged],
        }
        return SourceCheckpoint.model_validate(known)

    def _of_peak(self, place: Place, cell: Cell) -> dict[str, float | None]:
        """An interval of its samples, and the optimism of choosing it on the items that are reported."""
        if place.measure != "peak" or place.normalised or place.is_base or cell.estimate is None:
            return {}
        if self._drawn:
            before = self._drawn.cells[self.key(place)]
            return {name: getattr(before, name) for name in OF_PEAK}
        curves = self.results.curves(place.pair, place.recipe, place.benchmark, over="samples_seen")
        if curves is None:
            return {}
        average = self.results.study.benchmarks[place.benchmark].average
        position = samples_to_peak(curves, average=average, seed=SEED)
        optimism = optimism_of_peak(curves, average=average)
        found: dict[str, float | None] = {"samples_low": position.low, "samples_high": position.high}
        if optimism is not None:
            found |= {"optimism": optimism.value, "optimism_low": optimism.low, "optimism_high": optimism.high}
        return found


def assumed_texts(settings: Sequence[Setting]) -> dict[str, list[str]]:
    """Whose -> the assumed values."""
    found: dict[str, list[str]] = {}
    for setting in settings:
        value = f"{key_text(setting)} {value_text(setting.value)}"
        found.setdefault(f"{setting.subject} {setting.name}", []).append(value)
    return found


def interval_text(cell: Cell) -> str:
    """`[low, high]` as tables print it; empty where it is not known."""
    return range_text(cell.estimate.low, cell.estimate.high) if cell.estimate else ""


def _score(cell: Cell, verdict: Verdict | None, key: str, lacking: dict[int, dict[str, str]]) -> Text:
    if cell.estimate is None:
        return _why_empty(list(lacking.values()), key)
    best, tied = (verdict.best, verdict.tied) if verdict else (False, False)
    mark = ("†" if tied else "") + ("‡" if len(cell.seeds) < len(cell.planned_seeds) else "") + ("§" if cell.raced else "")
    return Text(number_text(cell.estimate.value), interval_text(cell), bold=best, mark=mark, key=key)


def _why_empty(lacking: Sequence[dict[str, str]], key: str) -> Text:
    """A status that all runs have by design stands in the cell; what asks for mending is an empty one."""
    reasons = {reason for reasons in lacking for reason in reasons.values()}
    if not reasons or reasons & set(FAULTS) or not all(lacking):
        return Text("", key=key)
    main, _, small = sorted(reasons)[0].partition(" ")
    return Text(main, small, key=key)
