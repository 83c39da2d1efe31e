"""Sums over studies: what sharing saves, what is left, the longest chain, and the page that shows them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sftstudy.disk import planned_disk
from sftstudy.environment import Site
from sftstudy.forecast import Forecast
from sftstudy.gpus import GPUS
from sftstudy.outlook import PLACES, Outlook, hours, outlook
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.survival import with_assumed_screens
from sftstudy.tables.plan_page import rows_of, to_html, to_text

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


SCREEN = "screen: {benchmark: tiny-mt-bench, rungs: [0.5], rule: {kind: paper, keep: 0.5}}\n"


def plan_in(root: Path, *, studies: dict[str, str] | None = None, active: str = "first, second") -> Plan:
    """Two studies that share a run of three stages, in the first of which two recipes begin with the same stage.

    `studies` adds text to the files of some.
    """
    (root / "overlay" / "studies").mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (root / "overlay" / name).write_text(text)
    for name, text in (studies or {}).items():
        path = root / "overlay" / "studies" / f"{name}.yaml"
        path.write_text(path.read_text() + text)
    planned = Plan.from_config(CONFIG, overlay=root / "overlay", studies=active.split(", "))
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
    # two runs compete in each study; of branch and flat the first own stage goes to a quarter, and half of them on; trunk goes on
    # in any case, since branch starts from it
    assumed = Forecast(with_assumed_screens(found.forecast.plan), Site(GPUS["H100"]))
    expected = 0.0
    for stage in assumed.plan.stages.values():
        jobs = {rung: need.gpu_hours for rung, need in assumed.jobs(stage).items()}
        if (stage.recipe, stage.stage) in {("branch", "02-knowledge"), ("flat", "01-stacked")}:
            assert list(jobs) == [0.25, None]
            expected += jobs[0.25] + 0.5 * jobs[None]
        elif jobs:
            assert list(jobs) == [None]
            expected += jobs[None] * (1 if stage.recipe == "trunk" else 0.5)
    assert found.stopped.training_hours == pytest.approx(expected)
    assert found.screened == replace(found.shared, runs=0, stages=0, checkpoints=0)  # no study has a screen
    assert "as planned, with its screens" not in rows_of(found)


def test_a_studys_own_screen_is_an_upper_bound_and_what_is_expected_of_it(tmp_path: Path) -> None:
    alone = outlook(plan_in(tmp_path, studies={"second": SCREEN}), Site(GPUS["H100"]))
    # flat and its rival trunk, which branch starts from in the other study
    assert alone.screened.training_hours < alone.shared.training_hours
    text = to_text(alone, jobs={}, disk="disk: none")
    most, expected, saved = (
        float(number)
        for number in re.findall(r"^screens: ([\d.]+) .* stopped, ([\d.]+) expected .* audit, ([\d.]+) ", text, re.M)[0]
    )
    assert (most, expected) == pytest.approx((alone.shared.gpu_hours, alone.screened.gpu_hours), abs=0.005)
    assert saved == pytest.approx(most - expected, abs=0.02)
    assert "screens: " not in to_text(outlook(plan_in(tmp_path / "other"), Site(GPUS["H100"])), jobs={}, disk="disk: none")


def test_a_decision_waits_for_the_slowest_run(tmp_path: Path) -> None:
    found = outlook(plan_in(tmp_path, studies={"second": SCREEN}, active="second"), Site(GPUS["H100"]))
    jobs = [re.sub(" on .*", "", link.job) for link in found.chain]
    # flat, whose first stage has all phases, is slower to the rung than trunk, and trunk goes on from there longest
    assert jobs[:3] == ["train big/tiny/flat/01-stacked to 0.5", "second decides at 0.5", "train big/tiny/trunk/01-instruct"]
    assert jobs[-2:] == ["train big/tiny/trunk/03-skills", "score big/tiny/trunk/03-skills"]
    with_first = outlook(plan_in(tmp_path, studies={"second": SCREEN}), Site(GPUS["H100"]))
    # active, the first study keeps trunk to its end, and the decision waits for the end of trunk's first stage at least
    assert not with_first.forecast.plan.screens.may_stop(Path(tmp_path / "results/runs/big/tiny/trunk/seed1/01-instruct"))


def test_what_is_left_is_what_has_no_record(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    stage = next(folder for folder, stage in plan.stages.items() if stage.stage == "01-stacked")
    stage.mkdir(parents=True)
    (stage / "training.json").write_text("{}")
    found = outlook(plan, Site(GPUS["H100"]))
    assert (found.shared.stages, found.left.stages) == (6, 5)


def test_a_limit_is_told_with_the_starts_that_it_makes(tmp_path: Path) -> None:
    slow = replace(GPUS["H100"], bf16_flops=1e12)
    whole = outlook(plan_in(tmp_path), Site(slow))
    assert (whole.starts, whole.warnings) == ({}, [])
    found = outlook(plan_in(tmp_path), Site(slow, gpu_max_runtime=60))
    assert max(found.starts.values()) > 1
    assert found.warnings == []
    page, text = (show(found, jobs={}, disk="disk: none") for show in (to_html, to_text))
    for job, number in found.starts.items():
        assert re.search(rf"{re.escape(job)} +{number} starts", text)
        assert f'<th scope="row">{job}</th><td>{number}</td>' in page
    assert found.shared.gpu_hours > whole.shared.gpu_hours  # each start loads the model again
    (warning,) = outlook(plan_in(tmp_path), Site(slow, gpu_max_runtime=10)).warnings
    assert warning.startswith("STUDY_GPU_MAX_RUNTIME: a job ends after 10 min, its first state on the way is saved after ")
    assert re.search(r": big/tiny/trunk/01-instruct, .* more would start up to \d+ times", warning)


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
    # whatever the site has
    site = Site(GPUS["L4"], gpus_per_node=2, gpus_per_stage=2, max_nodes=4, gpu_max_runtime=5)
    assert outlook(found.forecast.plan, site).fits == found.fits


def test_the_page_is_one_file_and_says_what_the_text_says(found: Outlook, tmp_path: Path) -> None:
    jobs, disk = {"train_stage": 6, "write_spec": 12}, planned_disk(found.forecast.plan)
    page, text = to_html(found, jobs=jobs, disk=disk), to_text(found, jobs=jobs, disk=disk)
    assert not re.findall(r"(?:src|href)=|<script|url\(|@import", page)
    for row in ("as planned", "each study by itself", "every run from the base"):
        (cells,) = re.findall(rf'<th scope="row">{row}</th>(.*?)</tr>', page)
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
