"""The command line that `train_rung` and `train_stage` share."""

from __future__ import annotations

import sys
from pathlib import Path

from sftstudy.program import layout_of, parser, read_spec
from sftstudy.spec import StageSpec
from sftstudy.train.checkpoints import RESUME_EVERY_S, Saving
from sftstudy.train.launch import is_launched, launch
from sftstudy.train.stage import train_stage


def train(description: str | None, *, to_rung: bool) -> None:
    """Read the spec, train, here or in several processes; publish once all is done. `to_rung` takes a `--rung` and stops there."""
    program = parser(description)
    if to_rung:
        program.add_argument("--rung", type=float, required=True, help="share of the stage's steps, such as 0.1")
    program.add_argument("--verdict", type=Path, nargs="*", default=[], help="screen.json of the rung before, if there is one")
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
        rung=arguments.rung if to_rung else None,
        verdict=next(iter(arguments.verdict), None),
    )
