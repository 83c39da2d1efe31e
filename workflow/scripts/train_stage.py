"""Trains a stage, or continues it. By hand: `python workflow/scripts/train_stage.py results/runs/.../STAGE/spec.yaml`."""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StageSpec
from sftstudy.train.stage import RESUME_EVERY_S, train_stage


def main() -> None:
    """Read the spec, train; `train_stage` writes `metrics.jsonl` and `training.json`, in this order, once all is done."""
    program = parser(__doc__)
    program.add_argument("--resume-every-s", type=float, default=RESUME_EVERY_S, help="seconds between saves of resume state")
    program.add_argument("--resume-every-steps", type=int, help="also save it every so many steps")
    arguments = program.parse_args()
    train_stage(
        read_spec(arguments.spec, StageSpec),
        layout=layout_of(arguments),
        resume_every_s=arguments.resume_every_s,
        resume_every_steps=arguments.resume_every_steps,
    )


if __name__ == "__main__":
    run(main)
