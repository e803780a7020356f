"""Training a network so that a kill costs an epoch at most: checkpoints, and an end in time."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mpi4py import MPI
from torch.optim import Optimizer

from lcu import store
from lcu.config import Run, Train
from lcu.deadline import GO_ON, OutOfTime, made, may_begin
from lcu.ranks import on_root
from lcu.train import loop, networks
from lcu.train.distributed import Distribution
from lcu.train.layers import Network
from lcu.train.loop import Examples, State
from lcu.train.model import write_tensors

log = logging.getLogger(__name__)

Report = Callable[[int, int, str], None]


def fit(
    description: dict[str, Any],
    parts: tuple[Examples, Examples],
    settings: Train,
    run: Run,
    comm: MPI.Comm,
    distribution: Distribution,
    folder: Path,
    mark: str,
    report: Report,
    *,
    until: int,
    start: dict[str, torch.Tensor] | None = None,
) -> tuple[Network, State]:
    """Train a network from where its checkpoint in `folder` ends; collective over `comm`.

    Parameters
    ----------
    description : dict
        What `lcu.train.networks.build` takes.
    parts : (Examples, Examples)
        To learn from, and to validate with, on the device.
    mark : str
        Fingerprint of the network in the making; a checkpoint of another is not used.
    until : int
        Last epoch.
    start : dict or None
        Weights to begin with; random ones where there are none. What comes of them is kept only where it does
        better on the validation samples than they do.

    Returns
    -------
    Network
        With the weights of the best epoch.
    State

    Raises
    ------
    OutOfTime
        On every rank, after a checkpoint, where another epoch would not end in time.
    """
    torch.manual_seed(run.seed)
    network = networks.build(description).to(distribution.device)
    if start is not None:
        network.load_state_dict(start)
    optimiser = loop.optimiser_of(network, settings, distribution)
    keeper = Keeper(settings, until, comm, folder, mark, network, optimiser, report)
    state = keeper.resume()
    if start is not None and not state.epoch:
        state.best = loop.score(network, parts[1], comm)
    state = loop.fit(
        network, *parts, settings, run.seed, distribution, comm,
        until=until, state=state, optimiser=optimiser, after_epoch=keeper.after_epoch,
    )  # fmt: skip
    return network, state


class Keeper:
    """Writes a checkpoint after every epoch, reads it at the start, and stops in time; see `fit`."""

    def __init__(
        self, settings: Train, until: int, comm: MPI.Comm, folder: Path, mark: str,
        network: Network, optimiser: Optimizer, report: Report,
    ) -> None:  # fmt: skip
        self._settings, self._until = settings, until
        self._comm, self._folder, self._mark, self._report = comm, folder, mark, report
        self._network, self._optimiser = network, optimiser

    def resume(self) -> State:
        """Take network and optimiser from the checkpoint, where there is one of this network."""
        path = self._folder / "checkpoint.pt"
        content = on_root(self._comm, f"reading {path}", _read, path, self._mark)
        if content is None:
            return State()
        self._network.load_state_dict(content["network"])
        # Horovod's broadcast_optimizer_state would take a step with a fresh Adam: each rank loads it.
        self._optimiser.load_state_dict(content["optimiser"])
        log.info("%s goes on after epoch %d", self._folder.name, content["state"]["epoch"])
        return State(**content["state"])

    def after_epoch(self, state: State) -> None:
        """Save; say how it goes; end the training where time runs out."""
        on_root(self._comm, "writing a checkpoint", self._write, state)
        row = state.history[-1]
        self._report(
            state.epoch, self._until,
            f"epochs, loss {row['loss']:.4f}, macro F1 {row['macro_f1']:.4f} (best {state.best:.4f}), "
            f"{row['samples_per_second']:.0f} samples/s",
        )  # fmt: skip
        log.info(
            "%s epoch %d: loss %.5f, macro F1 %.4f, %.0f samples/s",
            self._folder.name, state.epoch, row["loss"], row["macro_f1"], row["samples_per_second"],
        )  # fmt: skip
        made()
        longest = max(row["seconds"] for row in state.history)
        another = may_begin(self._comm, longest)
        if loop.goes_on(state, self._settings, self._until) and not another:
            raise OutOfTime(
                f"stopped in time after epoch {state.epoch} of {self._settings.epochs}; {GO_ON}"
            )

    def _write(self, state: State) -> None:
        content = {
            "mark": self._mark,
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "state": vars(state),
        }
        write_tensors(self._folder / "checkpoint.pt", content)
        store.write_text(self._folder / "training.csv", "\n".join(loop.rows(state.history)) + "\n")


def forget(folder: Path) -> None:
    """Remove the checkpoints of a finished training and of the trials before it."""
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    if (folder / "trials").exists():
        shutil.rmtree(folder / "trials")


def _read(path: Path, mark: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:  # torch does not look at the check sums
            damaged = file.testzip()
        if damaged:
            raise ValueError(f"check sum of {damaged}")
        content = torch.load(path, weights_only=True, map_location="cpu")
        return content if content["mark"] == mark else None
    except Exception as error:  # noqa: BLE001  (of a damaged file torch raises a dozen kinds)
        said = str(error).splitlines()[:1]
        raise store.StoreError(
            f"{path} is damaged ({type(error).__name__}: {' '.join(said)}); remove it and run `train` again: "
            "the training begins anew"
        ) from None
