"""Starts a program once more in several processes of this node, as torchrun does, and passes signals and exit status through."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from sftstudy.errors import StoppedError, StudyError


def is_launched() -> bool:
    """Whether torchrun, or `launch`, started this process."""
    return "WORLD_SIZE" in os.environ


def launch(program: Sequence[str], *, num_processes: int) -> int:
    """Run `program` (a script and its arguments) in `num_processes` processes; the exit status of the first that failed, else 0.

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
    settings = ["--standalone", "--nproc-per-node", str(num_processes), "--signals-to-handle", "SIGINT"]
    try:
        torchrun.run(torchrun.parse_args([*settings, *program]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        # one that was killed takes others with it, which fail for want of it or are told to stop
        killed = [failure.exitcode for failure in error.failures.values() if failure.exitcode < 0]
        status: int = next((code for code in killed if code != -signal.SIGTERM), error.get_first_failure()[1].exitcode)
        if -status in received:
            name = signal.Signals(-status).name
            raise StoppedError(f"stopped by {name} before the first step; start it again") from None
        if status < 0:
            raise StudyError(f"a process of {num_processes} was ended by {signal.Signals(-status).name}; start it again") from None
        return status
    return 0
