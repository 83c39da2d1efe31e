"""The processes that train one stage, and the model spread over them.

Every stage trains under torch's `fully_shard` (FSDP2), also in one process and on the CPU, so that what is tested is what is
shipped. With `sharding: none` each process holds all weights, and gradients are summed over processes once per step, as DDP does;
with `full` weights, gradients and optimizer state are split. Master weights, gradients and their sums are fp32; with bf16, copies
of the weights compute, and DDP proper would sum their bf16 gradients.

torchrun starts the processes. The group is made here and not by accelerate, which under some flags quietly runs as many single
processes instead, and trains DDP on a CPU that was told to shard.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from sftstudy.devices import claim
from sftstudy.errors import StudyError, exit_status, tell

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long processes wait for one of them: while the first one writes and hashes a large checkpoint, the others do nothing."""


class EndedByFirstError(SystemExit):
    """Ends a process quietly: the first one knows the same, and says it."""


@dataclass(frozen=True)
class World:
    """The processes of a stage. `rank` 0 reads and writes the stage's folder, and speaks."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        """On how many nodes torchrun started them."""
        return int(os.environ.get("GROUP_WORLD_SIZE", "1"))

    @property
    def device_name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def peak_memory_gb(self) -> float:
        """The most memory that this process has held: on its GPU, or resident on the host."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def total(self, *values: float) -> list[float]:
        """Each value summed over all processes, in double precision."""
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return list(sums.tolist())

    def gathered(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def fail(self, error: StudyError) -> NoReturn:
        """Raise an error that all processes have met: the first one tells and raises it, the others end without a word."""
        if self.is_first and self.size > 1:
            tell(error)
        dist.barrier()  # torchrun ends the others as soon as one has ended: not before the first has spoken
        if self.is_first:
            raise error
        raise EndedByFirstError(exit_status(error))

    def first_decides(self, decide: Callable[[], T]) -> T:
        """What `decide` returns in the first process, in all of them. If it raises there, the others end without a word."""
        box: list[Any] = [None, False]
        error: BaseException | None = None
        if self.is_first:
            try:
                box = [decide(), True]
            except BaseException as raised:
                error = raised
                if isinstance(raised, StudyError) and self.size > 1:
                    tell(raised)
        dist.broadcast_object_list(box, src=0)
        if error is not None:
            raise error
        if not box[1]:
            raise EndedByFirstError(1)
        decided: T = box[0]
        return decided


@contextmanager
def joined(device: Literal["auto", "cpu", "cuda"]) -> Iterator[World]:
    """The world that torchrun's variables describe, or one of a single process. `auto` takes a GPU where there is one.

    Raises StudyError if there is no GPU, or none for each process of this node, though one is wanted.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = _device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    if size > 1:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)  # no port: two stages may share a node
    try:
        assert (dist.get_rank(), dist.get_world_size()) == (rank, size), "torchrun's processes have found each other"
        yield World(rank, size, place)
    except BaseException as error:
        if size > 1 and not (isinstance(error, EndedByFirstError) or (isinstance(error, StudyError) and error.told)):
            _end_at_once(error)
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _end_at_once(error: BaseException) -> NoReturn:
    """End a process whose error the others do not know. Leaving their group in good order would wait for them, who wait for us."""
    if isinstance(error, StudyError):
        tell(error)
        status = exit_status(error)
    else:
        traceback.print_exception(error)
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _device(wanted: str) -> torch.device:
    if wanted != "cpu":
        claim(1, is_worker="WORLD_SIZE" in os.environ)
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local >= here:
        raise StudyError(
            f"process {local + 1} of this node wants a GPU of its own, {here} can be seen; "
            "ask for as many GPUs as processes, or train with `--device cpu`"
        )
    return torch.device("cuda", local)


def spread(model: torch.nn.Module, world: World, *, precision: str, sharding: Literal["none", "full"], cpu_offload: bool) -> None:
    """Put the model under `fully_shard`, layer by layer, in place; its weights become DTensors.

    `cpu_offload` keeps weights, gradients and optimizer state in the memory of the host between their uses.
    """
    shape, names = ((world.size,), ("shard",)) if sharding == "full" else ((world.size, 1), ("replicate", "shard"))
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, shape, mesh_dim_names=names),
        "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if precision == "bf16"
        else MixedPrecisionPolicy(),
        # replicated weights stay gathered for the backward pass: there is nothing to save
        "reshard_after_forward": sharding == "full",
        "offload_policy": CPUOffloadPolicy(pin_memory=world.device.type == "cuda") if cpu_offload else OffloadPolicy(),
    }
    for layer in layers_of(model):
        fully_shard(layer, **settings)
    fully_shard(model, **settings)


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The blocks that the model's own code says must not be split: its decoder layers."""
    kinds = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]


def begin_microbatch(model: torch.nn.Module, *, last: bool, sharding: Literal["none", "full"]) -> None:
    """Tell the spread model whether a micro-batch is the last of its step.

    Replicated gradients are summed over processes only then, and the weights that compute stay as they are until then.
    """
    assert isinstance(model, FSDPModule), "the model was put under fully_shard by `spread`"
    if sharding == "none":
        model.set_requires_all_reduce(last)
        model.set_reshard_after_backward(last)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A weight in full, wherever it lies; a collective call if it is spread."""
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach()
