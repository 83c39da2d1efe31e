"""Starts a program once more in several processes of this node, as torchrun does, and passes signals and exit status through."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from sftstudy.errors import StudyError


def is_launched() -> bool:
    """Whether torchrun, or `launch`, started this process."""
    return "WORLD_SIZE" in os.environ


def launch(program: Sequence[str], *, num_processes: int) -> int:
    """Run `program` (a script and its arguments) in `num_processes` processes; the exit status of the first that failed, else 0.

    torchrun kills its processes half a minute after it was told to stop, in the middle of a step or a save. Here SIGTERM and
    SIGUSR1 are only passed on: the processes save, and end by themselves.
    """
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGINT"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _pass_on)
    try:
        torchrun.run(torchrun.parse_args(["--standalone", "--nproc-per-node", str(num_processes), *program]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        status: int = error.get_first_failure()[1].exitcode
        if status < 0:
            raise StudyError(f"a process of {num_processes} was ended by {signal.Signals(-status).name}; start it again") from None
        return status
    return 0


def _pass_on(number: int, _: FrameType | None) -> None:
    import psutil

    print(f"{signal.Signals(number).name}: passed on to all processes", file=sys.stderr)
    for child in psutil.Process().children(recursive=True):
        child.send_signal(number)
