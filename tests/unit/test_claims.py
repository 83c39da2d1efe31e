"""Claims over toy records: each kind holds, does not hold, or is left open, and says why."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from sftstudy import spec
from sftstudy.claims.check import check_claims
from sftstudy.claims.verdicts import Measured, Question, decide, pooled
from sftstudy.config import Claim, Training
from sftstudy.findings import ClaimCell, ClaimEffect, ClaimsRecord
from sftstudy.paths import Layout
from sftstudy.records import StepMetrics
from sftstudy.stats.equivalence import Effect
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.early import early_mean
from table_toys import Tree

NUM_ITEMS = 200
CLAIMS: TypeAdapter[Claim] = TypeAdapter(Claim)


def items(share: float, seed: int = 0) -> dict[str, list[float | None]]:
    """Of 200 items, which are hard for all alike, the easier share is right; a few are luck."""
    rng = np.random.default_rng(seed)
    right = np.arange(NUM_ITEMS) < share * NUM_ITEMS
    lucky = rng.uniform(size=NUM_ITEMS) < 0.02
    return {"exam": [float(value) for value in right ^ lucky]}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Recipe a is better than b, and c is as good as a; two seeds each."""
    tree = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    tree.base(items(0.2))
    for recipe, share in (("a", 0.8), ("b", 0.5), ("c", 0.8)):
        for seed in (1, 2):
            early, late = items(share - 0.3, seed), items(share, seed)
            tree.stage(
                recipe,
                {"ckpt01": (10, 10, early), "ckpt02": (20, 20, late), "ckpt03": (30, 30, items(share - 0.1, seed))},
                seed=seed,
            )
    return tree


def check(tree: Tree, **claims: dict[str, Any]) -> ClaimsRecord:
    study = tree.study().model_copy(
        update={"claims": {name: CLAIMS.validate_python({"statement": name} | claim) for name, claim in claims.items()}}
    )
    collect_scores([study], layout=tree.layout)
    check_claims(study, layout=tree.layout)
    return ClaimsRecord.model_validate_json((tree.layout.study_folder("toy") / "claims.json").read_bytes())


def arms(kind: str, first: str, second: str, margin: float = 0.1, at: str = "peak") -> dict[str, Any]:
    return {"kind": kind, "first": first, "second": second, "margins": {"exam": margin}, "at": at}


def test_a_direction_holds_or_does_not_or_is_left_open(tree: Tree) -> None:
    record = check(
        tree,
        better=arms("direction", "a", "b"),
        worse=arms("direction", "b", "a"),
        alike=arms("direction", "a", "c", margin=0.03),
        negligible=arms("direction", "a", "b", margin=0.9),
    )
    assert [claim.verdict for claim in record.claims] == ["holds", "does not hold", "not enough power", "does not hold"]
    effect = record.claims[0].cells[0].effect
    assert effect.value == pytest.approx(0.3, abs=0.05)
    assert record.claims[0].cells[0].needed_items is None
    alike = record.claims[2].cells[0]
    assert alike.needed_both or alike.needed_items or alike.needed_seeds


def test_equivalence_needs_evidence(tree: Tree) -> None:
    record = check(
        tree,
        alike=arms("equivalence", "a", "c"),
        different=arms("equivalence", "a", "b"),
        strict=arms("equivalence", "a", "c", margin=0.0001),
    )
    assert [claim.verdict for claim in record.claims] == ["holds", "does not hold", "not enough power"]


def test_readings_differ_where_arms_peak_at_different_places(tree: Tree) -> None:
    details = check(tree, one=arms("direction", "a", "b", at="last")).claims[0].cells[0].details
    assert set(details) >= {"last", "peak", "held-out-peak", "samples_seen", "gpu_hours", "optimism of the first arm's peak"}
    assert details["peak"].value == pytest.approx(0.3, abs=0.05)
    assert details["gpu_hours"].note == "no checkpoint within it"  # the toy has no spec.yaml of its stages


