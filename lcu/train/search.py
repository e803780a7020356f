"""Which settings suit: successive halving over trials that run side by side.

Many sets of settings are tried for a few epochs, the better third of them for three times as many, and so on
(Jamieson and Talwalkar 2016, AISTATS). Its asynchronous form (ASHA, Li et al. 2020, MLSys) promotes a trial as soon
as it leads those that happen to be done, so that its answer depends on who was fast; here a round ends before the
next begins, and the answer depends on the seed alone, save for the rounding of sums over ranks.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from lcu import store
from lcu.config import Config, Train
from lcu.deadline import GO_ON, OutOfTime
from lcu.ranks import RankError, on_root, together
from lcu.train import checkpoint, distributed, networks
from lcu.train.checkpoint import Report
from lcu.train.loop import Examples

log = logging.getLogger(__name__)

# One in this many trials goes on, for this many times the epochs.
HALVING = 3

# Rates between a fifth and five times the usual one; widths, batches: times these; depths: plus these.
RATES = 5.0
WIDTHS, BATCHES, DEPTHS = (0.5, 1.0, 2.0), (0.5, 1.0, 2.0, 4.0), (-1, 0, 1)
MOST_DROPOUT = 0.5


@dataclass(frozen=True)
class Trial:
    """A set of settings, and how it did in a round; `score` is the best macro F1, -1 where it diverged."""

    number: int
    settings: Train
    epochs: int = 0
    score: float = -1.0
    seconds: float = 0.0


def search(
    config: Config,
    comm: MPI.Comm,
    parts: tuple[Examples, Examples],
    classes: int,
    model: Path,
    mark: str,
    report: Report,
) -> Train:
    """Return the best settings of `train.search` sets; collective over `comm`.

    Every round is recorded in ``search.csv``. Trials keep checkpoints: killed and started again, the search goes on.

    Parameters
    ----------
    parts : (Examples, Examples)
        To learn from, and to validate with.
    classes : int
    model : Path
        Folder of the model that is searched.
    mark : str
        Its fingerprint.
    """
    trials = [Trial(number, one) for number, one in enumerate(drawn(config.train, config.run.seed))]
    path, record = model / "search.csv", []
    for epochs in rounds(len(trials), config.train.epochs):
        trials = _round(config, comm, trials, epochs, parts, classes, model, mark, report)
        record += trials
        on_root(comm, "writing the search", store.write_text, path, table(record))
        best = ranked(trials)
        log.info("search: %d trials for %d epochs, best %s", len(trials), epochs, best[0])
        trials = best[: max(1, len(best) // HALVING)]
    return trials[0].settings


def drawn(train: Train, seed: int) -> list[Train]:
    """Return `train.search` settings: the configured ones, then random ones.

    Rate, width, depth and dropout are drawn where the configuration leaves them open; the batch always is.
    """
    first, usual = networks.with_rate(train), networks.shape_of(train)
    found = [first]
    for number in range(1, train.search):
        random = np.random.default_rng((seed, number))
        rate, width, depth = random.uniform(-1, 1), random.choice(WIDTHS), random.choice(DEPTHS)
        drop, batch = random.uniform(0, MOST_DROPOUT), random.choice(BATCHES)
        own: dict[str, Any] = {"batch": max(2, int(train.batch * batch))}
        if train.learning_rate is None:
            own["learning_rate"] = first.learning_rate * RATES**rate
        if train.hidden is None:
            own["hidden"] = int(usual["hidden"] * width)
        if train.layers is None:
            own["layers"] = max(1, usual["layers"] + int(depth))
        if train.dropout is None:
            own["dropout"] = float(drop)
        found.append(replace(first, **own))
    return found


def rounds(trials: int, epochs: int) -> list[int]:
    """Return the epochs after which trials are compared: the last round has a third of `epochs`.

    Training in full comes after the search.
    """
    count = 1 + int(math.log(max(trials, 1)) / math.log(HALVING) + 1e-9)
    found = [max(1, epochs // HALVING ** (count - place)) for place in range(count)]
    return list(dict.fromkeys(found))


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials, the best first; the earlier of equals."""
    return sorted(trials, key=lambda trial: (-trial.score, trial.number))


