"""Networks: from the table of samples to a trained network, with checkpoints that survive a kill."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch.optim import Optimizer

from lcu import store
from lcu.config import Config
from lcu.deadline import OutOfTime, seconds_left
from lcu.ranks import on_root, together
from lcu.sample import Samples
from lcu.sample.draw import TEST, TRAINING, VALIDATION
from lcu.train import distributed, loop, networks
from lcu.train.layers import Network
from lcu.train.loop import Examples, State, TrainError
from lcu.train.model import write_tensors
from lcu.train.series import Cut, Windows, normalisation, standardised
from lcu.train.yearly import WEIGHT_POWER

log = logging.getLogger(__name__)


def train(
    config: Config, comm: MPI.Comm, samples: Samples, classes: Sequence[int], mark: str, report: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what the network is (architecture, years, scores) and its tensors, on every rank."""
    with together(comm, "preparing the training data"):
        parts, years, numbers = prepare(config, samples, classes)
        description = networks.describe(
            config.train, len(config.composite.bands), parts[0].values.shape[2], len(classes)
        )
    settings = networks.with_rate(config.train)
    distribution = distributed.start(config.train.distributed, comm, config.train.compression)
    torch.manual_seed(config.run.seed)
    network = networks.build(description).to(distribution.device)
    learned, checked, held = (part.to(distribution.device, torch.float32) for part in parts)
    optimiser = loop.optimiser_of(network, settings, distribution)
    keeper = Keeper(config, comm, mark, network, optimiser, report)
    state = keeper.resume()
    loop.fit(
        network, learned, checked, settings, config.run.seed, distribution, comm,
        state=state, optimiser=optimiser, after_epoch=keeper.after_epoch,
    )  # fmt: skip
    scores, matrix = _scores(network, held, years, comm)
    distribution.close()
    about = {
        "architecture": description,
        "series": config.train.series,
        "parameters": networks.parameters(network),
        "normalisation": {name: value.tolist() for name, value in numbers.items()},
        "years": years,
        "scores": scores,
        "epochs": {"done": state.epoch, "best": state.best_epoch, "macro_f1": _plain(state.best)},
        "test_matrix": matrix.tolist(),
        "samples_of_training": len(learned),
    }
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    return about, weights | numbers


# --- what is learned from -------------------------------------------------------------------------


def prepare(
    config: Config, samples: Samples, classes: Sequence[int]
) -> tuple[tuple[Examples, Examples, Examples], list[int], dict[str, torch.Tensor]]:
    """Return training, validation and test examples, the labelled years, and mean and scale [band].

    An example is a sample in one year, or with `train.carry_state` a sample in all years.
    """
    cut = Cut.of(config, config.archive.years)
    series, count = samples.series, samples.count
    if config.train.series == "filled":
        series, count = samples.filled(), None
    windows = cut.windows(series, count, samples.day)
    label = _indices(samples.label, classes)
    label[~samples.series.any(axis=(1, 2))] = -1
    weight = samples.weight ** np.float32(WEIGHT_POWER[config.train.class_weight])
    weight = np.where(label >= 0, weight[:, None], np.float32(0)).astype(np.float32)
    split = samples.split
    if not config.train.carry_state:
        windows, label, weight = _one_by_one(windows), label.reshape(-1, 1), weight.reshape(-1, 1)
        split = np.repeat(split, len(cut.years))
    labelled = (label >= 0).any(axis=1)
    chosen = [np.flatnonzero(labelled & (split == part)) for part in (TRAINING, VALIDATION, TEST)]
    if len(np.unique(label[chosen[0]][label[chosen[0]] >= 0])) < 2:
        raise TrainError(
            "fewer than two classes have samples to train on; look at what the sample stage kept "
            "(sample.erosion, sample.per_class, sample.legend)"
        )
    mean, scale = normalisation(_part(windows, chosen[0]))
    examples = tuple(
        Examples(
            *standardised(_part(windows, rows), mean, scale),
            torch.from_numpy(label[rows]),
            torch.from_numpy(weight[rows]),
        )
        for rows in chosen
    )
    known = _indices(samples.label, classes) >= 0
    years = [year for position, year in enumerate(cut.years) if known[:, position].any()]
    return examples, years, {"mean": mean, "scale": scale}


