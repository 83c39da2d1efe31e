"""Maps a function over chunks in a pool of processes, in order, with few chunks in flight so that memory stays flat."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from sftstudy.errors import StudyError

T = TypeVar("T")
R = TypeVar("R")

CHUNKS_PER_PROCESS = 8
"""A process takes seconds to start: it should have at least so many chunks to work on."""

CHUNKS_IN_FLIGHT = 2
_work: Callable[[Any], Any] | None = None


def in_order(
    work: Callable[[T], R], chunks: Iterable[T], *, num_processes: int, make_work: Callable[[], Callable[[T], R]]
) -> Iterator[R]:
    """Results of `work` on each chunk, in the order of the chunks; other processes make theirs by `make_work`.

    With one process, or few chunks, the work is done here. Processes are spawned and not forked: a fork copies the locks that the
    threads of tokenizers and torch hold. Raises StudyError if one is killed.
    """
    remaining = iter(chunks)
    first = list(islice(remaining, CHUNKS_PER_PROCESS * num_processes if num_processes > 1 else 0))
    num_processes = min(num_processes, len(first) // CHUNKS_PER_PROCESS)
    if num_processes < 2:
        yield from map(work, chain(first, remaining))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_start, initargs=(make_work,)) as pool:
        running: deque[Future[R]] = deque()
        try:
            for chunk in chain(first, remaining):
                running.append(pool.submit(_run, chunk))
                if len(running) > CHUNKS_IN_FLIGHT * num_processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise StudyError(
                "a process of the pool was killed, probably for want of memory; give the job more, or fewer threads"
            ) from None
        finally:
            for future in running:
                future.cancel()


def _start(make_work: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    _work = make_work()


def _run(chunk: Any) -> Any:
    assert _work is not None, "the pool starts each process with its work"
    return _work(chunk)
