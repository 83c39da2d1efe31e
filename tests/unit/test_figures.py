"""What the figures draw, and that the same records give the same bytes."""

from pathlib import Path

import numpy as np
import pytest

from sftstudy.config import DynamicsFigure, ScoresFigure
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.figures import render_figure
from sftstudy.tables.figures.dynamics import curves, running_mean
from sftstudy.tables.figures.runs import expand_recipes
from sftstudy.tables.figures.scores import segments
from table_toys import Tree

PAIR = ("m", "d")


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
    made.figures = {
        "dynamics": DynamicsFigure(kind="dynamics", caption="", recipes={"Phased": "p", "Never run": "x"}),
        "scores": ScoresFigure(kind="scores", caption="", arms={"Phased": "p", "Never run": "x"}),
    }
    return made


def test_a_phased_run_continues_from_its_selected_checkpoint(tree: Tree) -> None:
    first, second = curves(tree.study(), PAIR, "p", layout=tree.layout)
    assert first.samples.tolist() == [5, 10, 15, 20]
    assert first.past.tolist() == [False, False, True, True]
    assert second.samples.tolist() == [15, 20]


def test_a_segment_starts_where_the_selected_checkpoint_stood(tree: Tree) -> None:
    collect_scores([tree.study()], layout=tree.layout)
    runs = load_results(tree.study(), layout=tree.layout).runs(PAIR, "p", "exam")
    first, second = segments(runs, {(1, "01-facts"): "ckpt01"})
    assert (first.samples.tolist(), first.mean.tolist()) == ([10, 20], [0.75, 0.25])
    assert (second.samples.tolist(), second.mean.tolist()) == ([10, 20], [0.75, 0.75])


def test_a_stale_training_record_is_not_drawn(tree: Tree) -> None:
    tree.stages = [stage.model_copy(update={"spec_hash": "today"}) for stage in tree.stages]
    assert curves(tree.study(), PAIR, "p", layout=tree.layout) == []


@pytest.mark.parametrize("figure", ["dynamics", "scores"])
def test_two_renders_are_the_same_bytes_without_dates(tree: Tree, figure: str) -> None:
    collect_scores([tree.study()], layout=tree.layout)
    folder = tree.layout.study_folder("toy") / "figures"
    renders = []
    for _ in range(2):
        render_figure(tree.study(), figure, layout=tree.layout)
        renders.append([(folder / f"{figure}.{kind}").read_bytes() for kind in ("png", "pdf")])
    assert renders[0] == renders[1]
    assert b"CreationDate" not in renders[0][1]
    assert renders[0][0].startswith(b"\x89PNG")


def test_unknown_figure_is_named(tree: Tree) -> None:
    with pytest.raises(StudyError, match="no figure nix; it has dynamics, scores"):
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
    assert lines[0].color != lines[1].color == lines[2].color


def test_running_mean_keeps_length_and_ends() -> None:
    assert running_mean(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]
