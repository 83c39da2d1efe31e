"""Needs of planned jobs: how many GPUs, what an attempt that failed changes, and records in place of assumptions."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftstudy import needs, spec
from sftstudy.config import MtBenchSuite, Training
from sftstudy.environment import Site
from sftstudy.errors import StudyError
from sftstudy.forecast import START_S, Forecast, Need, host_mb, minutes
from sftstudy.gpus import GPUS
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.records import AttemptRecord, TrainingRecord, provenance, write_record
from sftstudy.sizes import ModelSize

CONFIG = Path(__file__).parents[2] / "config"
SIZE = "{hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32, num_attention_heads: 32, vocab_size: 32000}"
TRAINING = (
    "{effective_batch_size: 64, learning_rate: 1e-5, epochs: 10, num_checkpoints: 2, precision: bf16,"
    " activation_checkpointing: true"
)


SCREEN = "screen: {benchmark: tiny-mmlu, rungs: [0.1, 0.25], rule: {kind: paper}}\n"


def forecast(
    root: Path, *, site: Site | None = None, size: str = f"size: {SIZE}", study: str = "", other: str = "", **training: str
) -> Forecast:
    """Of a study of one stacked run of a 7B model on 3264 samples of 100 tokens, 10 epochs.

    `study` is added to its file; `other` are keys of a second data set, of as many samples, on which the run is trained as well.
    """
    overlay = root / "overlay"
    (overlay / "studies").mkdir(parents=True, exist_ok=True)
    settings = "".join(f", {key}: {value}" for key, value in training.items())
    phases = "".join(
        f"    {name}: {{sources: [{{from: {{world: tiny, file: {name}.jsonl}}}}], num_samples: {number}, tokens_per_sample: 100}}\n"
        for name, number in (("instruct", 600), ("skills", 2664))
    )
    files = {
        "config.yaml": "studies: [own]",
        "models.yaml": f"big: {{source: hub, id: a/b, revision: main, {size}}}",
        "data.yaml": f"chats:\n  max_length: 2048\n  phases:\n{phases}"
        + (f"other:\n  max_length: 2048\n  phases:\n{phases.replace('tokens_per_sample: 100', other)}" if other else ""),
        "recipes.yaml": f"recipes: {{own: {{strategy: stacked, training: {TRAINING}{settings}}}}}}}",
        "studies/own.yaml": (
            f"question: q\nruns: [{{model: [big], data: [chats{', other' if other else ''}], recipe: [own], seed: [1]}}]\n"
            f"benchmarks: [tiny-mmlu, tiny-mt-bench]\n{study}"
        ),
    }
    for name, text in files.items():
        (overlay / name).write_text(text)
    planned = Plan.from_config(CONFIG, overlay=overlay)
    plan = Plan(planned.registry, planned.studies, planned.folder, Layout(root / "results", root / "scratch"))
    return Forecast(plan, site or Site(GPUS["H100"]))


def trained(made: Forecast, data: str = "chats") -> spec.StageSpec:
    (stage,) = (stage for stage in made.plan.stages.values() if stage.training and stage.data == data)
    return stage


def need_of(made: Forecast, data: str = "chats", **settings: Any) -> Need:
    need = made.training(trained(made, data), **settings)
    assert need is not None
    return need


def measure(made: Forecast, path: str = "training.json", data: str = "chats", **changes: Any) -> None:
    """Leave a record of the stage on an H100, under its folder."""
    stage = trained(made, data)
    record_ = record(stage, **{"device": "NVIDIA H100 80GB HBM3", "tokens_per_s": 200.0} | changes)
    write_record(made.plan.records_of(stage) / path, record_)


def num_gpus(made: Forecast, *, attempt: int = 1) -> tuple[int, bool]:
    need = made.training(trained(made), attempt=attempt)
    assert need is not None
    return need.num_gpus, need.fits


def test_as_few_gpus_as_hold_a_sharded_stage_and_no_fewer_than_the_site_wants(tmp_path: Path) -> None:
    assert num_gpus(forecast(tmp_path, sharding="full")) == (2, True)
    assert num_gpus(forecast(tmp_path, sharding="full", site=Site(GPUS["H100"], gpus_per_stage=8))) == (8, True)
    assert num_gpus(forecast(tmp_path, sharding="full", site=Site(GPUS["L4"], gpus_per_node=4))) == (4, False)
    assert num_gpus(forecast(tmp_path)) == (1, False)  # whole weights do not get smaller by more GPUs
    assert num_gpus(forecast(tmp_path, lora="{rank: 8, alpha: 8}")) == (1, True)


def test_a_failed_attempt_asks_for_more(tmp_path: Path) -> None:
    made = forecast(tmp_path, sharding="full")
    need = made.training(trained(made))
    assert need is not None
    attempts = [num_gpus(made, attempt=attempt)[0] for attempt in (1, 2, 3)]
    assert attempts == sorted(attempts)
    assert attempts[0] < attempts[2]
    assert host_mb(need.memory, attempt=2) == pytest.approx(1.25 * host_mb(need.memory), rel=0.01)
    assert minutes(3600, attempt=2) == 2 * 90 + 5


def test_hours_are_tokens_over_the_assumed_rate_until_one_was_measured(tmp_path: Path) -> None:
    made = forecast(tmp_path, sharding="full")
    stage = trained(made)
    assert made.num_tokens(stage) == 510 * 64 * 100
    assumed = made.training(stage)
    write_record(made.plan.records_of(stage) / "training.json", record(stage, device="NVIDIA A100", tokens_per_s=1e3))
    assert forecast(tmp_path, sharding="full").training(stage) == assumed  # another kind of GPU says nothing
    write_record(
        made.plan.records_of(stage) / "training.json",
        record(stage, device="NVIDIA H100 80GB HBM3", tokens_per_s=200.0, num_processes=2),
    )
    again = forecast(tmp_path, sharding="full")
    measured = again.training(stage)
    assert measured is not None
    assert again.is_measured(stage)
    assert assumed is not None
    assert measured.seconds == pytest.approx(3_264_000 / 200, rel=0.2)
    assert measured.seconds > 5 * assumed.seconds


def test_a_pace_holds_for_attempts_rungs_nodes_and_other_data(tmp_path: Path) -> None:
    sharded = {"sharding": "full", "study": SCREEN, "other": "tokens_per_sample: 400"}
    plain = forecast(tmp_path, **sharded)
    assumed = {data: need_of(plain, data).seconds for data in ("chats", "other")}
    measure(plain, num_processes=2)
    made = forecast(tmp_path, **sharded)

    def work_s(data: str = "chats", **settings: Any) -> float:
        """GPU-seconds a token, of a job's whole time but its start; saving is little of it."""
        stage, need = trained(made, data), need_of(made, data, **settings)
        steps = made.plan.steps_of(stage, settings.get("rung"))
        num_tokens = made.num_tokens(stage) * len(steps) / stage.num_steps
        return (need.seconds - START_S) * need.num_gpus * need.num_nodes / num_tokens

    assert work_s() == pytest.approx(2 / 200, rel=0.1)
    assert work_s(rung=0.1) == pytest.approx(work_s(), rel=0.2)
    for attempt in (2, 3):  # on more GPUs, each as fast
        assert need_of(made, attempt=attempt).num_gpus > need_of(made).num_gpus
        assert work_s(attempt=attempt) == pytest.approx(2 / 200, rel=0.3)
    # of other data the FLOPs are corrected for the length of samples, and no more
    assert made.is_measured(trained(made, "other"))
    assert work_s("other") == pytest.approx(2 / 200, rel=0.1)
    assert need_of(made, "other").seconds > 5 * assumed["other"] > assumed["chats"]
    # two nodes add what crosses the network
    assert work_s(num_nodes=2) > work_s()
    measure(plain, num_processes=16, num_nodes=2, tokens_per_s=16 * 50.0)
    made = forecast(tmp_path, **sharded)
    assert work_s(num_nodes=2) == pytest.approx(1 / 50, rel=0.2)
    assert work_s() == pytest.approx(1 / 50, rel=0.2)  # no better is known
    assert work_s(num_nodes=3) > work_s(num_nodes=2)


