"""Ranks are the processes of one training, with PyTorch's DistributedDataParallel (DDP).

Rank 0 is the process that was asked to train: it writes, tracks and reports. It starts the others on its own
machine, or `torchrun` has started all. In a training of one process, values come back as they were given.
"""

import hmac
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore, GradBucket, Store  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes
from torch.nn.parallel import DistributedDataParallel

from tasks.workspace.errors import InputError, RunError


def get_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def take_share(items: Tensor) -> Tensor:
    """Return this rank's rows; if they do not divide evenly, the first ranks have one more."""
    return torch.tensor_split(items, dist.get_world_size())[get_rank()] if dist.is_initialized() else items


def all_reduce(tensor: Tensor) -> Tensor:
    """Add up the tensors of all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def broadcast(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def predict_in_shares(network: nn.Module, predict: Callable[[Tensor], Tensor], indices: Tensor) -> Tensor:
    """Return `predict(indices)`, with rank 0's running statistics; each rank computes its share."""
    if not dist.is_initialized():
        return predict(indices)
    for buffer in network.buffers():
        dist.broadcast(buffer, 0)
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, predict(take_share(indices)).cpu())
    return torch.cat(parts)


def replicate(network: nn.Module) -> nn.Module:
    """Return the network with gradients that are added up over the ranks, while it computes the same ones."""
    if not dist.is_initialized():
        return network
    replica = DistributedDataParallel(network)
    replica.register_comm_hook(None, _add_gradients)
    return replica


def _add_gradients(_: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Add, since DDP's own mean over the ranks would weigh uneven shares of a batch alike."""
    reduction = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return reduction.then(lambda done: done.value()[0])  # type: ignore[no-any-return]


@contextmanager
def join_ranks(processes: int, device: str, fingerprint: str, *call: Any) -> Iterator[None]:
    """Make this process a rank of the block's training. It starts the others, unless `torchrun` has.

    Those that it starts make the `call`: a function and its arguments. If a rank dies, all end, and
    `RunError` says which it was. `InputError` if `torchrun` started another number, or if GPUs are too few.
    """
    if dist.is_initialized():
        raise RunError("this process takes part in another training with several processes")
    is_launched = dist.is_torchelastic_launched()
    _check_number(processes, device, "WORLD_SIZE" if is_launched else None)
    try:
        if processes == 1:
            yield
        elif is_launched:
            with _process_group(device, int(os.environ["LOCAL_RANK"])):
                if broadcast(fingerprint) != fingerprint:
                    raise RunError("this rank has other splits, parameters, code or PyTorch than rank 0")
                yield
        else:
            with _start_ranks(processes, device, call):
                yield
    except (ProcessExitedException, ProcessRaisedException) as error:
        reason = error.msg.strip().splitlines()[-1].removeprefix(f"process {error.error_index} ")
        raise RunError(f"rank {error.error_index + 1}: {reason}; the next run resumes") from error
    except RuntimeError as error:
        if not _is_lost_rank(error):
            raise
        raise RunError("the connection to another rank was lost; the next run resumes") from error


def _check_number(processes: int, device: str, variable: str | None) -> None:
    started, here = (int(os.environ[f"{of}{variable}"]) if variable else processes for of in ("", "LOCAL_"))
    if started != processes:
        raise InputError(
            f"torchrun started {started} processes; set train.processes to it, not to {processes}"
        )
    if device == "cuda" and here > max(1, found := torch.cuda.device_count()):
        reason = f"{here} processes need {here} CUDA devices on this machine, but PyTorch finds {found}"
        raise InputError(f"{reason}; lower train.processes, or set train.device to cpu")
    if here == processes > 1:  # gloo and NCCL listen on loopback alone, whose name depends on the system
        names = {each.address: name for name, group in psutil.net_if_addrs().items() for each in group}
        os.environ |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), names["127.0.0.1"])


@contextmanager
def _start_ranks(processes: int, device: str, call: tuple[Any, ...]) -> Iterator[None]:
    # Ranks trust what is in the store. A server would take it from every user of the machine; this store is a
    # file in a folder that is closed to other users.
    with tempfile.TemporaryDirectory(prefix="cifarflow-ranks-") as folder:
        file = Path(folder) / "store"
        others: Any = start_processes(_run_rank, (file, processes, device, call), processes - 1, join=False)  # type: ignore[no-untyped-call]
        try:
            store = FileStore(str(file), processes)
            while not store.check([f"ready {rank}" for rank in range(1, processes)]):
                others.join(timeout=0.05)  # raises if one has ended before it was ready
            with _process_group(device, 0, store, processes):
                yield
            for process in others.processes:
                process.join(10)
        except RuntimeError as error:
            for _ in others.processes if _is_lost_rank(error) else ():
                others.join(timeout=10, grace_period=1)  # raises once it finds the rank that was lost
            raise
        finally:
            for process in others.processes:
                process.kill()
                process.join()


def _run_rank(index: int, file: Path, processes: int, device: str, call: tuple[Any, ...]) -> None:
    os.setsid()  # Ctrl-C is for rank 0, which ends the others; if rank 0 is killed, the kernel tells them
    store, (function, *arguments) = FileStore(str(file), processes), call
    store.set(f"ready {index + 1}", "")
    try:
        with _process_group(device, index + 1, store, processes):
            function(*arguments)
    except RuntimeError as error:
        if not _is_lost_rank(error):  # the one that is to be reported is the rank that was lost, not this one
            raise


@contextmanager
def _process_group(device: str, local_rank: int, store: Any = None, processes: int = -1) -> Iterator[None]:
    """Connect the ranks by NCCL on GPUs, by gloo on CPUs. Only rank 0 prints in the block."""
    excepthook = sys.excepthook  # init_process_group replaces it each time
    own = torch.device("cuda", local_rank) if device == "cuda" else None
    if own is not None:
        torch.cuda.set_device(own)
    backend, rank = "gloo" if own is None else "nccl", -1 if store is None else local_rank
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, device_id=own)
    try:
        if own is None and store is not None:
            _check_connections(store)
        with Path(os.devnull).open("w", encoding="utf-8") as null:
            out, errors = (null, null) if get_rank() else (sys.stdout, sys.stderr)
            with redirect_stdout(out), redirect_stderr(errors):
                yield
    except BaseException:
        if own is not None:  # the others may not come to the end
            dist.group.WORLD.abort()  # type: ignore[union-attr]
        raise
    finally:
        dist.destroy_process_group()
        sys.excepthook = excepthook


def _check_connections(store: Store) -> None:
    """Raise `RunError` unless at the other end of every connection is the rank that belongs there.

    Gloo takes whoever connects first for a rank, from any user of the machine. So each two ranks exchange a
    digest of a secret, which only they can read in the store. NCCL has a secret of its own there.
    """
    rank, ranks = get_rank(), range(dist.get_world_size())
    if rank == 0:
        store.set("secret", secrets.token_hex())
    secret = store.get("secret")

    def digest(sender: int, receiver: int) -> list[int]:
        return list(hmac.digest(secret, f"{sender} {receiver}".encode(), "sha256"))

    sent = torch.tensor([digest(rank, other) for other in ranks], dtype=torch.uint8)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    if received.tolist() != [digest(other, rank) for other in ranks]:
        raise RunError("another process connected in the place of a rank; is somebody else on this machine?")


def _is_lost_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is gone; gloo's own error is a plain one."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)