def table(trials: Sequence[Trial]) -> str:
    """Return the trials of all rounds as CSV."""
    file = io.StringIO()
    names = ("learning_rate", "batch", "hidden", "layers", "dropout")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", "epochs", "macro_f1", "seconds", *names])
    for trial in trials:
        shape = networks.shape_of(trial.settings)
        own = {name: shape.get(name, getattr(trial.settings, name)) for name in names}
        figures = [f"{trial.score:.6g}", f"{trial.seconds:.4g}"]
        writer.writerow(
            [trial.number, trial.epochs, *figures, *(f"{own[name]:.6g}" for name in names)]
        )
    return file.getvalue()


def _round(
    config: Config,
    comm: MPI.Comm,
    trials: Sequence[Trial],
    epochs: int,
    parts: tuple[Examples, Examples],
    classes: int,
    model: Path,
    mark: str,
    report: Report,
) -> list[Trial]:
    """Train every trial up to an epoch, as many at once as there are ranks; return how they did."""
    groups = min(len(trials), comm.size)
    number = comm.rank * groups // comm.size
    group = comm.Split(number, comm.rank)
    # A group has few ranks, and Horovod knows one communicator only.
    backend = "torch" if group.size > 1 else "none"
    distribution = distributed.start(backend, group, config.train.compression)
    own = tuple(part.to(distribution.device, torch.float32) for part in parts)
    done: list[Trial] = []
    failure: Exception | None = None
    for trial in trials[number::groups]:
        folder = model / "trials" / f"trial-{trial.number:03d}"
        bands, times = own[0].values.shape[3], own[0].values.shape[2]
        description = networks.describe(trial.settings, bands, times, classes)
        tried = _try(
            config, group, distribution, trial, epochs, own, description, folder, mark, report
        )
        if isinstance(tried, Exception):
            failure = tried
            break
        done.append(tried)
    distribution.close()
    group.Free()
    return _agree(comm, done, failure)


def _try(
    config: Config,
    group: MPI.Comm,
    distribution: distributed.Distribution,
    trial: Trial,
    epochs: int,
    parts: tuple[Examples, Examples],
    description: dict[str, Any],
    folder: Path,
    mark: str,
    report: Report,
) -> Trial | Exception:
    """Train a trial up to an epoch; return how it did, or what all ranks of the group raised alike.

    What one rank alone raises ends the job, as everywhere.
    """
    own = store.fingerprint("trial", mark, trial.number)
    begun = time.perf_counter()
    try:
        _, state = checkpoint.fit(
            description, parts, trial.settings, config.run, group, distribution, folder, own, report,
            until=epochs,
        )  # fmt: skip
    except RankError as error:
        if error.kinds != {"TrainError"}:
            return error
        log.warning("trial %d of the search: %s", trial.number, error)
        return replace(trial, epochs=epochs, score=-1.0)
    except OutOfTime as stop:
        return stop
    scores = [row["macro_f1"] for row in state.history[:epochs]]
    score = max((value for value in scores if np.isfinite(value)), default=-1.0)
    seconds = time.perf_counter() - begun
    return replace(trial, epochs=state.epoch, score=score, seconds=trial.seconds + seconds)


def _agree(comm: MPI.Comm, done: list[Trial], failure: Exception | None) -> list[Trial]:
    """Return the trials of all groups, by number, on every rank; raise what any group was ended by."""
    with together(comm, "searching"):
        if isinstance(failure, RankError):
            raise failure
    if any(comm.allgather(isinstance(failure, OutOfTime))):
        raise OutOfTime(f"stopped in time while searching; {GO_ON}")
    gathered = comm.allgather(done)
    found = {trial.number: trial for part in gathered for trial in part}
    return [found[number] for number in sorted(found)]