def test_equal_budgets_take_the_latest_checkpoint_that_both_can_pay(tree: Tree) -> None:
    for recipe, steps in (("a", 3), ("b", 12)):
        for seed in (1, 2):
            folder = tree.layout.stage_results("m", "d", recipe, seed, "01-stacked")
            made = spec.StageSpec(
                model="m", data="d", recipe=recipe, seed=seed, stage="01-stacked", model_hash="m", num_steps=steps,
                training=Training(effective_batch_size=1, learning_rate=1, epochs=1, num_checkpoints=1), checkpoints=[],
            )  # fmt: skip
            spec.write(folder / "spec.yaml", made)
            training = (folder / "training.json").read_text()
            for number, place in enumerate((1, 2, 3), start=1):
                old = f'"ckpt": "ckpt0{number}",\n   "step": 1'
                assert old in training
                training = training.replace(old, f'"ckpt": "ckpt0{number}",\n   "step": {place * steps // 3}')
            (folder / "training.json").write_text(training.replace('"num_steps": 1', f'"num_steps": {steps}'))
            line = (folder / "metrics.jsonl").with_suffix(".jsonl")
            one = StepMetrics(
                step=1,
                samples_seen=1,
                loss=1,
                grad_norm=1,
                learning_rate=1,
                num_supervised_tokens=1,
                num_tokens=1,
                time_s=3600,
                tokens_per_s=1,
            )
            line.write_text((one.model_dump_json() + "\n") * steps)
    (cell,) = check(tree, one=arms("direction", "a", "b")).claims[0].cells
    details = cell.details
    assert (cell.spent["steps"], cell.spent["gpu_hours"], cell.spent["samples_seen"]) == ((3, 12), (3, 12), (30, 30))
    page = tree.layout.study_folder("toy") / "claims.html"
    assert "nequal budgets" not in page.read_text()  # other numbers of steps for the same samples
    assert details["steps"].note == "no checkpoint within it"  # three steps do not pay for b's first checkpoint at four
    assert details["samples_seen"].value == details["last"].value
    for seed in (1, 2):
        training = tree.layout.stage_results("m", "d", "b", seed, "01-stacked") / "training.json"
        training.write_text(training.read_text().replace('"samples_seen": 30', '"samples_seen": 40'))
    check(tree, one=arms("direction", "a", "b"))
    assert "<details open><summary>Unequal budgets; the same at" in page.read_text()


def test_one_seed_per_arm_is_said_to_say_nothing_about_others(tree: Tree) -> None:
    page = tree.layout.study_folder("toy") / "claims.html"
    check(tree, open=arms("equivalence", "a", "c", margin=0.001))
    assert "one seed per arm" not in page.read_text()
    tree.stages = [stage for stage in tree.stages if stage.seed != 2]
    (cell,) = check(tree, open=arms("equivalence", "a", "c", margin=0.001)).claims[0].cells
    assert (cell.num_runs, cell.needed_seeds, cell.verdict) == (2, None, "not enough power")
    assert "There is one seed per arm, so intervals are over items only" in page.read_text()
    assert "how many seeds, two per arm would tell" in page.read_text()


def test_no_runs_are_no_verdict(tree: Tree) -> None:
    for seed in (1, 2):
        (tree.layout.stage_results("m", "d", "b", seed, "01-stacked") / "scores" / "exams" / "all.json").unlink()
    (cell,) = check(tree, gone=arms("direction", "a", "b")).claims[0].cells
    assert (cell.verdict, cell.effect.value, cell.p_holds) == ("not enough power", None, None)
    assert "no complete runs" in cell.effect.note


def test_efficiency_is_left_open_while_an_arm_still_rises(tree: Tree) -> None:
    for seed in (1, 2):
        tree.stage("rising", {f"ckpt0{i}": (40 * i, 40 * i, items(0.2 * i, seed)) for i in (1, 2, 3)}, seed=seed)
    claim = {"kind": "efficiency", "benchmarks": ["exam"]}
    record = check(tree, sooner=claim | {"first": "a", "second": "rising"}, later=claim | {"first": "rising", "second": "a"})
    sooner, later = record.claims
    assert (sooner.verdict, sooner.cells[0].effect.value) == ("holds", pytest.approx(20 / 120, abs=1e-5))
    assert later.verdict == "does not hold"
    assert "perhaps still rising: rising" in later.cells[0].effect.note
    mutual = check(tree, both=claim | {"first": "rising", "second": "rising"}).claims[0]
    assert mutual.verdict == "not enough power"


EFFICIENCY = {"kind": "efficiency", "first": "early", "second": "late", "benchmarks": ["exam"]}


def test_efficiency_by_one_seed_per_arm_is_said_to_say_nothing_about_others(tree: Tree) -> None:
    for recipe, shares in (("early", (0.8, 0.5, 0.4)), ("late", (0.4, 0.8, 0.5))):
        tree.stage(recipe, {f"ckpt0{i}": (20 * i, 20 * i, items(share)) for i, share in enumerate(shares, start=1)})
    assert check(tree, sooner=EFFICIENCY).claims[0].verdict == "holds"
    assert "There is one seed per arm" in (tree.layout.study_folder("toy") / "claims.html").read_text()


