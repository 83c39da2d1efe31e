"""Maps a function over chunks in a pool of processes, in order, with few chunks in flight so that memory stays flat."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from sftstudy.errors import StudyError

T = TypeVar("T")
R = TypeVar("R")

CHUNKS_PER_PROCESS = 2
_work: Callable[[Any], Any] | None = None


def in_order(make_work: Callable[[], Callable[[T], R]], chunks: Iterable[T], *, num_processes: int) -> Iterator[R]:
    """Results of `make_work()` on each chunk, in the order of the chunks; each process makes its own.

    With one process, the work is done here. Processes are spawned and not forked: a fork copies the locks that the threads of
    tokenizers and torch hold. Raises StudyError if one is killed.
    """
    if num_processes == 1:
        yield from map(make_work(), chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_start, initargs=(make_work,)) as pool:
        running: deque[Future[R]] = deque()
        try:
            for chunk in chunks:
                running.append(pool.submit(_run, chunk))
                if len(running) > CHUNKS_PER_PROCESS * num_processes:
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
