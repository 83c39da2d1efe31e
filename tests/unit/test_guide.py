"""The guide over toy records: which recipe it advises and why, what it says of each factor, and what it would try next."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from sftstudy import stats
from sftstudy.claims.check import check_claims
from sftstudy.config import Claim, Recipe, Training
from sftstudy.findings import GuideComparison, GuideEffect, GuidePair, GuideRecord
from sftstudy.guide.composite import combine, compare, level
from sftstudy.guide.evidence import agreement
from sftstudy.guide.factors import levels_of, neighbours, recipe_values, scale_around, written
from sftstudy.guide.next_steps import beyond, rounded
from sftstudy.guide.write import write_guide
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.registry import load
from sftstudy.spec import PaperAdvice, PlannedBenchmark
from sftstudy.stats import ItemScores
from sftstudy.tables.chart import ticks
from sftstudy.tables.collect import collect_scores
from table_toys import CHAT, EXAM, Tree, stacked

CONFIG = Path(__file__).parents[2] / "config"
NUM_ITEMS = 200
CLAIMS: TypeAdapter[Claim] = TypeAdapter(Claim)
LARGE = PaperAdvice(factor="effective_batch_size", statement="Large.", prefers="high", says="better", grade="A", place="abstract")
PLAIN = PaperAdvice(factor="schedule", statement="Constant.", prefers="constant", says="no worse", grade="B", place="notes")


def items(share: float, seed: int = 0) -> dict[str, list[float | None]]:
    """Of 200 items the easier share is right, and a few are luck."""
    rng = np.random.default_rng(seed)
    right = np.arange(NUM_ITEMS) < share * NUM_ITEMS
    return {"exam": [float(value) for value in right ^ (rng.uniform(size=NUM_ITEMS) < 0.02)]}


def add(tree: Tree, recipe: str, shares: list[float], *, seeds: tuple[int, ...] = (1, 2), **training: Any) -> None:
    """A recipe whose checkpoints, ten samples apart, have these shares of items right."""
    settings = {"effective_batch_size": 64, "learning_rate": 2e-5, "epochs": 1, "num_checkpoints": len(shares)} | training
    for seed in seeds:
        checkpoints = {f"ckpt{n:02d}": (10 * n, 10 * n, items(share, seed)) for n, share in enumerate(shares, start=1)}
        tree.stage(recipe, checkpoints, seed=seed, factors=Training.model_validate(settings).model_dump())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    tree.base(items(0.3))
    return tree


def guide(tree: Tree, **changes: Any) -> GuideRecord:
    study = stacked(tree.study()).model_copy(update=changes)
    collect_scores([study], layout=tree.layout)
    if study.claims:
        check_claims(study, layout=tree.layout)
    write_guide(study, layout=tree.layout)
    return GuideRecord.model_validate_json((tree.layout.study_folder("toy") / "guide.json").read_bytes())


def only(record: GuideRecord) -> GuidePair:
    (pair,) = record.pairs
    return pair


# --- the mean of several benchmarks ----------------------------------------------------------------------------------


def scores(values: list[list[float]], tasks: list[str]) -> ItemScores:
    names = tuple(f"i{n}" for n in range(len(tasks)))
    return ItemScores(tuple(range(len(values))), names, tuple(tasks), names, np.array(values, dtype=float))


def test_the_mean_is_of_normalised_benchmarks_and_of_tasks_within_a_macro_average() -> None:
    benchmarks = {
        "micro": PlannedBenchmark(suite="s", chance=0.25, unit="fraction", metric="acc"),
        "macro": PlannedBenchmark(suite="s", chance=0.0, unit="fraction", metric="acc", average="macro"),
        "rated": CHAT,
    }
    arms = {
        "micro": scores([[1, 1, 1, 0]], ["a", "a", "a", "b"]),
        "macro": scores([[1, 1, 1, 0]], ["a", "a", "a", "b"]),
        "rated": scores([[1, 10]], ["a", "a"]),
    }
    whole = combine(arms, benchmarks)
    assert whole is not None
    expected = ((0.75 - 0.25) / 0.75 + (1 + 0) / 2 + (5.5 - 1) / 9) / 3
    assert stats.mean(whole.values[0], whole.tasks, "macro") == pytest.approx(expected)
    shown = level(whole)
    assert shown is not None
    assert shown.value == pytest.approx(expected)


def test_one_benchmark_has_the_interval_of_its_own_score() -> None:
    values = [[1, 0, 1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0]]
    arm = scores([[float(v) for v in row] for row in values], ["t"] * 8)
    whole = combine({"exam": arm}, {"exam": EXAM})
    own, shown = stats.estimate(arm, "fraction"), level(whole) if whole else None
    assert own is not None
    assert own.low is not None
    assert shown is not None
    assert shown.low == pytest.approx((own.low - 0.25) / 0.75)


def test_equal_answers_may_differ_by_what_the_normalised_scale_allows() -> None:
    """Of two benchmarks that weigh the same, one whose scale begins below guessing, the other with two tasks of its own."""
    two_tasks = PlannedBenchmark(suite="s", chance=0.0, unit="fraction", metric="acc", average="macro")
    arms = {"exam": scores([[1, 0, 1, 1]], ["t"] * 4), "two": scores([[1, 1] * 100], ["a"] * 100 + ["b"] * 100)}
    whole = combine(arms, {"exam": EXAM, "two": two_tasks})
    found = compare(whole, whole) if whole else None
    assert found is not None
    assert [most for _, most in found.strata] == pytest.approx([0.5 / 0.75, 0.25, 0.25])
    assert found.high == pytest.approx((1 - 0.025 ** (1 / 4)) * 0.5 / 0.75)


def test_a_benchmark_without_a_valid_item_has_no_mean() -> None:
    assert combine({"rated": scores([[float("nan")] * 2], ["a", "a"])}, {"rated": CHAT}) is None


# --- the advice ------------------------------------------------------------------------------------------------------


def test_the_best_is_advised_and_who_cannot_be_told_from_it_is_named(tree: Tree) -> None:
    add(tree, "good", [0.6, 0.9])
    add(tree, "alike", [0.6, 0.895])
    add(tree, "poor", [0.4, 0.5])
    pair = only(guide(tree))
    assert pair.best is not None
    assert pair.advised is not None
    assert {one.recipe for one in pair.recipes if one.tied} == {"good", "alike"}
    poor = next(one for one in pair.recipes if one.recipe == "poor")
    assert poor.behind is not None
    assert poor.behind.low > 0
    assert pair.advised.recipe in ("good", "alike")
    assert pair.gain is not None
    assert pair.gain.low > 0
    loaded = yaml.safe_load(pair.overlay)["recipes"]["advised-toy"]
    assert Recipe.model_validate(loaded).training.learning_rate == 2e-5
    text = (tree.layout.study_folder("toy") / "guide.html").read_text()
    assert "poor" in text
    assert "Every other recipe" not in text


def test_an_earlier_checkpoint_within_one_error_is_advised_and_says_what_it_gives_up(tree: Tree) -> None:
    add(tree, "flat", [0.5, 0.895, 0.9], seeds=(1,))
    pair = only(guide(tree))
    assert pair.best is not None
    assert pair.advised is not None
    assert (pair.best.ckpt, pair.advised.ckpt) == ("ckpt03", "ckpt02")
    assert pair.advised.behind is not None
    assert pair.advised.error is not None
    assert pair.advised.behind.value <= pair.advised.error
    assert pair.advised.behind.low < 0 < pair.advised.behind.high
    assert any("One seed" in line for line in pair.unknown)


def test_a_cheaper_recipe_that_is_plainly_worse_is_not_advised(tree: Tree) -> None:
    add(tree, "long", [0.5, 0.6, 0.9])
    add(tree, "short", [0.7])
    pair = only(guide(tree))
    assert pair.advised is not None
    assert (pair.advised.recipe, pair.advised.ckpt) == ("long", "ckpt03")


def test_an_incomplete_recipe_is_no_candidate_and_is_named(tree: Tree) -> None:
    add(tree, "good", [0.9])
    add(tree, "better", [0.99])
    for seed in (1, 2):
        (tree.layout.stage_results("m", "d", "better", seed, "01-stacked") / "scores/exams/all.json").unlink()
    record = guide(tree)
    pair = only(record)
    assert pair.advised is not None
    assert pair.advised.recipe == "good"
    assert pair.absent == {"better": "2 records missing"}
    assert record.missing == {"missing": 2}
    assert pair.steps[0].kind == "missing"


def test_without_a_complete_run_there_is_no_advice(tree: Tree) -> None:
    add(tree, "a", [0.9])
    for seed in (1, 2):
        (tree.layout.stage_results("m", "d", "a", seed, "01-stacked") / "scores/exams/all.json").unlink()
    pair = only(guide(tree))
    assert pair.advised is None
    assert pair.overlay == ""
    assert pair.why == "no recipe has a complete run"
    assert "No advice: no recipe has a complete run" in (tree.layout.study_folder("toy") / "guide.html").read_text()


def test_a_benchmark_without_scores_leaves_the_mean_and_is_named(tree: Tree) -> None:
    add(tree, "good", [0.9])
    add(tree, "poor", [0.5])
    pair = only(guide(tree, benchmarks={"exam": EXAM, "chat": CHAT}))
    assert pair.advised is not None
    assert pair.advised.recipe == "good"
    assert "chat is not in the mean: no recipe has a complete run on it." in pair.unknown
    assert [one.counted for one in pair.benchmarks] == [True, False]


def test_no_gain_over_the_base_is_said(tree: Tree) -> None:
    add(tree, "idle", [0.3])
    guide(tree)
    assert "so that no gain is shown" in (tree.layout.study_folder("toy") / "guide.html").read_text()


# --- factors ---------------------------------------------------------------------------------------------------------


def test_recipes_that_differ_in_one_factor_are_neighbours_level_by_level(tree: Tree) -> None:
    for rate in (1e-5, 2e-5, 4e-5):
        add(tree, f"lr{rate:.0e}", [0.5], learning_rate=rate)
    add(tree, "warm", [0.5], warmup_steps=20)
    add(tree, "cold", [0.5], warmup_steps=0, num_checkpoints=1)
    add(tree, "both", [0.5], warmup_steps=20, schedule="linear")
    study = stacked(tree.study())
    levels = {name: levels_of(study, name) for name in ("lr1e-05", "lr2e-05", "lr4e-05", "warm", "cold", "both")}
    found = {factor: set(pairs) for factor, pairs in neighbours(levels).items()}
    assert found["learning_rate"] == {
        ("lr1e-05", "lr2e-05"), ("lr2e-05", "lr4e-05"), ("lr1e-05", "cold"), ("lr4e-05", "cold"),
    }  # fmt: skip
    assert found["warm-up"] == {("lr2e-05", "warm"), ("warm", "cold")}
    assert found["schedule"] == {("warm", "both")}
    assert found["computation"] == {("lr2e-05", "cold")}
    assert scale_around(levels, "lr2e-05", "learning_rate") == [1e-5, 2e-5, 4e-5]
    assert scale_around(levels, "both", "learning_rate") == [2e-5]


def test_every_shipped_recipe_comes_back_from_its_study() -> None:
    registry, _ = load(CONFIG)
    names = [name for name in registry.studies if name != "tiny-screen"]
    plan = Plan(registry, names, CONFIG)
    seen = set()
    for name in names:
        study = plan.study_spec(name)
        for recipe in {stage.recipe for stage in study.stages} - {"none"}:
            text = yaml.safe_dump(written(recipe_values(study, recipe)))
            back = Recipe.model_validate(yaml.safe_load(text))
            known = registry.recipes[recipe]
            assert back.training.model_dump() == known.training.model_dump(), recipe
            assert back.model_copy(update={"training": known.training, "sources": known.sources}) == known, recipe
            seen.add(recipe)
    assert len(seen) > 40


def test_a_sentence_says_no_more_than_its_interval(tree: Tree) -> None:
    add(tree, "large", [0.9], effective_batch_size=256)
    add(tree, "small", [0.5])
    add(tree, "wave", [0.505], schedule="cosine")
    pair = only(guide(tree, advice={"batch": LARGE, "schedule": PLAIN}))
    batch, schedule = pair.factors
    (shown,) = batch.comparisons
    assert (shown.first, shown.first_level) == ("large", "256")
    assert shown.effect.low > 0
    assert "exam is higher with batch size 256 than with 64" in shown.sentence
    assert batch.paper is not None
    assert batch.paper.agreement == "Agrees on exam."
    (open_one,) = schedule.comparisons
    assert open_one.effect.low < 0 < open_one.effect.high
    assert "no difference can be shown" in open_one.sentence
    assert schedule.paper is not None
    assert schedule.paper.agreement.startswith("Not contradicted: not ruled out on exam")


def test_the_advised_levels_stand_beside_those_that_the_paper_would_take(tree: Tree) -> None:
    add(tree, "large", [0.5], effective_batch_size=256)
    add(tree, "small", [0.9])
    batch, schedule = only(guide(tree, advice={"batch": LARGE, "schedule": PLAIN})).settings
    assert (batch.advised, batch.tried, batch.preferred) == ("64", ["64", "256"], "256")
    assert (schedule.advised, schedule.tried, schedule.preferred) == ("constant", ["constant"], "constant")


def test_two_levels_of_which_the_paper_prefers_neither_say_nothing_about_it(tree: Tree) -> None:
    add(tree, "wave", [0.9], schedule="cosine")
    add(tree, "line", [0.5], schedule="linear")
    (schedule,) = only(guide(tree, advice={"schedule": PLAIN})).factors
    assert schedule.comparisons[0].effect.low > 0
    assert schedule.paper is not None
    assert schedule.paper.agreement == "Cannot tell: nothing was compared with constant."


@pytest.mark.parametrize(
    ("says", "effects", "expected"),
    [
        ("better", [(0.1, 0.05, 0.15, 0.01)], "Agrees on b0."),
        ("better", [(-0.1, -0.15, -0.05, 0.01)], "Disagrees on b0."),
        ("better", [(0.1, -0.05, 0.25, 0.2)], "Cannot tell: of 1 comparisons none shows a difference."),
        ("no worse", [(0.0, -0.01, 0.01, 1.0)], "Agrees: no worse by more than the study's margins throughout."),
        ("no worse", [(0.0, -0.2, 0.2, 1.0)], "Not contradicted: not ruled out on b0: a loss of up to 0.20."),
        ("no worse", [(-0.1, -0.15, -0.05, 0.01)], "Disagrees on b0: what it prefers is worse."),
        (
            "better",
            [(0.1, 0.05, 0.15, 0.01), (-0.1, -0.15, -0.05, 0.01), (0.0, -0.2, 0.2, 1.0)],
            "Agrees on b0, and disagrees on b1; elsewhere no difference can be shown.",
        ),
    ],
)
def test_agreement_needs_evidence(says: Any, effects: list[tuple[float, float, float, float]], expected: str) -> None:
    said = LARGE.model_copy(update={"says": says})
    comparisons = [
        GuideComparison(
            first="a", second="b", first_level="1", second_level="2", benchmark=f"b{number}", p=p, margin=0.05, beside={},
            sentence="", effect=GuideEffect(value=value, low=low, high=high),
        )
        for number, (value, low, high, p) in enumerate(effects)
    ]  # fmt: skip
    assert agreement(said, comparisons) == expected


# --- next ------------------------------------------------------------------------------------------------------------


def test_the_value_beyond_an_edge() -> None:
    assert beyond([1e-5, 2e-5, 4e-5], 4e-5) == pytest.approx(8e-5)
    assert beyond([1e-5, 2e-5, 4e-5], 1e-5) == pytest.approx(5e-6)
    assert beyond([1e-5, 2e-5, 4e-5], 2e-5) is None
    assert beyond([2e-5], 2e-5) is None
    assert beyond([0.0, 20.0], 0.0) is None
    assert rounded("effective_batch_size", beyond([16, 64], 16) or 0, [16, 64]) == 4
    assert rounded("learning_rate", 2.45e-4, [7e-4, 2e-3]) == 2e-4
    assert rounded("learning_rate", 1.21e-3, [1e-3, 1.1e-3]) == 1.2e-3


def steps(pair: GuidePair) -> dict[str, Any]:
    return {step.kind: step for step in pair.steps}


def test_an_edge_of_the_grid_and_a_rising_end_are_to_be_passed(tree: Tree) -> None:
    for rate, share in ((1e-5, 0.5), (2e-5, 0.6), (4e-5, 0.9)):
        add(tree, f"lr{rate:.0e}", [share - 0.2, share], learning_rate=rate)
    record = guide(tree)
    found = steps(only(record))
    assert found["edge"].sweeps["lr4e-05-next-learning-rate"]["vary"] == {"learning_rate": [8e-5]}
    assert "above 2e-5" in found["edge"].sentence
    assert found["longer"].sweeps["lr4e-05-next-epochs"]["vary"] == {"epochs": [2.0]}
    assert "search" not in found
    assert yaml.safe_load(record.next_study)["runs"][0]["recipe"][0] == "lr4e-05"
    assert set(yaml.safe_load(record.next_recipes)["sweeps"]) == set(yaml.safe_load(record.next_study)["runs"][0]["recipe"][1:])


def test_a_rate_that_was_not_varied_is_to_be_searched_and_a_tie_needs_power(tree: Tree) -> None:
    add(tree, "one", [0.9, 0.7], seeds=(1,))
    add(tree, "two", [0.895, 0.7], seeds=(1,), schedule="cosine")
    found = steps(only(guide(tree)))
    assert next(iter(found["search"].sweeps.values()))["vary"] == {"learning_rate": [1e-5, 2e-5, 4e-5]}
    assert "longer" not in found
    assert yaml.safe_load(found["power"].snippet) == {"seed": [1, 2]}
    assert "With one seed" in found["power"].sentence


def test_signals_that_point_the_other_way_are_told(tree: Tree) -> None:
    for number in range(8):
        run = items(0.2 + 0.08 * number)
        factors = Training(effective_batch_size=8, learning_rate=1e-5 * (1 + number), epochs=1, num_checkpoints=1).model_dump()
        tree.stage(f"r{number}", {"ckpt01": (10, 10, run)}, steps=[(5, 1.0, 1.0 + number), (10, 1.0, 1.0)], factors=factors)
    claim = {"kind": "early-signal", "statement": "s", "recipes": [f"r{n}" for n in range(8)], "signal": "grad_norm"}
    claims = {"low": claim | {"promising": "low", "until": 0.5, "benchmarks": ["exam"]}}
    claims["high"] = claims["low"] | {"promising": "high"}
    record = guide(tree, claims={name: CLAIMS.validate_python(one) for name, one in claims.items()})
    low, high = (step for step in only(record).steps if step.kind == "signals")
    assert "points the other way on exam: do not stop runs by it" in low.sentence
    assert "screen" in yaml.safe_load(high.snippet)
    assert {claim.name: claim.verdict for claim in record.claims} == {"low": "does not hold", "high": "holds"}


def test_each_model_and_data_set_has_its_own_advice_and_its_own_names(tree: Tree) -> None:
    tree.base(items(0.3), model="other")
    for pair, shares in {("m", "d"): (0.9, 0.5), ("other", "d"): (0.5, 0.9)}.items():
        for recipe, rate, share in (("low", 1e-5, shares[0]), ("high", 2e-5, shares[1])):
            factors = Training(effective_batch_size=8, learning_rate=rate, epochs=1, num_checkpoints=1).model_dump()
            tree.stage(recipe, {"ckpt01": (10, 10, items(share))}, pair=pair, factors=factors)
    record = guide(tree)
    assert [pair.advised.recipe for pair in record.pairs if pair.advised] == ["low", "high"]
    assert {pair.name for pair in record.pairs} == {"advised-toy-m-d", "advised-toy-other-d"}
    assert [run["recipe"] for run in yaml.safe_load(record.next_study)["runs"]] == [
        ["low", "low-next-learning-rate-m-d"], ["high", "high-next-learning-rate-other-d"],
    ]  # fmt: skip
    sweeps = yaml.safe_load(record.next_recipes)["sweeps"]
    assert [sweep["vary"]["learning_rate"] for sweep in sweeps.values()] == [[5e-6], [4e-5]]


# --- files -----------------------------------------------------------------------------------------------------------


def test_ticks_are_round_and_within() -> None:
    assert ticks(0, 7552) == [0, 2000, 4000, 6000]
    assert ticks(-0.07, 0.31) == [0.0, 0.1, 0.2, 0.3]
    assert ticks(0.5, 0.5) == [0.5]


class Tags(HTMLParser):
    """Fails on a tag that is closed where another is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "rect", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "rect", "line", "circle"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_the_same_from_the_same_records(tree: Tree) -> None:
    add(tree, "a", [0.5, 0.9])
    add(tree, "b", [0.5, 0.6], learning_rate=4e-5)
    guide(tree)
    folder = tree.layout.study_folder("toy")
    before = {name: (folder / name).read_bytes() for name in ("guide.json", "guide.html")}
    guide(tree)
    assert before == {name: (folder / name).read_bytes() for name in before}
    parser = Tags()
    parser.feed(before["guide.html"].decode())
    assert parser.open == []
    assert str(tree.layout.results) not in before["guide.html"].decode()
