"""What the figures draw, that their texts do not lie on each other, and that the same records give the same bytes."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from pydantic import TypeAdapter, ValidationError

from sftstudy import config
from sftstudy.config import EarlyFigure, FactorFigure, ScoresFigure
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.tables.aggregate import Results, load_results
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.draw import KINDS, draw_figure, render_figure
from sftstudy.tables.figures.dynamics import Curve, bands, curves, running_mean
from sftstudy.tables.figures.early import marks
from sftstudy.tables.figures.factor import series
from sftstudy.tables.figures.labels import overlaps, spread
from sftstudy.tables.figures.look import STYLE, Line
from sftstudy.tables.figures.runs import absences, expand_recipes, lines_of
from sftstudy.tables.figures.scores import segments
from table_toys import CHAT, EXAM, Tree, edit

PAIR = ("m", "d")
CAPTION = "A figure whose caption goes over more than one line. " * 2


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def figure(**keys: Any) -> config.Figure:
    made: config.Figure = TypeAdapter(config.Figure).validate_python({"caption": CAPTION, **keys})
    return made


def results_of(tree: Tree) -> Results:
    collect_scores([tree.study()], layout=tree.layout)
    return load_results(tree.study(), layout=tree.layout)


def draw(tree: Tree, **keys: Any) -> Figure:
    tree.figures = {"drawn": figure(**keys)}
    if not tree.layout.scores_csv().exists():
        collect_scores([tree.study()], layout=tree.layout)
    return draw_figure(tree.study(), "drawn", layout=tree.layout)


def texts_of(drawn: Figure) -> list[tuple[str, Bbox]]:
    """The texts that are drawn, ticks beyond an axis not among them, and their boxes in pixels."""
    found: dict[Text, tuple[str, Bbox]] = {}
    plain = Text.draw

    def draw(self: Text, *arguments: Any, **keys: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            found[self] = (" ".join(self.get_text().split()), self.get_window_extent())
        plain(self, *arguments, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        FigureCanvasAgg(drawn).draw()
    return list(found.values())


def words(drawn: Figure) -> str:
    return " | ".join(text for text, _ in texts_of(drawn))


def assert_no_text_lies_on_another(drawn: Figure) -> None:
    texts, page = texts_of(drawn), drawn.bbox.padded(1)
    assert not [(texts[a][0], texts[b][0]) for a, b in overlaps([box for _, box in texts])]
    assert not [text for text, box in texts if not (page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1))]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A phased run whose second stage starts from ckpt01 at 10 samples; its own steps count from its own start."""
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    made.base({"exam": [0, 0, 1, 0]})
    low, high = {"exam": [1, 0, 0, 0]}, {"exam": [1, 1, 1, 0]}
    made.stage(
        "p", {"ckpt01": (10, 10, high), "ckpt02": (20, 20, low)}, stage="01-facts", last=False, selected="ckpt01",
        steps=[(5, 3.0, 1.0), (10, 2.0, 1.0), (15, 1.5, 1.0), (20, 1.0, 1.0)],
    )  # fmt: skip
    made.stage("p", {"ckpt01": (20, 30, high)}, stage="02-skills", steps=[(5, 3.0, 2.0), (10, 2.0, 2.0)])
    return made


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Twelve recipes of a sweep whose lines end together, on two seeds and two benchmarks, and one that ends early."""
    folder = tmp_path_factory.mktemp("crowded")
    made = Tree(Layout(folder / "results", folder / "scratch"), benchmarks={"exam": EXAM, "chat": CHAT})
    made.base({"exam": [0, 1, 0, 1] * 5, "chat": [2.0, 3.0] * 4})
    chance = np.random.default_rng(1)
    cells = list(itertools.product((128, 7680), (2e-5, 3e-5, 4e-5, 6e-5, 8e-5, 1e-4)))
    made.sweeps = {"grid": [f"cell{number:02d}" for number in range(len(cells))]}
    for recipe, (batch, rate) in [*zip(made.sweeps["grid"], cells, strict=True), ("early", (64, 2e-5))]:
        saves = 2 if recipe == "early" else 6
        for seed in (1, 2):
            made.stage(
                recipe,
                {
                    f"ckpt{save:02d}": (
                        save * 250_000, save * 250_000,
                        {"exam": chance.binomial(1, 0.4 + 0.05 * save, 20).tolist(), "chat": chance.integers(3, 8, 8).tolist()},
                    )
                    for save in range(1, saves + 1)
                },
                seed=seed,
                factors={"effective_batch_size": batch, "learning_rate": rate},
                steps=[(n * 25_000, 1 + 3 / n, 2 + float(chance.random())) for n in range(1, saves * 10 + 1)],
            )  # fmt: skip
    return made


ARMS = {"LAB, batch 128": "cell00", "LAB, batch 7,680": "cell06", "LAB, high rate": "cell05", "TULU, which ends early": "early"}
DRAWN: dict[str, dict[str, Any]] = {
    "scores": {"arms": ARMS},
    "final": {"arms": ARMS},
    "benefit": {"arms": ARMS},
    "factor": {"recipes": {"LAB": "grid", "TULU": "early"}, "factor": "learning_rate", "by": "effective_batch_size"},
    "dynamics": {"recipes": {"LAB": "grid", "TULU": "early"}, "benchmarks": ["exam", "chat"]},
    "early": {"recipes": {"LAB": "grid", "TULU": "early"}},
}


def test_every_kind_is_drawn_here() -> None:
    assert list(DRAWN) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_lies_on_another_where_lines_end_together(crowded: Tree, kind: str) -> None:
    drawn = draw(crowded, kind=kind, **DRAWN[kind])
    assert_no_text_lies_on_another(drawn)
    said = words(drawn)
    assert "95 % interval" in said
    assert "items and seeds" in said
    assert all(axes.get_xlabel() for axes in drawn.axes if axes.xaxis.get_tick_params()["labelbottom"])
    assert "1\N{EN DASH}10" in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_without_records_says_so_without_overlap(tmp_path: Path, kind: str, crowded: Tree) -> None:
    empty = Tree(Layout(tmp_path / "results", tmp_path / "scratch"), benchmarks=crowded.benchmarks)
    empty.stages, empty.sweeps = crowded.stages, crowded.sweeps
    drawn = draw(empty, kind=kind, **DRAWN[kind])
    assert_no_text_lies_on_another(drawn)
    said = words(drawn)
    assert "no records yet" in said or "no scores" in said
    assert "Not trained yet: " in said


def test_a_panel_that_is_narrow_has_room_for_its_axis(crowded: Tree) -> None:
    names = ["exam", "chat", "exam"]
    drawn = draw(
        crowded, kind="factor", recipes={"LAB": "grid"}, factor="effective_batch_size", by="learning_rate", benchmarks=names
    )
    assert_no_text_lies_on_another(drawn)


def test_labels_give_way_to_a_key_when_they_crowd(crowded: Tree) -> None:
    few = draw(crowded, kind="dynamics", recipes={"TULU": "early"})
    assert not few.legends
    many = draw(crowded, kind="dynamics", recipes={f"A long name {n} of one run": f"cell{n:02d}" for n in range(12)})
    assert len(many.legends[0].get_texts()) == 12
    assert_no_text_lies_on_another(many)


def test_lines_that_end_early_are_labelled_where_they_end(crowded: Tree) -> None:
    drawn = draw(crowded, kind="scores", arms={"LAB": "cell00", "TULU": "early"}, benchmarks=["exam"])
    drawn.draw_without_rendering()
    frame = drawn.axes[0].get_window_extent()
    boxes = {text.get_text(): text.get_window_extent() for text in drawn.axes[0].texts}
    assert boxes["TULU"].x1 < frame.x1 < boxes["LAB"].x0


def test_no_two_lines_differ_by_colour_alone(crowded: Tree) -> None:
    for lines in (
        lines_of({str(n): str(n) for n in range(28)}),
        expand_recipes(crowded.study(), {"A": "grid", "B": "early"}, PAIR),
    ):
        assert len({(line.dashes, line.marker) for line in lines}) == len(lines)
    assert len(lines_of({str(n): str(n) for n in range(40)})) == 40


@pytest.mark.parametrize(("wanted", "heights", "found"), [
    ([5.0, 1.0], [1.0, 1.0], [5.0, 1.0]),
    ([5.0, 5.0], [1.0, 1.0], [4.5, 5.5]),
    ([9.9, 9.9, 2.0], [1.0, 1.0, 2.0], [8.5, 9.5, 2.0]),
    ([5.0, 5.5, 6.0], [2.0, 2.0, 2.0], [3.5, 5.5, 7.5]),
    ([5.0, 5.0], [6.0, 6.0], None),
])  # fmt: skip
def test_labels_are_spread_as_little_as_they_need(wanted: list[float], heights: list[float], found: list[float] | None) -> None:
    assert spread(wanted, heights, low=0.0, high=10.0) == (found and pytest.approx(found))


def test_a_phased_run_continues_from_its_selected_checkpoint(tree: Tree) -> None:
    first, second = curves(tree.study(), PAIR, "p", layout=tree.layout)
    assert first.samples.tolist() == [5, 10, 15, 20]
    assert first.past.tolist() == [False, False, True, True]
    assert second.samples.tolist() == [15, 20]


def test_a_segment_starts_where_the_selected_checkpoint_stood_and_has_intervals(tree: Tree) -> None:
    results = results_of(tree)
    first, second = segments(results, "exam", results.runs(PAIR, "p", "exam"), {(1, "01-facts"): "ckpt01"})
    assert (first.samples.tolist(), first.mean.tolist()) == ([10, 20], [0.75, 0.25])
    assert (second.samples.tolist(), second.mean.tolist()) == ([10, 20], [0.75, 0.75])
    assert (first.past.tolist(), second.past.tolist()) == ([False, True], [False, False])
    peak = results.cell(PAIR, "p", "exam", "peak").estimate
    assert peak is not None
    assert (first.low[0], first.high[0]) == (peak.low, peak.high)


def test_a_stale_training_record_is_not_drawn(tree: Tree) -> None:
    tree.stages = [stage.model_copy(update={"spec_hash": "today"}) for stage in tree.stages]
    assert curves(tree.study(), PAIR, "p", layout=tree.layout) == []


def test_seeds_are_a_band_if_they_took_the_same_steps() -> None:
    def curve(seed: int, *loss: float) -> Curve:
        steps = np.arange(1.0, len(loss) + 1)
        return Curve(seed, "01-stacked", steps, np.array(loss), np.array(loss), steps > 9)

    (band,) = bands([curve(1, 4.0, 2.0), curve(2, 2.0, 1.0)], "loss") or []
    assert (band.mean.tolist(), band.low.tolist(), band.high.tolist()) == ([3.0, 1.5], [2.0, 1.0], [4.0, 2.0])
    assert bands([curve(1, 4.0, 2.0), curve(2, 2.0)], "loss") is None


def test_stopped_and_unscored_runs_are_told(tree: Tree) -> None:
    for seed in (1, 2):
        tree.stage("s", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0]})}, seed=seed)
    tree.stage("u", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0]})})
    folder = tree.layout.stage_results(*PAIR, "s", 2, "01-stacked")
    edit(folder / "training.json", status="stopped at rung 0.1")
    (tree.layout.stage_results(*PAIR, "u", 1, "01-stacked") / "scores" / "exams" / "all.json").unlink()
    results = results_of(tree)
    lines = {PAIR: lines_of({"P": "p", "S": "s", "U": "u"})}
    assert absences(results, lines, ["exam"], layout=tree.layout) == [
        "Scores missing on exam: U, seed 1.",
        "Stopped at rung 0.1: S, seed 2.",
    ]
    assert absences(results, lines, [], layout=tree.layout) == ["Stopped at rung 0.1: S, seed 2."]


def test_a_factor_figure_has_a_line_per_level_and_refuses_two_recipes_in_one_place(tree: Tree) -> None:
    for recipe, batch, rate in (("a", 64, 1e-3), ("b", 16, 1e-3), ("c", 16, 3e-4), ("d", 16, 3e-4)):
        factors = {"effective_batch_size": batch, "learning_rate": rate}
        tree.stage(recipe, {"ckpt01": (1, 1, {"exam": [1, 1, 1, 0]})}, factors=factors)
    tree.sweeps = {"grid": ["a", "b", "c"]}
    wanted: dict[str, Any] = {"kind": "factor", "caption": "", "factor": "learning_rate", "by": "effective_batch_size"}
    found = series(tree.study(), FactorFigure(**wanted, recipes={"LAB": "grid"}), PAIR)
    assert [(one.look.label, one.recipes) for one in found] == [
        ("batch 16", ((3e-4, "c"), (1e-3, "b"))), ("batch 64", ((1e-3, "a"),)),
    ]  # fmt: skip
    tree.sweeps = {"grid": ["a", "b", "c", "d"]}
    with pytest.raises(StudyError, match="recipes c and d share learning_rate and effective_batch_size"):
        series(tree.study(), FactorFigure(**wanted, recipes={"LAB": "grid"}), PAIR)


def test_a_factor_is_a_training_key() -> None:
    with pytest.raises(ValidationError, match="by: batch is no training key"):
        figure(kind="factor", recipes={"A": "a"}, factor="learning_rate", by="batch")


def test_an_early_mark_is_the_mean_over_seeds(tree: Tree) -> None:
    for seed, norm in ((1, 2.0), (2, 4.0)):
        tree.stage(
            "s", {"ckpt01": (100, 100, {"exam": [1, 1, 1, 0]})}, seed=seed, steps=[(n * 10, 1.0, norm + n) for n in range(1, 11)]
        )
    wanted = EarlyFigure(kind="early", caption="", recipes={"S": "s"}, until=0.2)
    (mark,) = marks(results_of(tree), [Line("S", "s", "k", (0, ()), "o")], PAIR, "exam", "grad_norm", wanted, layout=tree.layout)
    assert (mark.least, mark.signal, mark.greatest, mark.final.value) == (3.5, 4.5, 5.5, 0.75)


def test_samples_to_the_peak_have_whiskers_below_the_scores(tree: Tree) -> None:
    tree.stage("a", {"ckpt01": (1_000, 1_000, {"exam": [1, 1, 0, 0]}), "ckpt02": (2_000, 2_000, {"exam": [0, 1, 1, 1]})})
    tree.stages = [stage for stage in tree.stages if stage.recipe != "p"]
    drawn = draw(tree, kind="scores", arms={"A": "a"})
    whisker, dot = drawn.axes[1].lines[:2]
    assert list(whisker.get_xdata()) == [1_000, 2_000]
    assert list(dot.get_xdata()) == [2_000]
    said = words(drawn)
    assert "One seed: the intervals say nothing of other seeds." in said


@pytest.mark.parametrize("kind", KINDS)
def test_two_renders_are_the_same_bytes_without_dates(tree: Tree, kind: str) -> None:
    keys = {"arms": {"A": "p", "B": "p"}} if "arms" in DRAWN[kind] else {"recipes": {"A": "p"}}
    tree.figures = {"drawn": figure(kind=kind, **({"factor": "learning_rate"} if kind == "factor" else {}), **keys)}
    collect_scores([tree.study()], layout=tree.layout)
    folder = tree.layout.study_folder("toy") / "figures"
    renders = []
    for _ in range(2):
        render_figure(tree.study(), "drawn", layout=tree.layout)
        renders.append([(folder / f"drawn.{kind}").read_bytes() for kind in ("png", "pdf")])
    assert renders[0] == renders[1]
    assert b"CreationDate" not in renders[0][1]
    assert renders[0][0].startswith(b"\x89PNG")


def test_samples_are_told_to_three_digits() -> None:
    assert [panels.count_text(number) for number in (0, 576, 6_528, 249_505, 1_250_000)] == ["0", "576", "6.53k", "250k", "1.25M"]


def test_unknown_figure_is_named(tree: Tree) -> None:
    tree.figures = {"scores": ScoresFigure(kind="scores", caption="", arms={"Phased": "p"})}
    with pytest.raises(StudyError, match="no figure nix; it has scores"):
        render_figure(tree.study(), "nix", layout=tree.layout)


def test_a_sweep_becomes_its_cells_in_order_of_their_factors(tree: Tree) -> None:
    for recipe, batch, rate in (("a", 64, 1e-3), ("b", 16, 1e-3), ("c", 16, 3e-4)):
        tree.stage(
            recipe, {"ckpt01": (1, 1, {"exam": [1, 1, 1, 0]})}, factors={"effective_batch_size": batch, "learning_rate": rate}
        )
    tree.sweeps = {"grid": ["a", "b", "c"]}
    lines = expand_recipes(tree.study(), {"Grid": "grid"}, PAIR)
    assert [line.label for line in lines] == ["batch 16, LR 3e-4", "batch 16, LR 1e-3", "batch 64, LR 1e-3"]
    assert lines[0].dashes == lines[1].dashes != lines[2].dashes
    assert lines[0].marker != lines[1].marker == lines[2].marker
    assert lines[0].color != lines[1].color == lines[2].color
    tree.sweeps["again"] = ["c", "a"]
    names = [line.label for line in expand_recipes(tree.study(), {"Grid": "grid", "B": "b", "Again": "again"}, PAIR)]
    assert names == ["Grid: batch 16, LR 3e-4", "Grid: batch 16, LR 1e-3", "Grid: batch 64, LR 1e-3"]


def test_running_mean_keeps_length_and_ends() -> None:
    assert running_mean(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]
