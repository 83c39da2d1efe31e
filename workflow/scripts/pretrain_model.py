"""Trains a tiny base model on a world. By hand: `python workflow/scripts/pretrain_model.py results/models/MODEL/spec.yaml`."""

from sftstudy import timesheet
from sftstudy.config import ScratchModel
from sftstudy.models import model_record, pretraining_world
from sftstudy.program import layout_of, name, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import ModelSpec, spec_hash
from sftstudy.train.pretrain import PretrainingStage, pretrain


def main() -> None:
    """Read the spec, pretrain, write `model.json` with final loss and answer accuracy of the base."""
    arguments = parser(__doc__).parse_args()
    spec, layout = read_spec(arguments.spec, ModelSpec), layout_of(arguments)
    world, model = pretraining_world(spec, layout=layout), spec.model
    assert isinstance(model, ScratchModel), "pretraining_world refuses all others"
    with timesheet.opened(name(), {"model": spec.name}, spec_hash=spec_hash(spec), layout=layout), timesheet.working():
        report = pretrain(
            layout.model_folder(spec.name),
            world=world,
            architecture=model.architecture,
            stages=[PretrainingStage(**stage.model_dump()) for stage in model.pretraining],
            seed=model.seed,
        )
    probes = {"final_loss": report.losses[-1][1], "answer_accuracy": report.answer_accuracy, "num_tokens": float(report.num_tokens)}
    record = model_record(layout.model_folder(spec.name), spec, pretraining=probes)
    write_record(layout.model_record(spec.name), record)


if __name__ == "__main__":
    run(main)
