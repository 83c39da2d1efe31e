"""What Snakemake's SLURM plugin gets to know of its jobs' states while SLURM does not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

States = dict[str, str]
"""Number of a job -> its state, of those that the queue knows."""


def steadfast(
    ask: Callable[[str, Any], Awaitable[tuple[States | None, float | None]]],
) -> Callable[[str, Any], Awaitable[tuple[States, float]]]:
    """`ask`, the plugin's question (a command and a logger; states and seconds), but one that always has an answer.

    The plugin (2.8.0) drops all jobs that it waits for when its question fails, as while slurmctld is restarted, and the run
    hangs for ever. To be told of no job keeps them all.
    """

    async def asked(command: str, logger: Any) -> tuple[States, float]:
        states, took_s = await ask(command, logger)
        if states is None:
            logger.warning("SLURM does not say how the jobs are; they run on, and it is asked again.")
        return states or {}, took_s or 0.0

    return asked
