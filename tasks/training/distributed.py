"""Ranks: the processes of one training, with PyTorch's DistributedDataParallel.

Rank 0 is the process that was asked to train: it writes, tracks and reports. It starts the others on its own
machine, or `torchrun` has started all of them.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from tasks.training.local_ranks import (
    LOST_RANK,
    POLL_INTERVAL_S,
    LocalRanks,
    check_connections,
    loopback_only,
)
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

CONNECT_TIMEOUT = timedelta(minutes=1)  # once all ranks are there


@dataclass(frozen=True)
class Ranks:
    """The place of this process in a training. By default it is alone, and nothing is exchanged."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def place(self, device: torch.device) -> torch.device:
        """The device of this rank: where there are several, each has a GPU of its own."""
        if self.world_size == 1 or device.type != "cuda":
            return device
        own = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(own)
        return own

    def take_share(self, items: Tensor) -> Tensor:
        """The rows of this rank; where they do not divide evenly, the first ranks have one more."""
        return items if self.world_size == 1 else torch.tensor_split(items, self.world_size)[self.rank]

    def wrap(self, model: Any) -> Any:
        """The module, with gradients that are averaged over the ranks in the backward pass.

        What requires a gradient must not change while it is in use.
        """
        return model if self.world_size == 1 else DistributedDataParallel(model)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        """Rank 0's object, on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Rank 0's running statistics, on every rank."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def check_equal(self, fingerprint: str) -> None:
        """`RunError` unless all ranks have the same data, parameters, code and PyTorch."""
        if self.world_size == 1:
            return
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, fingerprint)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise RunError(f"rank {rank} has other splits, parameters, code or PyTorch than rank 0")


@contextmanager
def join_ranks(
    processes: int, device: torch.device, function: Callable[..., object], arguments: tuple[object, ...]
) -> Iterator[Ranks]:
    """Make this process one of `processes` ranks. Those that it starts call `function(ranks, *arguments)`.

    Under `torchrun` all are there already. `InputError` where their number is another, or there are too few
    GPUs. If a rank dies, all others end, and `RunError` says which it was.
    """
    join: AbstractContextManager[Ranks]
    if dist.is_torchelastic_launched():
        join = _join_torchrun(processes, device)
    elif processes == 1:
        join = nullcontext(Ranks())
    else:
        join = _start_ranks(processes, device, function, arguments)
    with join as ranks:
        yield ranks


@contextmanager
def _start_ranks(
    processes: int, device: torch.device, function: Callable[..., object], arguments: tuple[object, ...]
) -> Iterator[Ranks]:
    if dist.is_initialized():
        raise RunError("this process takes part in another training with several processes")
    _check_num_gpus(processes, device)
    ranks = Ranks(0, processes)
    others = LocalRanks(processes, _run_rank, (processes, device, function, arguments))
    with loopback_only(), others:
        try:
            store = others.wait_until_ready()
            with _process_group(device, ranks, store), _abort_if_one_dies(device, others):
                yield ranks
        except RuntimeError as error:
            if not _is_lost_rank(error):
                raise
            raise RunError(f"{others.describe_failure()}; the next run resumes") from error


def _run_rank(
    rank: int,
    store: Store,
    processes: int,
    device: torch.device,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    """What a process does that rank 0 has started. Rank 0 reads the last line that it prints if it fails."""
    ranks = Ranks(rank, processes, rank)
    try:
        with _process_group(device, ranks, store):
            function(ranks, *arguments)
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except RuntimeError as error:
        if not _is_lost_rank(error):
            raise
        sys.exit(LOST_RANK)


@contextmanager
def _join_torchrun(processes: int, device: torch.device) -> Iterator[Ranks]:
    rank, world_size, local_rank, local_world_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    if world_size != processes:
        raise InputError(
            f"torchrun started {world_size} processes, but train.processes is {processes}; "
            f"set it to {world_size}"
        )
    if world_size == 1:
        yield Ranks()
        return
    _check_num_gpus(local_world_size, device)
    ranks = Ranks(rank, world_size, local_rank)
    here = loopback_only() if local_world_size == world_size else nullcontext()
    with Path(os.devnull).open("w", encoding="utf-8") as devnull:
        try:
            with here, _process_group(device, ranks), redirect_stdout(devnull if rank else sys.stdout):
                yield ranks
        except RuntimeError as error:
            if not _is_lost_rank(error):
                raise
            raise RunError("another rank ended; torchrun says which") from error


@contextmanager
def _process_group(device: torch.device, ranks: Ranks, store: Store | None = None) -> Iterator[None]:
    """NCCL on GPUs, gloo on CPUs. Without a `store`, the ranks meet where `torchrun` says."""
    excepthook = sys.excepthook  # init_process_group replaces it each time
    is_cuda = device.type == "cuda"
    is_local = store is not None
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        store=store,
        rank=ranks.rank if is_local else -1,
        world_size=ranks.world_size if is_local else -1,
        device_id=ranks.place(device) if is_cuda else None,
        timeout=CONNECT_TIMEOUT if is_local and not is_cuda else None,
    )
    try:
        if store is not None and not is_cuda:
            check_connections(ranks.rank, ranks.world_size, store)
            _world().set_timeout(default_pg_timeout)
        yield
    except BaseException:
        if is_cuda:  # the others may not come to the end
            _world().abort()
        raise
    finally:
        dist.destroy_process_group()
        sys.excepthook = excepthook


@contextmanager
def _abort_if_one_dies(device: torch.device, others: LocalRanks) -> Iterator[None]:
    """Gloo notices by itself that a peer is gone; NCCL would wait for it."""
    if device.type != "cuda":
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_INTERVAL_S):
            if others.has_failed():
                _world().abort()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _world() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _check_num_gpus(needed: int, device: torch.device) -> None:
    available = torch.cuda.device_count()
    if device.type == "cuda" and needed > available:
        raise InputError(
            f"{needed} processes need {needed} CUDA devices on this machine, but PyTorch finds {available}; "
            "lower train.processes, or set train.device to cpu"
        )


def _is_lost_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is gone; gloo's own error is a plain one."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)
