"""The training loop: one for all networks, all backends, any number of ranks.

The order of the samples follows from (seed, epoch) alone and a batch is `train.batch` samples over *all*
ranks, each taking its part of them. Losses and gradients are sums over the batch, divided by the batch's
weight; so the number of ranks changes nothing but rounding (and which unit dropout silences).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from lcu.config import Train
from lcu.ranks import together
from lcu.train.distributed import Distribution
from lcu.train.lamb import Lamb
from lcu.train.layers import BatchNorm, Network
from lcu.train.penalty import penalty

Tensor = torch.Tensor

# Batch for which `train.learning_rate` holds; others take it times the square root of batch / USUAL_BATCH,
# as suits Adam (Malladi et al. 2022, NeurIPS).
USUAL_BATCH = 128

# Samples that are predicted at once.
READ = 1024


class TrainError(RuntimeError):
    """Samples from which nothing can be learned, or a training that went wrong."""


@dataclass(frozen=True)
class Examples:
    """What a network learns from, whole on the device of every rank.

    Attributes
    ----------
    values : Tensor[example, year, time, band], float
        Standardised reflectance.
    observed : Tensor[example, year, time], bool
    day : Tensor[example, year, time], float
    label : Tensor[example, year], int64
        Index of the class; -1 where not labelled.
    weight : Tensor[example, year], float
        0 where not labelled.
    steady : Tensor[example, year - 1], float
        What a change of the scores costs between successive years (`lcu.train.penalty`).
    """

    values: Tensor
    observed: Tensor
    day: Tensor
    label: Tensor
    weight: Tensor
    steady: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def take(self, chosen: Tensor) -> Examples:
        """Return some of the examples."""
        return Examples(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def to(self, device: torch.device, dtype: torch.dtype) -> Examples:
        """Return the examples on a device, their numbers in `dtype`."""
        parts = (getattr(self, name).to(device) for name in self.__dataclass_fields__)
        return Examples(*(part.to(dtype) if part.is_floating_point() else part for part in parts))


@dataclass
class State:
    """How far a training is: what a checkpoint holds beside network and optimiser.

    Attributes
    ----------
    epoch : int
        Epochs that are done.
    best : float
        The best macro F1 of the validation samples so far.
    best_epoch : int
    weights : dict
        The network of that epoch.
    history : list of dict
        A row of ``training.csv`` for each epoch.
    """

    epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def optimiser_of(network: Network, train: Train, distribution: Distribution) -> Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019, ICLR) or LAMB, its gradients summed over the ranks."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.add = distribution.sum if distribution.size > 1 else None
    distribution.broadcast(network)
    kind = {"adamw": AdamW, "lamb": Lamb}[train.optimiser]
    optimiser = kind(network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
    return distribution.wrap(optimiser, network, train.accumulate)


def fit(
    network: Network,
    learned: Examples,
    checked: Examples,
    train: Train,
    seed: int,
    distribution: Distribution,
    comm: MPI.Comm,
    *,
    until: int,
    state: State,
    optimiser: Optimizer,
    after_epoch: Callable[[State], None],
) -> State:
    """Train until the validation samples are got right no better for `train.patience` epochs, or epoch `until`.

    Parameters
    ----------
    network, optimiser, state
        Fresh ones, or those of a checkpoint; `optimiser` is what `optimiser_of` returned.
    learned, checked : Examples
        The same on every rank.
    after_epoch : callable
        Called on every rank after each epoch, with the state; may end the training by an exception.

    Raises
    ------
    RankError
        On every rank, of a TrainError: too few samples for the ranks, or a loss that is no number.
    """
    with together(comm, "training"):
        check_batch(len(learned), train, distribution)
    if not state.weights:
        state.weights = copy.deepcopy(network.state_dict())
    while goes_on(state, train, until):
        begun = time.perf_counter()
        losses = train_epoch(network, optimiser, learned, state.epoch, train, seed, distribution)
        with together(comm, "training"):
            check_loss(losses, state.epoch, train)
        seconds = time.perf_counter() - begun
        matrix = error_matrix(
            checked.label, predicted(network, checked, comm), network.head.out_features
        )
        state.epoch += 1
        score = macro_f1(matrix)
        if (
            not score <= state.best
        ):  # without validation samples the score is nan: the last epoch counts
            state.best, state.best_epoch = score, state.epoch
            state.weights = copy.deepcopy(network.state_dict())
        state.history.append(
            {
                "epoch": state.epoch,
                "learning_rate": rate(train, state.epoch - 0.5),
                "loss": losses.mean().item(),
                "macro_f1": score,
                "agreement": float(np.trace(matrix) / max(matrix.sum(), 1)),
                "seconds": round(time.perf_counter() - begun, 3),
                "samples_per_second": round(
                    len(losses) * batch_size(len(learned), train) / seconds
                ),
            }
        )
        after_epoch(state)
    network.load_state_dict(state.weights)
    return state


def goes_on(state: State, train: Train, until: int) -> bool:
    """Tell whether another epoch is wanted."""
    return state.epoch < until and state.epoch - state.best_epoch < train.patience


def check_batch(count: int, train: Train, distribution: Distribution) -> None:
    """Refuse batches that leave a rank without a sample."""
    least = distribution.size * train.accumulate
    if batch_size(count, train) < least:
        raise TrainError(
            f"{count} samples in batches of {train.batch} do not go round {distribution.size} ranks"
            f" x {train.accumulate} passes; start fewer ranks, or raise train.batch or sample.per_class"
        )


def check_loss(losses: Tensor, epoch: int, train: Train) -> None:
    """End a training whose loss is no number any more."""
    if not math.isfinite(losses.sum().item()):
        raise TrainError(
            f"the loss is no number in epoch {epoch + 1}; lower train.learning_rate "
            f"({train.learning_rate:g}) or train.clip ({train.clip:g})"
        )


def batch_size(count: int, train: Train) -> int:
    """Return how many samples all ranks together take in a step."""
    return min(train.batch, count)


def train_epoch(
    network: Network,
    optimiser: Optimizer,
    data: Examples,
    epoch: int,
    train: Train,
    seed: int,
    distribution: Distribution,
) -> Tensor:
    """Go over the samples once; return the loss of each step over all ranks, [step].

    What is left after the last whole batch waits for the next epoch's order.
    """
    network.train()
    torch.manual_seed(hash((seed, epoch, distribution.rank)) % 2**63)  # for dropout
    order = shuffled(len(data), seed, epoch).to(data.label.device)
    batch = batch_size(len(data), train)
    steps = len(data) // batch
    losses = torch.zeros(steps, dtype=data.values.dtype, device=data.label.device)
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        total = data.weight[chosen].sum()
        for group in optimiser.param_groups:
            group["lr"] = rate(train, epoch + step / steps)
        optimiser.zero_grad()
        own = chosen.tensor_split(distribution.size)[distribution.rank]
        for part in own.tensor_split(train.accumulate):
            loss = summed_loss(network, data.take(part), train) / total
            loss.backward()
            losses[step] += loss.detach()
        distribution.reduce(optimiser)
        nn.utils.clip_grad_norm_(network.parameters(), train.clip)
        distribution.step(optimiser)
    return distribution.sum(losses)


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the samples in an epoch, the same for any number of ranks."""
    generator = torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)
    return torch.randperm(count, generator=generator)


