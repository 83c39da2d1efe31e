"""A queue that does not answer knows of no job; it does not make Snakemake forget them."""

import asyncio
import inspect
import logging
from typing import Any

import pytest
import snakemake_executor_plugin_slurm as plugin

from sftstudy.watch import States, steadfast


@pytest.mark.parametrize(
    ("answer", "states", "warnings"),
    [(({"7": "RUNNING"}, 0.1), {"7": "RUNNING"}, 0), (({}, 0.1), {}, 0), ((None, None), {}, 1)],
)
def test_no_answer_is_an_empty_queue_and_is_told(
    answer: tuple[States | None, float | None], states: States, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(command: str, logger: Any) -> tuple[States | None, float | None]:
        assert command == "squeue"
        return answer

    found, took_s = asyncio.run(steadfast(ask)("squeue", logging.getLogger("plugin")))
    assert (found, took_s) == (states, answer[1] or 0.0)
    assert len(caplog.records) == warnings


def test_the_plugin_asks_by_the_name_that_is_replaced() -> None:
    assert inspect.iscoroutinefunction(plugin.query_job_status)
    assert "await query_job_status(" in inspect.getsource(plugin.Executor.check_active_jobs)
