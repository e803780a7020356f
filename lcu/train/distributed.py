"""The one seam between the training loop and what adds up gradients: Horovod, torch.distributed, nothing.

The loop sees a `Distribution` and no library. Gradients are *summed*: every rank divides its loss by the
weight of the whole batch, which it knows without asking, so no average is ever taken over ranks.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch
from mpi4py import MPI
from torch import nn
from torch.optim import Optimizer

from lcu.ranks import together

# A rank that waits longer than this for another is stuck: the others are dead or deadlocked.
PATIENCE = timedelta(minutes=10)

# Seconds between two looks whether a sum of small tensors is there.
PAUSE = 1e-5

Tensor = torch.Tensor


class DistributedError(RuntimeError):
    """The backend that was asked for cannot be used."""


class Distribution:
    """One rank by itself, and what a backend has to do."""

    name = "none"

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self.device = torch.device("cpu") if device is None else device

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the ranks' tensors, the same on every rank."""
        return values

    def broadcast(self, network: nn.Module) -> None:
        """Give rank 0's parameters and buffers to every rank."""

    def wrap(self, optimiser: Optimizer, network: nn.Module, passes: int) -> Optimizer:
        """Return the optimiser to use; gradients come from `passes` calls of ``backward`` a step."""
        return optimiser

    def reduce(self, optimiser: Optimizer) -> None:
        """Put the sum over the ranks in the place of every gradient."""

    def step(self, optimiser: Optimizer) -> None:
        """Take a step with gradients that `reduce` left."""
        optimiser.step()

    def close(self) -> None:
        """Give back what the backend holds."""