def test_what_a_stage_showed_at_a_rung_counts_for_it_at_once_and_for_others(tmp_path: Path) -> None:
    made = forecast(tmp_path, sharding="full", study=SCREEN, other="tokens_per_sample: 100")
    before = {data: need_of(made, data).seconds for data in ("chats", "other")}
    measure(made, "rungs/0.1/training.json", status="at rung 0.1")
    assert need_of(made).seconds > 5 * before["chats"]  # read anew
    assert need_of(made, "other").seconds == before["other"]  # when Snakemake starts again
    again = forecast(tmp_path, sharding="full", study=SCREEN, other="tokens_per_sample: 100")
    assert need_of(again, "other").seconds > 5 * before["other"]
    measure(made, "rungs/0.25/training.json", status="at rung 0.25", tokens_per_s=400.0)
    assert need_of(made).seconds == pytest.approx(need_of(again, "other").seconds / 2, rel=0.1)
    measure(made, status="stopped at rung 0.1", num_steps=0, tokens_per_s=1.0)  # behind a stage that was stopped: nothing measured
    assert need_of(forecast(tmp_path, sharding="full", study=SCREEN)).seconds < 2 * need_of(made).seconds


def test_jobs_train_from_rung_to_rung(tmp_path: Path) -> None:
    made, whole = (forecast(tmp_path / name, sharding="full", study=study) for name, study in (("made", SCREEN), ("whole", "")))
    stage = trained(made)
    assert stage.num_steps == 510
    assert [made.plan.steps_of(stage, rung) for rung in made.plan.rungs_of(stage)] == [range(51), range(51, 128), range(128, 510)]
    jobs = made.jobs(stage)
    assert list(jobs) == [0.1, 0.25, None]
    saved_s = sum(need.seconds - START_S for need in jobs.values()) - (need_of(whole).seconds - START_S)
    assert saved_s == pytest.approx(2 * needs.state_seconds(size_of_7b(made), settings_of(stage)))  # state is saved at each rung
    work = {rung: need.seconds - START_S for rung, need in jobs.items()}
    assert work[0.1] < work[0.25] < work[None]
    # what nobody may stop is trained at once, and its rungs are read off
    assert list(whole.jobs(trained(whole))) == [None]