def test_efficiency_is_not_shown_by_one_item(tmp_path: Path) -> None:
    tree = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    for recipe, right in (("early", (1.0, 1.0, 0.0)), ("late", (0.0, 1.0, 0.0))):
        tree.stage(recipe, {f"ckpt0{i}": (20 * i, 20 * i, {"exam": [value]}) for i, value in enumerate(right, start=1)})
    (cell,) = check(tree, sooner=EFFICIENCY).claims[0].cells
    assert (cell.verdict, cell.p_holds, cell.p_fails) == ("not enough power", None, None)
    assert cell.effect.note == "fewer than two items"


def test_pairs_whose_peaks_never_move_are_pooled_as_sure_as_checkpoints_are_close(tree: Tree) -> None:
    """Each pair shows it; three of them, with t of two degrees, do not."""
    for data in ("d", "e", "f"):
        for recipe, shares in (("early", (0.4, 0.8, 0.5, 0.4)), ("late", (0.3, 0.4, 0.8, 0.5))):
            scores = {f"ckpt0{i}": (20 * i, 20 * i, items(share)) for i, share in enumerate(shares, start=1)}
            tree.stage(recipe, scores, pair=("m", data))
    claim = check(tree, sooner=EFFICIENCY).claims[0]
    assert [cell.verdict for cell in claim.cells] == ["holds"] * 3
    (overall,) = claim.pooled
    assert (overall.num_runs, overall.verdict) == (3, "not enough power")
    assert overall.effect.value == pytest.approx(2 / 3, abs=0.01)
    assert overall.p_holds is not None
    assert 0.05 < overall.p_holds < 0.1


def test_an_early_signal_ranks_recipes_in_the_mean_of_seeds(tmp_path: Path) -> None:
    tree = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    for number in range(9):
        for seed in (1, 2):
            steps = [(step, 2.0 - 0.1 * number, 1.0 + number + 0.01 * seed) for step in range(1, 21)]
            scores = {"ckpt01": (20, 20, items(0.9 - 0.08 * number, seed))}
            tree.stage(f"r{number}", scores, seed=seed, steps=steps, factors={"effective_batch_size": number % 2})
    signal = {"kind": "early-signal", "recipes": [f"r{number}" for number in range(9)], "benchmarks": ["exam"]}
    record = check(
        tree,
        norm=signal | {"signal": "grad_norm", "promising": "low"},
        loss=signal | {"signal": "loss", "promising": "high"},
        within=signal | {"signal": "grad_norm", "promising": "low", "within": "effective_batch_size"},
        wrong=signal | {"signal": "loss", "promising": "low"},
    )
    assert [claim.verdict for claim in record.claims] == ["holds", "holds", "holds", "does not hold"]
    assert record.claims[0].cells[0].num_runs == 9
    details = record.claims[3].cells[0].details
    assert details["regret of keeping 5 of 9 by it"].value == pytest.approx(0.32, abs=0.06)


def test_the_early_mean_is_over_the_first_share_of_samples() -> None:
    steps = [
        StepMetrics(
            step=n, samples_seen=100 + 10 * n, loss=n, grad_norm=0, learning_rate=1, num_supervised_tokens=1, num_tokens=1,
            time_s=1, tokens_per_s=1,
        )
        for n in range(1, 21)
    ]  # fmt: skip
    assert early_mean(steps, "loss", 0.2) == pytest.approx(2.5)
    assert early_mean(steps, "loss", 0.01) == 1


