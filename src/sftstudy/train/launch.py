"""Starts a program once more in several processes, on one node or several, and passes signals and exit status through.

On one node torchrun's own code starts them. On several, `srun` starts the program once per node, and each starts its processes.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from sftstudy.errors import OUT_OF_TIME, OutOfTimeError, StoppedError, StudyError
from sftstudy.train import slurm


def is_launched() -> bool:
    """Whether torchrun, or `launch`, started this process."""
    return "WORLD_SIZE" in os.environ


def launch(program: Sequence[str], *, num_processes: int, num_nodes: int = 1, meet: str | None = None) -> int:
    """Run `program` (a script and its arguments) in `num_processes` processes; the exit status of the first that failed, else 0.

    With `meet`, a HOST:PORT of the first node, the processes of `num_nodes` nodes make one group. Raises OutOfTimeError if they
    ended because the job's time is up.

    torchrun kills its processes half a minute after it was told to stop, in the middle of a step or a save. Here SIGTERM and
    SIGUSR1 are only passed on: the processes save, and end by themselves.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    import psutil
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    received: set[int] = set()

    def pass_on(number: int, _: FrameType | None) -> None:
        received.add(number)
        name, workers = signal.Signals(number).name, psutil.Process().children()
        if not workers:
            raise StoppedError(f"stopped by {name} before its processes began; start it again")
        print(f"{name}: passed on to all processes", file=sys.stderr)
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, pass_on)
    settings = ["--nproc-per-node", str(num_processes), "--signals-to-handle", "SIGINT"]
    try:
        torchrun.run(torchrun.parse_args([*settings, *_meeting(num_nodes, meet), *program]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        # one that was killed takes others with it, which fail for want of it or are told to stop
        killed = [failure.exitcode for failure in error.failures.values() if failure.exitcode < 0]
        status: int = next((code for code in killed if code != -signal.SIGTERM), error.get_first_failure()[1].exitcode)
        if -status in received:
            name = signal.Signals(-status).name
            raise StoppedError(f"stopped by {name} before the first step; start it again") from None
        if status < 0:
            raise StudyError(f"a process of {num_processes} was ended by {signal.Signals(-status).name}; start it again") from None
        return _checked(status)
    return 0


def launch_on_nodes(program: Sequence[str], *, num_nodes: int) -> int:
    """Run `program` once on each of the job's nodes; its exit status, the highest of all nodes.

    What it is told to stop by reaches them as SIGUSR1. Raises OutOfTimeError if they ended because the job's time is up.
    """
    if slurm.job() is None:
        raise StudyError(f"--nodes {num_nodes}: several nodes need a SLURM job; run it by `snakemake --profile slurm`")
    with subprocess.Popen(slurm.on_all_nodes(program, num_nodes=num_nodes), env=slurm.without_steps_variables()) as step:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: step.send_signal(signal.SIGUSR1))
        return _checked(step.wait())


def _meeting(num_nodes: int, meet: str | None) -> list[str]:
    """torchrun's words for where the processes find each other."""
    if meet is None:
        return ["--standalone"]
    host, _, port = meet.rpartition(":")
    place = ["--master-addr", host, "--master-port", port]
    return ["--nnodes", str(num_nodes), "--node-rank", str(slurm.node_number()), *place]


def _checked(status: int) -> int:
    if status == OUT_OF_TIME:
        error = OutOfTimeError("the job's time is up, state saved")
        error.told = True  # by the process that saved
        raise error
    return status