def test_a_model_that_one_node_cannot_hold_gets_more_within_the_cap(tmp_path: Path) -> None:
    def places(site: Site, **settings: Any) -> tuple[int, int, bool]:
        need = need_of(forecast(tmp_path, sharding="full", site=site), **settings)
        return need.num_nodes, need.num_gpus, need.fits

    one = {"gpu": GPUS["A100"], "gpus_per_node": 1}
    assert places(Site(**one)) == (1, 1, False)
    assert places(Site(**one, max_nodes=4)) == (2, 1, True)  # 108 GB of states in halves
    assert places(Site(GPUS["L4"], gpus_per_node=2, max_nodes=2)) == (2, 2, False)
    assert places(Site(GPUS["L4"], gpus_per_node=2, max_nodes=4)) == (4, 2, True)
    assert places(Site(GPUS["L4"], gpus_per_node=4, max_nodes=4)) == (2, 4, True)
    assert places(Site(GPUS["H100"], gpus_per_stage=16, max_nodes=4)) == (2, 8, True)
    # as told by --set-resources: as many GPUs of each as hold it
    assert places(Site(GPUS["H100"]), num_nodes=2) == (2, 1, True)
    assert places(Site(GPUS["H100"], gpus_per_stage=4), num_nodes=2) == (2, 4, True)
    assert need_of(forecast(tmp_path, site=Site(**one, max_nodes=4))).num_nodes == 1  # whole weights do not get smaller
    two = need_of(forecast(tmp_path, sharding="full"), num_nodes=2)
    assert two.gpu_hours == pytest.approx(2 * two.seconds / 3600)


