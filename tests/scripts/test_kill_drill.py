"""Twenty-five kills at random places of the code, checkpoints being written included; every finished stage is the unbroken one."""

import os
import random
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from processes import SERVER
from sftstudy.records import TrainingRecord, read_metrics, read_record
from sftstudy.train.checkpoints import Saving
from sftstudy.train.stage import train_stage

NUM_KILLS = 25
WATCHED = ("/sftstudy/", "/torch/distributed/checkpoint/filesystem.py")
"""Files of the code in which a kill may fall: ours, and torch's writer of resume state."""


def watch(react: Callable[[str], None]) -> None:
    """Call `react` with `file.function:event` at every call of, and return from, a watched function, in all threads."""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event in ("call", "return") and any(part in file for part in WATCHED):
            react(f"{Path(file).stem}.{frame.f_code.co_name}:{event}")

    threading.setprofile(profile)
    sys.setprofile(profile)


def attempt(study: Any, stage: Any, bomb: tuple[str, int] | None, queue: Any) -> None:
    """One start of the program's work, in a process of its own; killed when `bomb`'s place is passed for the given time."""
    import torch

    torch.set_num_threads(1)
    seen: Counter[str] = Counter()

    def react(place: str) -> None:
        seen[place] += 1
        if bomb and place == bomb[0] and seen[place] == bomb[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    watch(react)
    train_stage(stage, layout=study.layout, saving=Saving(every_steps=3), device="cpu")
    sys.setprofile(None)
    queue.put(seen)


def run(study: Any, stage: Any, bomb: tuple[str, int] | None = None) -> tuple[int | None, Counter[str]]:
    """(exit status, how often each place was passed if it got to the end)."""
    queue = SERVER.Queue()
    process = SERVER.Process(target=attempt, args=(study, stage, bomb, queue))
    process.start()
    process.join()
    return process.exitcode, queue.get() if process.exitcode == 0 else Counter()


def numbers(study: Any, stage: Any) -> Any:
    """Everything of a finished stage that must not depend on what happened to it."""
    record = read_record(study.results(stage) / "training.json", TrainingRecord)
    timed = {"time_s", "tokens_per_s", "peak_memory_gb"}
    return record.checkpoints, [entry.model_dump(exclude=timed) for entry in read_metrics(study.results(stage) / "metrics.jsonl")]


def wipe(study: Any, stage: Any) -> None:
    """Back to the beginning: nothing of the stage was ever trained."""
    shutil.rmtree(study.scratch(stage))
    for name in ("training.json", "metrics.jsonl"):
        (study.results(stage) / name).unlink()


def test_kills_at_random_places_change_nothing(study: Any) -> None:
    stage = study.stage()
    status, places = run(study, stage)
    assert status == 0
    expected = numbers(study, stage)
    assert {"checkpoints.seal:call", "loop.train_step:return", "records.write_bytes:call", "attempts.claim:call"} <= set(places)
    wipe(study, stage)
    rng = random.Random(7)
    files = sorted({place.split(".")[0] for place in places})
    killed: Counter[str] = Counter()
    finished = 0
    while killed.total() < NUM_KILLS:
        # evenly over files, so that what happens once is hit as often as what happens at every step
        file = rng.choice(files)
        place = rng.choice(sorted(place for place in places if place.split(".")[0] == file))
        status, _ = run(study, stage, (place, rng.randint(1, places[place])))
        if status == 0:
            assert numbers(study, stage) == expected
            finished += 1
            wipe(study, stage)
        else:
            assert status == -signal.SIGKILL
            killed[place] += 1
    assert run(study, stage)[0] == 0
    assert numbers(study, stage) == expected
    print(f"{killed.total()} kills at {len(killed)} places of {len(files)} files, {finished + 1} stages finished:", dict(killed))
    assert len({place.split(".")[0] for place in killed}) > 5
    assert any(place.startswith(("checkpoints.", "filesystem.")) for place in killed)
