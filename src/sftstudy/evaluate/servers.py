"""Starts a judge's server in the job, on a free port of this machine, and stops it with the job, however that ends.

vLLM is a process of its own, under a keeper that ends it even if this process is killed; the other servers are threads of the job.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sftstudy.config import Judge
from sftstudy.devices import claim
from sftstudy.errors import StudyError
from sftstudy.evaluate import keeper, local_server, rule_judge

START_S = 1800.0
"""Longest time that vLLM may take to load a model."""

STOP_S = 2 * keeper.STOP_S
"""How long the keeper may take to end a server and all that it started."""


@contextmanager
def serve(judge: Judge, *, weights: Path | None, log: Path) -> Iterator[str]:
    """Base URL of the judge: its endpoint's, or that of a server which lives as long as the context. `log` takes vLLM's output."""
    match judge.server:
        case None:
            yield judge.base_url or ""
        case "rule":
            with rule_judge.serve() as url:
                yield url
        case "transformers":
            assert weights is not None, "config wants weights for this server"
            with local_server.serve(weights, max_batch=judge.concurrency) as url:
                yield url
        case "vllm":
            assert weights is not None, "config wants weights for this server"
            with serve_vllm(judge, weights, log=log) as url:
                yield url


@contextmanager
def serve_vllm(judge: Judge, weights: Path, *, log: Path) -> Iterator[str]:
    """Run `vllm serve` and wait until it answers. Raises StudyError if it is not installed, or ends or hangs before that."""
    program = shutil.which("vllm", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise StudyError(f"judge {judge.model}: vllm is not installed; install it beside sftstudy, or set `server: transformers`")
    claim(1)
    port = _free_port()
    command = [program, "serve", str(weights), "--host=127.0.0.1", f"--port={port}", f"--served-model-name={judge.model}"]
    kept = [sys.executable, "-m", keeper.__name__, str(os.getpid()), *command, *judge.server_options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, _ends_with_us():
        process = subprocess.Popen(kept, stdout=output, stderr=output, start_new_session=True)
        try:
            _wait_for(process, port, what=f"judge {judge.model}: vllm", log=log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(process)


def _wait_for(process: subprocess.Popen[bytes], port: int, *, what: str, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StudyError(f"{what} ended with status {process.returncode} before it answered; {log} says why")
        with (
            suppress(urllib.error.URLError, OSError),
            direct.open(f"http://127.0.0.1:{port}/v1/models", timeout=5) as response,
        ):
            if response.status == 200 and _listens(process, port):
                return
        time.sleep(0.2)
    raise StudyError(f"{what} did not answer within {START_S:.0f} s; {log} says why")


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it is what our process started that listens there: another job may have taken the port before."""
    import psutil

    try:
        found = [one for child in psutil.Process(process.pid).children(recursive=True) for one in child.net_connections("inet")]
    except psutil.NoSuchProcess:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Have the keeper end the server and all that it started."""
    process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()  # the server goes with its keeper
        process.wait()


@contextmanager
def _ends_with_us() -> Iterator[None]:
    """While a server runs, SIGTERM unwinds this process instead of ending it on the spot, so that the server is stopped first."""

    def unwind(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