def test_a_partitions_limit_makes_starts(tmp_path: Path) -> None:
    def need(minutes_: int | None, **settings: Any) -> Need:
        return need_of(forecast(tmp_path, sharding="full", site=Site(slow, gpu_max_runtime=minutes_)), **settings)

    slow = replace(GPUS["H100"], bf16_flops=1e13)
    whole = need(None)
    num_minutes = math.ceil(whole.seconds / 60)
    assert (need(num_minutes).starts, need(num_minutes).seconds) == (1, whole.seconds)
    halves = need(num_minutes // 2)
    assert halves.starts == 3  # each start but the last is over before its limit
    assert whole.seconds + 2 * START_S < halves.seconds < whole.seconds + 2 * (START_S + 600)
    assert need(num_minutes // 8).starts > 8
    assert 510 <= need(1).starts < 600  # a step each: the program saves after its first
    assert minutes(3600, most=80) == 80
    assert minutes(3600, most=1000) == minutes(3600) == 95
    assert minutes(3600, attempt=3, most=200) == 200


def test_a_model_of_unknown_size_has_no_forecast_until_it_is_here(tmp_path: Path) -> None:
    made = forecast(tmp_path, size="chat_template: lab")
    assert made.training(trained(made)) is None
    assert made.scoring(trained(made), "tiny-harness", num_checkpoints=1) is None
    folder = made.plan.layout.model_folder("big")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        '{"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}'
    )
    assert num_gpus(forecast(tmp_path, size="chat_template: lab")) == (1, True)


def test_scores_cost_by_checkpoint_and_judges_by_question_and_turn(tmp_path: Path) -> None:
    made = forecast(tmp_path)
    one, two = (made.scoring(trained(made), "tiny-harness", num_checkpoints=number) for number in (1, 2))
    assert one is not None
    assert two is not None
    assert 180 < one.seconds < two.seconds < 2 * one.seconds  # the model is loaded once
    assert made.judge_calls("tiny-mt-bench", num_checkpoints=3) == 3 * 80 * 2
    assert made.judge_calls("tiny-harness", num_checkpoints=3) == 0
    assert made.judge_calls("mt-bench", num_checkpoints=1) == 80 * 2
    assert made.judge_cost("mt-bench", num_checkpoints=1) == pytest.approx(160 * (1200 * 30 + 250 * 60) / 1e6)
    asked = made.judging("mt-bench", num_checkpoints=1)
    assert (asked.num_gpus, asked.seconds) == (0, 160 * 10 / 8)


def attempt(made: Forecast, rule: str, suite: str, stamp: str = "1", **changes: Any) -> None:
    """Leave a finished attempt at the first part of the stage's scores, of 100 s for 10 units on an H100."""
    stage = trained(made)
    (part, ckpts), *_ = made.plan.parts(stage, suite).items()
    job = spec.stage_names(stage) | {"suite": suite, "part": part}
    settings = {
        "rule": rule,
        "job": job,
        "spec_hash": spec.score_hash(spec.spec_hash(stage), spec.spec_hash(made.plan.suite_spec(suite)), ckpts),
        "started": 0.0,
        "elapsed_s": 500.0,
        "outcome": "finished",
        "num_gpus": 1,
        "num_processes": 1,
        "device": "NVIDIA H100 80GB HBM3",
        "units": 10,
        "work_s": 100.0,
        "host": "here",
        "process": 1,
    }
    folder = made.plan.layout.attempts(rule, job)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stamp}.json").write_text(AttemptRecord.model_validate(settings | changes).model_dump_json())


@pytest.mark.parametrize(("rule", "suite"), [("score_harness", "tiny-harness"), ("answer_mt_bench", "tiny-mt-bench")])
def test_scoring_takes_what_finished_jobs_took(rule: str, suite: str, tmp_path: Path) -> None:
    def seconds() -> tuple[float, float]:
        """Of one checkpoint and of two, without the start."""
        made = forecast(tmp_path)
        one, two = (made.scoring(trained(made), suite, num_checkpoints=number) for number in (1, 2))
        assert one is not None
        assert two is not None
        return one.seconds - START_S, two.seconds - START_S

    made, assumed = forecast(tmp_path), seconds()
    num_ckpts = len(next(iter(made.plan.parts(trained(made), suite).values())))
    assert num_ckpts == 2
    for nothing in (
        {"outcome": "stopped"},
        {"units": 0},
        {"device": "NVIDIA A100"},
        {"device": ""},
        {"num_gpus": 0},
        {"spec_hash": "of another suite"},
        {"units_before": 11},  # most of it was there, and may have been quick or slow
    ):
        attempt(made, rule, suite, **nothing)
        assert seconds() == assumed, nothing
    attempt(made, rule, suite, units_before=5)
    assert seconds() == pytest.approx((150 / num_ckpts, 150))
    attempt(made, rule, suite, stamp="2")  # the newer one
    assert seconds() == pytest.approx((100 / num_ckpts, 100))
    (made.plan.layout.attempts(rule, {}) / "torn.json").write_text("{")
    assert seconds() == pytest.approx((100 / num_ckpts, 100))