def rate(train: Train, epoch: float) -> float:
    """Return the learning rate after `epoch` epochs: a linear warm-up, then half a cosine to 0."""
    full = train.learning_rate * math.sqrt(train.batch / USUAL_BATCH)
    if epoch < train.warmup:
        return full * (epoch + 0.1) / (train.warmup + 0.1)
    share = (epoch - train.warmup) / max(train.epochs - train.warmup, 1e-9)
    return full * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def summed_loss(network: Network, part: Examples, train: Train) -> Tensor:
    """Return the sum over examples and years of weight x cross-entropy, and of the penalty on change."""
    scores = scored(network, part)
    each = functional.cross_entropy(
        scores.flatten(0, 1), part.label.flatten().clamp(min=0), reduction="none",
        label_smoothing=train.label_smoothing,
    )  # fmt: skip
    loss = (each * part.weight.flatten()).sum()
    if train.change_penalty:
        loss = loss + train.change_penalty * penalty(scores, part.steady)
    return loss


def scored(network: Network, part: Examples) -> Tensor:
    """Return class scores [example, year, class]; on a GPU through bfloat16, float32 at the end."""
    kind = part.values.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        scores = network(part.values, part.observed, part.day)
    return scores.to(part.values.dtype)


def predicted(network: Network, data: Examples, comm: MPI.Comm) -> np.ndarray:
    """Return the most likely class index of every example, int64 [example, year]; ranks share the work."""
    return all_scores(network, data, comm).argmax(-1)


def all_scores(network: Network, data: Examples, comm: MPI.Comm) -> np.ndarray:
    """Return the class scores of every example, float [example, year, class]; ranks share the work."""
    network.eval()
    own = torch.arange(len(data), device=data.label.device).tensor_split(comm.size)[comm.rank]
    with torch.inference_mode():
        found = [scored(network, data.take(part)).cpu() for part in own.split(READ) if len(part)]
    empty = np.zeros((0, data.label.shape[1], network.head.out_features), np.float32)
    return np.concatenate(
        comm.allgather(np.concatenate([empty, *(part.numpy() for part in found)]))
    )


def score(network: Network, checked: Examples, comm: MPI.Comm) -> float:
    """Return the macro F1 of the validation samples; -1 where there are none."""
    found = predicted(network, checked, comm)
    value = macro_f1(error_matrix(checked.label, found, network.head.out_features))
    return value if math.isfinite(value) else -1.0


def error_matrix(label: Tensor, found: np.ndarray, classes: int) -> np.ndarray:
    """Return counts [map, reference] of the labelled examples and years."""
    reference = label.cpu().numpy()
    known = reference >= 0
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (found[known], reference[known]), 1)
    return matrix


def macro_f1(matrix: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur, of counts [map, reference]; nan of none."""
    mapped, reference = matrix.sum(1), matrix.sum(0)
    occurs = reference > 0
    if not occurs.any():
        return float("nan")
    f1 = 2 * np.diag(matrix) / np.maximum(mapped + reference, 1)
    return float(f1[occurs].mean())


def rows(history: list[dict[str, Any]]) -> list[str]:
    """Return the lines of ``training.csv``."""
    if not history:
        return []
    lines = [",".join(history[0])]
    return lines + [",".join(f"{value:.6g}" for value in row.values()) for row in history]
