"""Sums over studies: what sharing saves, what is left, the longest chain, and the page that shows them."""

import re
from pathlib import Path

import pytest

from sftstudy.disk import planned_disk
from sftstudy.environment import Site
from sftstudy.gpus import GPUS
from sftstudy.outlook import PLACES, Outlook, expected_shares, hours, outlook
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.tables.plan_page import to_html, to_text

CONFIG = Path(__file__).parents[2] / "config"
STUDY = "question: q\nruns: [{{model: [big], data: [tiny], recipe: [{recipes}], seed: [1]}}]\nbenchmarks: [{benchmark}]\n"
FILES = {
    "config.yaml": "studies: [first, second]",
    "models.yaml": (
        "big: {source: hub, id: a/b, revision: main, size: {hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32,"
        " num_attention_heads: 32, vocab_size: 32000}}"
    ),
    "recipes.yaml": (
        "recipes:\n  trunk:\n    strategy: phased\n"
        "    training: &t {effective_batch_size: 8, learning_rate: 1e-5, epochs: 1, num_checkpoints: 2, precision: bf16,"
        " sharding: full}\n"
        "    select: {instruct: &s {benchmark: tiny-mmlu}, knowledge: *s}\n"
        "  branch: {strategy: phased, training: *t, select: {knowledge: *s}, starts_from: {recipe: trunk, phase: instruct}}\n"
        "  flat: {strategy: stacked, training: *t}\n"
    ),
    "studies/first.yaml": STUDY.format(recipes="trunk, branch", benchmark="tiny-mmlu"),
    "studies/second.yaml": STUDY.format(recipes="flat, trunk", benchmark="tiny-mt-bench"),
}


def plan_in(root: Path) -> Plan:
    """Two studies that share a run of three stages, in the first of which two recipes begin with the same stage."""
    (root / "overlay" / "studies").mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (root / "overlay" / name).write_text(text)
    planned = Plan.from_config(CONFIG, overlay=root / "overlay")
    return Plan(planned.registry, planned.studies, planned.folder, Layout(root / "results", root / "scratch"))


@pytest.fixture
def found(tmp_path: Path) -> Outlook:
    return outlook(plan_in(tmp_path), Site(GPUS["H100"]))


def test_stages_count_once_as_often_as_studies_want_them_or_by_run(found: Outlook) -> None:
    counts = {
        name: (work.runs, work.stages) for name, work in vars(found).items() if name in {"shared", "no_reuse", "nothing_shared"}
    }
    # trunk 3, branch 2 more, flat 1; the second study trains trunk again; and branch its first stage
    assert counts == {"shared": (3, 6), "no_reuse": (4, 9), "nothing_shared": (4, 10)}
    assert {name: work.stages for name, work in found.studies.items()} == {"first": 5, "second": 4}
    assert found.shared.training_hours < found.no_reuse.training_hours < found.nothing_shared.training_hours
    assert found.left == found.shared.__class__(**{**vars(found.shared), "runs": 0})


def test_stopping_early_takes_a_share_of_each_stage(found: Outlook) -> None:
    # two runs compete in each study: 0.25 + 0.5 x 0.75 of a run's first own stage, half of its later ones
    assert expected_shares(found.forecast.plan.registry.studies["first"]) == (0.625, 0.5)
    hours_of = {
        (stage.recipe, stage.stage): need.gpu_hours
        for stage in found.forecast.plan.stages.values()
        if (need := found.forecast.training(stage))
    }
    first = {("trunk", "01-instruct"), ("branch", "02-knowledge"), ("flat", "01-stacked")}
    expected = sum(value * (0.625 if stage in first else 0.5) for stage, value in hours_of.items())
    assert found.stopped.training_hours == pytest.approx(expected)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    assert outlook(plan_in(tmp_path), Site(GPUS["H100"])).too_large == []
    assert outlook(plan_in(tmp_path), Site(GPUS["L4"], gpus_per_node=2)).too_large == [
        "big/tiny/branch",
        "big/tiny/flat",
        "big/tiny/trunk",
    ]


def test_judges_are_called_for_the_stages_of_their_study_alone(found: Outlook) -> None:
    assert found.studies["first"].judge_calls == 0
    # the base, trunk's three stages and flat's one: 1 + 4 x 2 checkpoints
    assert found.studies["second"].judge_calls == 9 * 80 * 2 == found.shared.judge_calls


def test_the_longest_chain_waits_for_choices(found: Outlook) -> None:
    jobs = [link.job.split(" on ")[0] for link in found.chain]
    stages = ["01-instruct", "02-knowledge", "03-skills"]
    assert [re.sub("(trunk|branch)/", "", job) for job in jobs] == [
        f"{verb} big/tiny/{stage}" for stage in stages for verb in ("train", "score")
    ]
    need = found.forecast.training(next(stage for stage in found.forecast.plan.stages.values() if stage.stage == "01-instruct"))
    assert need is not None
    assert found.chain[0].hours == pytest.approx(need.seconds / 3600)
    assert hours(found.chain) > max(link.hours for link in found.chain)


def test_what_fits_where(found: Outlook) -> None:
    (fit,) = found.fits
    assert fit.recipes == ["branch", "flat", "trunk"]
    fitting = {way: [places[place].fits for place in PLACES] for way, places in fit.ways.items()}
    assert fitting["full"] == [False, False, True]
    assert fitting["full, offloaded"] == [True, True, True]
    assert fitting["LoRA, offloaded"] == [True, True, True]
    assert fitting["LoRA, rank 16"] == [False, True, True]


def test_the_page_is_one_file_and_says_what_the_text_says(found: Outlook, tmp_path: Path) -> None:
    jobs, disk = {"train_stage": 6, "write_spec": 12}, planned_disk(found.forecast.plan)
    page, text = to_html(found, jobs=jobs, disk=disk), to_text(found, jobs=jobs, disk=disk)
    assert not re.findall(r"(?:src|href)=|<script|url\(|@import", page)
    for row in ("as planned", "each study by itself", "every run from the base"):
        (cells,) = re.findall(rf"<th>{row}</th>(.*?)</tr>", page)
        line = next(line for line in text.splitlines() if line.startswith(row))
        assert re.findall(r"<td>([^<]+)</td>", cells) == line.removeprefix(row).split()
    assert page == to_html(outlook(plan_in(tmp_path), Site(GPUS["H100"])), jobs=jobs, disk=disk)


def test_a_model_of_unknown_size_is_named_and_not_counted(tmp_path: Path) -> None:
    plan_in(tmp_path)
    (tmp_path / "overlay" / "models.yaml").write_text("big: {source: hub, id: a/b, revision: main}")
    plan = Plan.from_config(CONFIG, overlay=tmp_path / "overlay")
    unknown = outlook(Plan(plan.registry, plan.studies, plan.folder, Layout(tmp_path / "r", tmp_path / "s")), Site(GPUS["H100"]))
    assert unknown.shared.gpu_hours == 0
    assert unknown.shared.unknown == {"big"}
    assert "Not counted: big" in to_html(unknown, jobs={}, disk="disk: none")
