"""Trains a stage, or continues it. By hand: `python workflow/scripts/train_stage.py results/runs/.../STAGE/spec.yaml`."""

import sys

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StageSpec
from sftstudy.train.checkpoints import RESUME_EVERY_S, Saving
from sftstudy.train.launch import is_launched, launch
from sftstudy.train.stage import train_stage


def main() -> None:
    """Read the spec, train; `train_stage` writes `metrics.jsonl` and `training.json`, in this order, once all is done."""
    program = parser(__doc__)
    program.add_argument("--resume-every-s", type=float, default=RESUME_EVERY_S, help="seconds between saves of resume state")
    program.add_argument("--resume-every-steps", type=int, help="also save it every so many steps")
    program.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="cuda: end if there is no GPU")
    program.add_argument(
        "--processes", type=int, default=1, help="train in so many processes of this node; or start it by torchrun"
    )
    arguments = program.parse_args()
    if arguments.processes > 1 and not is_launched():
        sys.exit(launch(sys.argv, num_processes=arguments.processes))
    train_stage(
        read_spec(arguments.spec, StageSpec),
        layout=layout_of(arguments),
        saving=Saving(arguments.resume_every_s, arguments.resume_every_steps),
        device=arguments.device,
    )


if __name__ == "__main__":
    run(main)
