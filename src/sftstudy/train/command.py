"""The command line that `train_rung` and `train_stage` share."""

from __future__ import annotations

import argparse
import math
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from sftstudy import timesheet
from sftstudy.devices import claim
from sftstudy.program import layout_of, name, parser, read_spec
from sftstudy.screen import rung_name
from sftstudy.spec import StageSpec, spec_hash, stage_names
from sftstudy.train import slurm
from sftstudy.train.checkpoints import RESUME_EVERY_S, SPARE_S, Saving
from sftstudy.train.launch import is_launched, launch, launch_on_nodes
from sftstudy.train.lease import patience
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
        "--processes", type=int, default=1, help="train in so many processes of each node; or start it by torchrun"
    )
    program.add_argument("--nodes", type=int, default=1, help="train on so many nodes of this SLURM job")
    program.add_argument("--meet", help=argparse.SUPPRESS)  # of the program on each of several nodes
    program.add_argument("--spare-s", type=float, default=SPARE_S, help="seconds of a job's time limit that are kept for its end")
    arguments = program.parse_args()
    if is_launched():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        with _noted(arguments, num_processes=here, num_nodes=int(os.environ["WORLD_SIZE"]) // here):
            _train(arguments)
    elif arguments.meet:
        sys.exit(launch(sys.argv, num_processes=arguments.processes, num_nodes=arguments.nodes, meet=arguments.meet))
    else:
        several = arguments.nodes > 1 or arguments.processes > 1
        with (
            slurm.queued_again(),
            _noted(arguments, num_processes=arguments.processes, num_nodes=arguments.nodes, starts_others=several),
        ):
            if arguments.nodes > 1:
                sys.exit(launch_on_nodes(sys.argv, num_nodes=arguments.nodes))
            if arguments.processes > 1:
                if arguments.device != "cpu":
                    claim(arguments.processes)
                sys.exit(launch(sys.argv, num_processes=arguments.processes))
            _train(arguments)


def _noted(
    arguments: argparse.Namespace, *, num_processes: int, num_nodes: int, starts_others: bool = False
) -> AbstractContextManager[None]:
    """The sheet of this attempt; `num_processes` compute on each node."""
    stage, rung = read_spec(arguments.spec, StageSpec), getattr(arguments, "rung", None)
    return timesheet.opened(
        name(),
        stage_names(stage) | ({"rung": rung_name(rung)} if rung else {}),
        spec_hash=spec_hash(stage),
        layout=layout_of(arguments),
        num_processes=num_processes,
        num_nodes=num_nodes,
        uses_gpus=arguments.device != "cpu",
        starts_others=starts_others,
    )


def _train(arguments: argparse.Namespace) -> None:
    """Train in this process, perhaps one of several, of which the first watches the time."""
    ends_at = slurm.ends_at() if os.environ.get("RANK", "0") == "0" else math.inf
    train_stage(
        read_spec(arguments.spec, StageSpec),
        layout=layout_of(arguments),
        saving=Saving(arguments.resume_every_s, arguments.resume_every_steps, ends_at, arguments.spare_s),
        device=arguments.device,
        patience_s=patience(),
        rung=getattr(arguments, "rung", None),
        verdict=next(iter(arguments.verdict), None),
    )
