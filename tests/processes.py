"""Functions run by several processes that have found each other, as torchrun's do, but started from one that has torch loaded."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["transformers.models.llama.modeling_llama", "sftstudy.train.engine"])


def in_processes(number: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `number` processes, by rank. Fails if one of them does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    queue = SERVER.Queue()
    processes = [SERVER.Process(target=_work, args=(queue, rank, number, port, function, arguments)) for rank in range(number)]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    for _ in processes:
        rank, value, error = queue.get(timeout=120)
        assert error is None, f"process {rank} of {number}:\n{error}"
        found[rank] = value
    for process in processes:
        process.join()
    return [found[rank] for rank in range(number)]


def _work(queue: Any, rank: int, number: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    try:
        queue.put((rank, function(*arguments), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))