def test_judging_takes_what_finished_jobs_took_whoever_was_judged(tmp_path: Path) -> None:
    made = forecast(tmp_path)
    judge = made.plan.registry.suites["tiny-mt-bench"]
    assert isinstance(judge, MtBenchSuite)
    before = made.judging("tiny-mt-bench", num_checkpoints=3)
    attempt(made, "judge_mt_bench", "tiny-mt-bench", num_gpus=1 - before.num_gpus)
    assert forecast(tmp_path).judging("tiny-mt-bench", num_checkpoints=3) == before
    attempt(made, "judge_mt_bench", "tiny-mt-bench", num_gpus=before.num_gpus)
    after = forecast(tmp_path).judging("tiny-mt-bench", num_checkpoints=3)
    assert after.seconds - START_S * before.num_gpus == pytest.approx(150)
    assert (after.num_gpus, after.memory) == (before.num_gpus, before.memory)


def test_a_site_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STUDY_GPU", "STUDY_GPU_PARTITION"):
        monkeypatch.delenv(name, raising=False)
    assert Site.from_environment() is None
    monkeypatch.setenv("STUDY_GPU_PARTITION", "gpu")
    with pytest.raises(StudyError, match="STUDY_GPU is not set"):
        Site.from_environment()
    monkeypatch.setenv("STUDY_GPU", "A100")
    monkeypatch.setenv("STUDY_GPU_MEMORY_GB", "40")
    site = Site.from_environment()
    assert site is not None
    assert (site.gpu.memory_gb, site.gpus_per_node, site.gpu_partition) == (40, 8, "gpu")
    monkeypatch.setenv("STUDY_GPUS_PER_NODE", "many")
    with pytest.raises(StudyError, match="STUDY_GPUS_PER_NODE: 'many'"):
        Site.from_environment()


def test_gpus_of_a_stage_are_of_one_node_or_of_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"STUDY_GPU": "H100", "STUDY_GPU_PARTITION": "gpu", "STUDY_GPUS_PER_NODE": "8", "STUDY_GPUS_PER_STAGE": "16"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("STUDY_MAX_NODES", "STUDY_GPU_MAX_RUNTIME", "STUDY_CPU_MAX_RUNTIME"):
        monkeypatch.delenv(name, raising=False)
    site = Site.from_environment()
    assert site is not None
    assert (site.max_nodes, site.max_runtime(1), site.max_runtime(0)) == (4, None, None)
    for name, value in {"STUDY_MAX_NODES": "1", "STUDY_GPUS_PER_STAGE": "12"}.items():
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            with pytest.raises(StudyError, match=r"STUDY_GPUS_PER_STAGE: 1\d GPUs of a stage are not whole nodes"):
                Site.from_environment()
    monkeypatch.setenv("STUDY_GPU_MAX_RUNTIME", "1440")
    site = Site.from_environment()
    assert site is not None
    assert (site.max_runtime(1), site.max_runtime(0)) == (1440, None)
    monkeypatch.delenv("STUDY_GPU_PARTITION")
    with pytest.raises(StudyError, match="STUDY_MAX_NODES=1"):  # a workstation is one node
        Site.from_environment()


def size_of_7b(made: Forecast) -> ModelSize:
    found = made.size("big")
    assert found is not None
    return found


def settings_of(stage: spec.StageSpec) -> Training:
    assert stage.training is not None
    return stage.training


def record(stage: spec.StageSpec, **changes: Any) -> TrainingRecord:
    """A finished stage's."""
    settings: dict[str, Any] = {
        "num_steps": 1,
        "samples_seen": 1,
        "samples_spent": 1,
        "checkpoints": [],
        "loss_normalisation": "",
        "precision": "bf16",
        "attention": "",
        "packed": True,
        "sharding": "full",
        "optimizer": "adamw",
        "num_processes": 1,
        "num_threads": 1,
        "num_attempts": 1,
        "time_s": 1,
        "peak_memory_gb": 1,
    }
    return TrainingRecord(spec_hash=spec.spec_hash(stage), content_hash="", **provenance(), **settings | changes)
