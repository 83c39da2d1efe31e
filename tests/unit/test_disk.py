"""The line about disk: an upper bound from parameters, places and what may go, and what is not known yet is said."""

from pathlib import Path

import pytest

from sftstudy import spec
from sftstudy.disk import planned_disk
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.records import ModelRecord, provenance, write_record

CONFIG = Path(__file__).parents[2] / "config"


def plan_in(root: Path, *, num_parameters: int | None, precision: str = "fp32", settings: str = "") -> Plan:
    """A study of a phased run, 2 + 2 + 2 checkpoints, and a stacked one, 3, of a model that is here if its size is given."""
    (root / "overlay" / "studies").mkdir(parents=True)
    training = f"{{effective_batch_size: 8, learning_rate: 1e-3, epochs: 1, num_checkpoints: 2, precision: {precision}}}"
    files = {
        "config.yaml": f"studies: [own]\n{settings}",
        "models.yaml": "big: {source: hub, id: a/b, revision: main}",
        "recipes.yaml": (
            f"recipes:\n  phased: {{strategy: phased, training: &t {training}, select: {{instruct: &s {{benchmark: tiny-mmlu}}, "
            "knowledge: *s}}\n  stacked: {strategy: stacked, training: {<<: *t, num_checkpoints: 3}}\n"
        ),
        "studies/own.yaml": (
            "question: q\nruns: [{model: [big], data: [tiny], recipe: [phased, stacked], seed: [1]}]\nbenchmarks: [tiny-mmlu]\n"
        ),
    }
    for name, text in files.items():
        (root / "overlay" / name).write_text(text)
    planned = Plan.from_config(CONFIG, overlay=root / "overlay")
    plan = Plan(planned.registry, planned.studies, planned.folder, Layout(root / "results", root / "scratch"))
    if num_parameters:
        write_record(
            plan.layout.model_record("big"),
            ModelRecord(
                spec_hash=spec.spec_hash(plan.model_spec("big")),
                content_hash="",
                **provenance(),
                num_parameters=num_parameters,
                weights_hash="",
                tokenizer_hash="",
                chat_template="tokenizer",
            ),
        )
    return plan


@pytest.mark.parametrize(
    ("precision", "settings", "expected"),
    [
        # 9 checkpoints of 4 GB; one stays of each phase and of the stacked stage
        ("fp32", "", "peak 36.00 GB of weights + 36.00 GB resume state per training job; 16.00 GB stay"),
        ("bf16", "", "peak 18.00 GB of weights + 36.00 GB resume state per training job; 8.00 GB stay"),
        ("fp32", "keep: [stacked]", "peak 36.00 GB of weights + 36.00 GB resume state per training job; 24.00 GB stay"),
        ("fp32", "keep_weights: all", "peak 36.00 GB of weights + 36.00 GB resume state per training job; 36.00 GB stay"),
    ],
)
def test_bytes_follow_from_parameters_precision_and_what_may_go(
    precision: str, settings: str, expected: str, tmp_path: Path
) -> None:
    plan = plan_in(tmp_path, num_parameters=10**9, precision=precision, settings=settings)
    assert planned_disk(plan) == f"disk: 4 stages, 9 checkpoints: {expected}"


def test_what_is_not_known_yet_is_said(tmp_path: Path) -> None:
    line = planned_disk(plan_in(tmp_path, num_parameters=None))
    assert line == "disk: 4 stages, 9 checkpoints; not counted: big, whose size is known once it is here"
    broken = plan_in(tmp_path / "broken", num_parameters=10)
    broken.layout.model_record("big").write_text("{}")
    assert planned_disk(broken) == line
    line = planned_disk(Plan.from_config(CONFIG))
    assert line.endswith("; not counted: the embeddings of tiny-llama, whose vocabulary is not made yet")