def _indices(label: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return the place of each class value in `classes`, int64, -1 for others."""
    places = np.full(256, -1, np.int64)
    places[list(classes)] = np.arange(len(classes))
    return places[label]


def _one_by_one(windows: Windows) -> Windows:
    """Make a sample of every year of every sample."""
    parts = (windows.values, windows.observed, windows.day)
    return Windows(*(part.reshape(-1, 1, *part.shape[2:]) for part in parts))


def _part(windows: Windows, rows: np.ndarray) -> Windows:
    return Windows(windows.values[rows], windows.observed[rows], windows.day[rows])


# --- how well -------------------------------------------------------------------------------------


def _scores(
    network: Network, held: Examples, years: Sequence[int], comm: MPI.Comm
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the agreement with the old map on the test samples, and counts [map, reference]."""
    found = loop.predicted(network, held, comm)
    label, weight = held.label.cpu().numpy(), held.weight.cpu().numpy()
    matrix = loop.error_matrix(held.label, found, network.head.out_features)
    right = (found == label) * weight
    share = float(right.sum() / weight.sum()) if weight.sum() else None
    span = f"{years[0]} to {years[-1]}" if len(years) > 1 else str(years[0])
    score = {
        "test_samples": int((label >= 0).sum()),
        "test_agreement": share,
        "test_macro_f1": _plain(loop.macro_f1(matrix)),
    }
    return {span: score}, matrix


def _plain(value: float) -> float | None:
    """Return a number that JSON knows."""
    return value if np.isfinite(value) else None


# --- checkpoints ----------------------------------------------------------------------------------


class Keeper:
    """Writes a checkpoint after every epoch, reads it at the start, and stops in time.

    Parameters
    ----------
    mark : str
        Fingerprint of the model in the making; a checkpoint of another is not used.
    """

    def __init__(
        self, config: Config, comm: MPI.Comm, mark: str, network: Network, optimiser: Optimizer,
        report: Any,
    ) -> None:  # fmt: skip
        self._config, self._comm, self._mark, self._report = config, comm, mark, report
        self._network, self._optimiser = network, optimiser

    def resume(self) -> State:
        """Take network and optimiser from the checkpoint, where there is one of this model."""
        path = checkpoint(self._config.directory)
        content = on_root(self._comm, f"reading {path}", _read, path, self._mark)
        if content is None:
            return State()
        self._network.load_state_dict(content["network"])
        # Horovod's broadcast_optimizer_state would take a step with a fresh Adam: each rank loads it.
        self._optimiser.load_state_dict(content["optimiser"])
        log.info("goes on after epoch %d", content["state"]["epoch"])
        return State(**content["state"])

    def after_epoch(self, state: State) -> None:
        """Save; say how it goes; end the training where time runs out."""
        on_root(self._comm, "writing a checkpoint", self._write, state)
        row = state.history[-1]
        self._report(
            state.epoch, self._config.train.epochs,
            f"epochs, loss {row['loss']:.4f}, macro F1 {row['macro_f1']:.4f} (best {state.best:.4f}), "
            f"{row['samples_per_second']:.0f} samples/s",
        )  # fmt: skip
        log.info(
            "epoch %d: loss %.5f, macro F1 %.4f, %.0f samples/s",
            state.epoch, row["loss"], row["macro_f1"], row["samples_per_second"],
        )  # fmt: skip
        longest = max(row["seconds"] for row in state.history)
        left = self._comm.bcast(seconds_left(self._config.run), root=0)
        going_on = (
            state.epoch < self._config.train.epochs
            and state.epoch - state.best_epoch < self._config.train.patience
        )
        if going_on and left < 1.5 * longest:
            raise OutOfTime(
                f"stopped in time after epoch {state.epoch} of {self._config.train.epochs}; start the same "
                "command again to go on"
            )

    def _write(self, state: State) -> None:
        folder = self._config.directory / "model"
        content = {
            "mark": self._mark,
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "state": vars(state),
        }
        write_tensors(checkpoint(self._config.directory), content)
        store.write_text(folder / "training.csv", "\n".join(loop.rows(state.history)) + "\n")


def checkpoint(directory: Path) -> Path:
    """Return where the checkpoint of a run lies."""
    return directory / "model" / "checkpoint.pt"


def _read(path: Path, mark: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content = torch.load(path, weights_only=True, map_location="cpu")
    return content if content["mark"] == mark else None
