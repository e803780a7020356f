"""Measure training: Horovod and torch.distributed on the same ranks, and a bare loop on one.

    python perf/training.py
    mpirun -n 2 python perf/training.py

All take the same steps from the same weights, in turns; the losses are compared before a time is reported.
Rows go to `results/training.csv`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
import torch
from mpi4py import MPI
from torch import nn
from torch.nn import functional

from lcu.config import Train
from lcu.train import distributed, loop, networks
from lcu.train.distributed import Distribution
from lcu.train.loop import Examples

TABLE = record.ROOT / "perf" / "results" / "training.csv"
COLUMNS = (
    "date", "commit", "host", "cpu", "device", "model", "backend", "ranks", "threads", "batch", "steps",
    "samples_per_second", "least", "most",
)  # fmt: skip
BANDS, TIMES, CLASSES = 12, 12, 12
AGREEMENT = 1e-4  # of the losses, relative


def examples(count: int, patch: tuple[int, ...]) -> Examples:
    """Return series of noise: how fast they are learned from does not depend on what they hold.

    `patch` is the shape (y, x) of what a network reads around a sample, or empty.
    """
    random = torch.Generator().manual_seed(1)
    return Examples(
        torch.randn(count, 1, TIMES, BANDS, *patch, generator=random),
        torch.ones(count, 1, TIMES, dtype=torch.bool),
        torch.linspace(0, 360, TIMES).expand(count, 1, TIMES).clone(),
        torch.randint(0, CLASSES, (count, 1), generator=random),
        torch.ones(count, 1),
        torch.zeros(count, 0),  # one year: there are no successive ones
    )


def bare(train: Train, data: Examples, device: torch.device) -> Callable[[int], torch.Tensor]:
    """Return a training loop as short as can be, on one rank: what the others are measured against."""
    network = fresh(train, device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
    )

    def epoch(number: int) -> torch.Tensor:
        network.train()
        order = loop.shuffled(len(data), 1, number).to(device)
        losses = []
        for step, chosen in enumerate(order.split(train.batch)):
            for group in optimiser.param_groups:
                group["lr"] = loop.rate(train, number + step * train.batch / len(data))
            optimiser.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                scores = network(data.values[chosen], data.observed[chosen], data.day[chosen])
            loss = functional.cross_entropy(
                scores[:, 0].float(), data.label[chosen, 0], label_smoothing=train.label_smoothing
            )
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), train.clip)
            optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return epoch


def through(
    distribution: Distribution, train: Train, data: Examples
) -> Callable[[int], torch.Tensor]:
    """Return lcu's loop over a backend."""
    network = fresh(train, distribution.device)
    optimiser = loop.optimiser_of(network, train, distribution)
    return lambda number: loop.train_epoch(network, optimiser, data, number, train, 1, distribution)


def fresh(train: Train, device: torch.device) -> nn.Module:
    """Return the network with the same weights for all."""
    torch.manual_seed(1)
    return networks.build(networks.describe(train, BANDS, TIMES, CLASSES)).to(device)


def measure(
    train: Train, started: list[Distribution], comm: MPI.Comm, steps: int, rounds: int
) -> dict[str, list[float]]:
    """Return samples/s of every round of each way."""
    device = started[0].device
    reach = networks.NETWORKS[train.model].reach
    patch = (2 * reach + 1,) * 2 if reach else ()
    data = examples(steps * train.batch, patch).to(device, torch.float32)
    ways = {one.name: through(one, train, data) for one in started}
    if comm.size == 1:
        ways["bare loop"] = bare(train, data, device)
    first = {name: way(0) for name, way in ways.items()}  # also the warm-up
    reference = next(iter(first.values()))
    tolerance = AGREEMENT if device.type == "cpu" else 0.05  # bfloat16
    for name, losses in first.items():
        torch.testing.assert_close(losses, reference, rtol=tolerance, atol=0, msg=f"{name} differs")
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            comm.Barrier()
            begun = time.perf_counter()
            way(number)[-1].item()
            comm.Barrier()
            speeds[name].append(len(data) / (time.perf_counter() - begun))
    return speeds


def main(comm: MPI.Comm) -> None:
    """Measure all networks and print a row each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(networks.NETWORKS))
    parser.add_argument("--batch", type=int, default=128, help="samples a step on one rank")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    options = parser.parse_args()
    started = [distributed.start(name, comm) for name in ("horovod", "torch")]
    if comm.size == 1:
        started.insert(0, distributed.start("none", comm))
    for name in options.models:
        train = networks.with_rate(
            Train(model=name, batch=options.batch * comm.size, dropout=0.0, distributed="auto")
        )
        speeds = measure(train, started, comm, options.steps, options.rounds)
        if comm.rank == 0:
            write(options.results, train, speeds, started[0].device, comm.size, options.steps)
    for one in started:
        one.close()


def write(
    table: Path, train: Train, speeds: dict[str, list[float]], device: torch.device, ranks: int, steps: int
) -> None:  # fmt: skip
    """Append rows to the table and print them."""
    where = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    for backend, values in speeds.items():
        row = {
            "device": where, "model": train.model, "backend": backend, "ranks": ranks,
            "threads": torch.get_num_threads(), "batch": train.batch, "steps": steps,
            "samples_per_second": round(float(np.median(values))), "least": round(min(values)),
            "most": round(max(values)),
        }  # fmt: skip
        record.append(table, [record.provenance() | row], COLUMNS)
        print(f"{train.model:<12} {backend:<10} {ranks} ranks {row['samples_per_second']:>9,} samples/s"
              f" ({row['least']:,} to {row['most']:,})", flush=True)  # fmt: skip
    ratios = np.divide(speeds["horovod"], speeds["torch"])  # round by round, in turns
    print(f"{train.model:<12} Horovod over torch.distributed {np.median(ratios):.2f}"
          f" ({ratios.min():.2f} to {ratios.max():.2f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(MPI.COMM_WORLD)