def test_robustness_is_over_pairs(tree: Tree) -> None:
    robust = {"kind": "robustness", "claims": ["better"]}
    alone = check(tree, better=arms("direction", "a", "b"), robust=robust).claims
    assert (alone[0].verdict, alone[1].verdict) == ("holds", "not enough power")
    assert "1 pair" in alone[1].cells[0].effect.note
    for data, shares in (("e", {"a": 0.75, "b": 0.45}), ("f", {"a": 0.85, "b": 0.54})):
        for recipe, share in shares.items():
            for seed in (1, 2):
                tree.stage(recipe, {"ckpt01": (30, 30, items(share, seed))}, seed=seed, pair=("m", data))
    record = check(tree, better=arms("direction", "a", "b"), robust=robust)
    assert [claim.verdict for claim in record.claims] == ["holds", "holds"]
    (overall,) = record.claims[0].pooled
    assert (overall.num_runs, overall.effect.value) == (3, pytest.approx(0.3, abs=0.05))
    forest = (tree.layout.study_folder("toy") / "claims.html").read_text().split('<section id="robust">')[1]
    assert [forest.count(f'<th scope="row">{place}</th>') for place in ("m, d", "m, e", "m, f", "pooled over 3 pairs")] == [1] * 4
    assert forest.count("<polygon") == 1
    assert "between pairs: standard deviation" in forest
    for seed in (1, 2):
        for recipe, share in (("a", 0.3), ("b", 0.7)):
            tree.stage(recipe, {"ckpt01": (30, 30, items(share, seed))}, seed=seed, pair=("m", "g"))
    assert [claim.verdict for claim in check(tree, better=arms("direction", "a", "b"), robust=robust).claims] == [
        "does not hold"
    ] * 2


def test_an_arm_may_go_by_another_name_on_another_model(tree: Tree) -> None:
    tree.base(items(0.3), model="n")
    for recipe, share in (("big-a", 0.7), ("big-b", 0.4)):
        for seed in (1, 2):
            tree.stage(recipe, {"ckpt01": (30, 30, items(share, seed))}, seed=seed, pair=("n", "d"))
    named = arms("direction", "a", "b") | {"first": ["a", "big-a"], "second": ["b", "big-b"]}
    sooner = {"kind": "efficiency", "first": "big-a", "second": "big-b", "benchmarks": ["exam"]}
    better, alone = check(tree, better=named, alone=sooner).claims
    assert [(cell.model, cell.arms) for cell in better.cells] == [("m", ("a", "b")), ("n", ("big-a", "big-b"))]
    assert better.verdict == "holds"
    assert [cell.model for cell in alone.cells] == ["n"]  # what lacks an arm is left out
    page = (tree.layout.study_folder("toy") / "claims.html").read_text()
    assert "First: <code>a</code> or <code>big-a</code>" in page


def cell(p_holds: float, p_fails: float, effect: float = 0.1) -> Measured:
    made = ClaimCell(
        model="m", data="d", benchmark="exam", verdict="not enough power", effect=ClaimEffect(), p_holds=p_holds, p_fails=p_fails,
        needed_seeds=9,
    )  # fmt: skip
    return Measured(made, Question("direction", 0.05), Effect(effect, 0.05, 10, p_holds))


def test_a_conjunction_needs_no_correction_and_a_refutation_does() -> None:
    assert decide([cell(0.04, 1), cell(0.03, 1), cell(0.05, 1)])[0] == "holds"
    assert decide([cell(0.04, 1), cell(0.06, 1)])[0] == "not enough power"
    assert decide([cell(0.04, 1), cell(1, 0.04)])[0] == "not enough power"  # 0.08 after Holm
    verdict, cells = decide([cell(0.04, 1), cell(1, 0.02)])
    assert (verdict, [one.verdict for one in cells]) == ("does not hold", ["holds", "does not hold"])
    assert [one.needed_seeds for one in cells] == [None, None]


def test_pooling_takes_two_effects() -> None:
    assert pooled([cell(0.1, 1)]) == []
    (found,) = pooled([cell(0.1, 1), cell(0.1, 1, effect=0.2)])
    assert found.effect.value == pytest.approx(0.15)
    assert found.needed_pairs is not None
    assert found.needed_pairs > 2


class _Outside(HTMLParser):
    """Collects what would reach outside of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in {"script", "link", "img", "iframe"} else []
        self.found += [str(value) for name, value in attrs if name in {"src", "href"} and not str(value).startswith("#")]


def test_the_page_stands_alone_and_is_the_same_every_time(tree: Tree) -> None:
    claims = {"better": arms("direction", "a", "b"), "same": arms("equivalence", "a", "c") | {"statement": "<b>a & c</b>"}}
    check(tree, **claims)
    page, record = (tree.layout.study_folder("toy") / name for name in ("claims.html", "claims.json"))
    first = page.read_bytes(), record.read_bytes()
    check(tree, **claims)
    assert (page.read_bytes(), record.read_bytes()) == first
    parser = _Outside()
    parser.feed(page.read_text())
    assert parser.found == []
    assert "&lt;b&gt;a &amp; c&lt;/b&gt;" in page.read_text()
    assert re.findall(r'class="badge (\w+)"', page.read_text())[:2] == ["holds", "holds"]