class Torch(Distribution):
    """torch.distributed: NCCL between GPUs, gloo between CPUs; started from the MPI ranks."""

    name = "torch"

    def __init__(self, comm: MPI.Comm, device: torch.device, compression: str) -> None:
        super().__init__(comm.rank, comm.size, device)
        self._half = compression == "fp16"
        self._store = _meeting_place(comm)
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=self._store, rank=comm.rank,
            world_size=comm.size, timeout=PATIENCE,
        )  # fmt: skip

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the ranks' tensors."""
        total = values.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total

    def broadcast(self, network: nn.Module) -> None:
        """Give rank 0's parameters and buffers to every rank."""
        for values in network.state_dict().values():
            torch.distributed.broadcast(values, 0)

    def reduce(self, optimiser: Optimizer) -> None:
        """Sum all gradients as one vector: small networks have many small tensors."""
        gradients = [
            part.grad
            for group in optimiser.param_groups
            for part in group["params"]
            if part.grad is not None
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        sent = flat.half() if self._half else flat
        torch.distributed.all_reduce(sent)
        parts = sent.to(flat.dtype).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def close(self) -> None:
        """Leave the group."""
        torch.distributed.destroy_process_group()


class Horovod(Distribution):
    """Horovod: its optimiser sums each gradient as soon as it is there."""

    name = "horovod"

    def __init__(self, comm: MPI.Comm, device: torch.device, compression: str) -> None:
        import horovod.torch as hvd

        super().__init__(comm.rank, comm.size, device)
        hvd.init()
        if hvd.size() != comm.size:
            raise DistributedError(
                f"Horovod sees {hvd.size()} ranks, the communicator has {comm.size}: it was built with another "
                "MPI; set train.distributed = \"torch\""
            )  # fmt: skip
        self._hvd = hvd
        self._compression = getattr(hvd.Compression, compression)
        self._comm = comm.Dup()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the ranks' tensors.

        On CPUs by MPI itself: whoever asks waits for the answer, four times for each batch normalisation, and
        Horovod would begin each of them with its next cycle only. It is waited for asleep: Horovod's thread
        shares the core, and MPI would keep it busy.
        """
        if values.device.type == "cpu":
            total = values.detach().clone(memory_format=torch.contiguous_format)
            request = self._comm.Iallreduce(MPI.IN_PLACE, total.numpy())
            while not request.Test():
                time.sleep(PAUSE)
            return total
        # Named by what it is: nothing else of that name is under way, and Horovod remembers names.
        name = f"sum.{values.dtype}.{tuple(values.shape)}"
        return self._hvd.allreduce(values.contiguous(), op=self._hvd.Sum, name=name)

    def broadcast(self, network: nn.Module) -> None:
        """Give rank 0's parameters and buffers to every rank."""
        self._hvd.broadcast_parameters(network.state_dict(), root_rank=0)

    def wrap(self, optimiser: Optimizer, network: nn.Module, passes: int) -> Optimizer:
        """Return Horovod's optimiser around `optimiser`.

        All gradients are one group: the ranks agree once a step on what to sum, and not once for each of
        many small tensors.
        """
        return self._hvd.DistributedOptimizer(
            optimiser, named_parameters=network.named_parameters(), op=self._hvd.Sum,
            compression=self._compression, backward_passes_per_step=passes, groups=1,
        )  # fmt: skip

    def reduce(self, optimiser: Optimizer) -> None:
        """Wait for the sums that are under way."""
        optimiser.synchronize()

    def step(self, optimiser: Optimizer) -> None:
        """Take a step; the gradients were waited for."""
        with optimiser.skip_synchronize():
            optimiser.step()

    def close(self) -> None:
        """Give back the communicator; Horovod itself stays up for the next training."""
        self._comm.Free()


def choose(wanted: str, comm: MPI.Comm) -> str:
    """Return the backend that `train.distributed` means here, the same on every rank.

    "auto" is Horovod where every rank can load it, else torch.distributed; a rank by itself needs neither.
    """
    if wanted != "auto":
        return wanted
    if comm.size == 1:
        return "none"
    return "horovod" if comm.allreduce(_has_horovod(), MPI.LAND) else "torch"


def _has_horovod() -> bool:
    try:
        import horovod.torch as hvd
    except (ImportError, OSError):
        return False
    return bool(hvd.mpi_built())


def start(wanted: str, comm: MPI.Comm, compression: str = "none") -> Distribution:
    """Start the backend on every rank of `comm`, and share the node's cores and GPUs among its ranks.

    Raises
    ------
    RankError
        On every rank, where the backend cannot be used.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    local, beside = node.rank, node.size
    node.Free()
    share_cores(beside)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    backend = choose(wanted, comm)
    if backend == "torch":
        return Torch(comm, device, compression)
    if backend == "horovod":
        with together(comm, "loading Horovod"):
            if not _has_horovod():
                raise DistributedError(
                    "train.distributed is horovod, and horovod.torch cannot be imported or was built without "
                    "MPI; build it (jobscripts/env/horovod.sh) or set train.distributed = \"torch\""
                )  # fmt: skip
        return Horovod(comm, device, compression)
    if comm.size > 1:
        with together(comm, "choosing what trains in parallel"):
            raise DistributedError(
                f"train.distributed is none, and there are {comm.size} ranks; start one, or set it to auto"
            )
    return Distribution(device=device)


def share_cores(ranks: int) -> None:
    """Give this rank its share of the node's cores, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))


def _meeting_place(comm: MPI.Comm) -> torch.distributed.TCPStore:
    """Open a store on rank 0 and tell the others where; on one host the name is not looked up."""
    hosts = comm.allgather(socket.gethostname())
    host = hosts[0]
    if len(set(hosts)) == 1:
        host = "127.0.0.1"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    store, port = None, None
    if comm.rank == 0:
        store = torch.distributed.TCPStore(
            host, 0, comm.size, True, timeout=PATIENCE, wait_for_workers=False
        )
        port = store.port
    port = comm.bcast(port, root=0)
    if store is None:
        store = torch.distributed.TCPStore(host, port, comm.size, False, timeout=PATIENCE)
    return store


def _loopback() -> str:
    """Return the name of the interface of 127.0.0.1."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
