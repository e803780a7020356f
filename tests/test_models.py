"""Networks: the interface, masks, and training that does not depend on ranks or backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from mpi4py import MPI

from lcu.config import Train
from lcu.ranks import RankError
from lcu.train import distributed, loop, networks
from lcu.train.distributed import Distribution
from lcu.train.lamb import Lamb
from lcu.train.layers import Network, encoding
from lcu.train.loop import Examples, State
from lcu.train.penalty import difference, penalty, steadiness
from lcu.train.series import Cut

COMM = MPI.COMM_WORLD
YEARS, TIMES, BANDS, CLASSES = 2, 6, 4, 3

# Small ones: what is tested is the arithmetic.
SETTINGS = {
    "lstm": {"hidden": 16, "layers": 2},
    "lstm carried": {"hidden": 16, "layers": 1, "carry_state": True},
    "transformer": {"hidden": 16, "layers": 1, "heads": 2},
    "tempcnn": {"hidden": 8, "layers": 2},
    "ltae": {"hidden": 32, "layers": 1, "heads": 4},
    "convlstm": {"hidden": 8, "layers": 2},
}
BASE = Train(dropout=0.0, batch=24, epochs=20, warmup=1.0, learning_rate=1e-3)


def settings(name: str, **changes: object) -> Train:
    """Return the training table of a small network."""
    return replace(BASE, model=name.split()[0], **SETTINGS[name], **changes)


def network(train: Train, seed: int = 1) -> Network:
    """Return a network with weights of a seed."""
    torch.manual_seed(seed)
    return networks.build(networks.describe(train, BANDS, TIMES, CLASSES))


def examples(
    count: int = 75, seed: int = 0, gaps: float = 0.2, years: int = YEARS, *, name: str = ""
) -> Examples:
    """Return series whose class shows in one band's rise, some of it not observed; patches for a model of these."""
    random = np.random.default_rng(seed)
    label = random.integers(0, CLASSES, (count, years))
    day = np.sort(random.integers(0, 366, (count, years, TIMES)), axis=2)
    values = random.normal(0, 0.5, (count, years, TIMES, BANDS))
    values[..., 1] += label[..., None] * day / 180
    observed = random.random((count, years, TIMES)) >= gaps
    observed[..., 0] |= ~observed.any(axis=2)
    label[random.random((count, years)) < 0.1] = -1
    label[:, 0] = np.abs(label[:, 0])
    weight = np.where(label >= 0, random.uniform(0.5, 2, (count, 1)), 0)
    values *= observed[..., None]
    if name == "convlstm":
        values = values[..., None, None] + random.normal(0, 0.2, (*values.shape, 5, 5))
    read = torch.from_numpy(values).float(), torch.from_numpy(observed)
    heavy = torch.from_numpy(weight.astype(np.float32))
    return Examples(
        *read,
        torch.from_numpy(day.astype(np.float32)),
        torch.from_numpy(label),
        heavy,
        steadiness(*read, heavy),
    )


# --- the interface --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_every_network_answers_for_every_year(name: str) -> None:
    data = examples(name=name)
    scores = network(settings(name)).eval()(data.values, data.observed, data.day)
    assert scores.shape == (75, YEARS, CLASSES) and torch.isfinite(scores).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_year_depends_on_other_years_only_where_the_state_is_carried(name: str) -> None:
    data, net = examples(name=name), network(settings(name)).eval()
    both = net(data.values, data.observed, data.day)
    alone = net(data.values[:, 1:], data.observed[:, 1:], data.day[:, 1:])
    same = torch.allclose(both[:, 1:], alone, atol=1e-6)
    assert same == (name != "lstm carried")


@pytest.mark.parametrize("name", ["transformer", "ltae"])
def test_what_was_not_observed_does_not_matter(name: str) -> None:
    data, net = examples(), network(settings(name)).eval()
    noise = torch.where(data.observed[..., None], data.values, torch.tensor(9.0))
    torch.testing.assert_close(
        net(noise, data.observed, data.day), net(data.values, data.observed, data.day)
    )


@pytest.mark.parametrize("name", ["transformer", "ltae"])
@pytest.mark.parametrize("position", ["day", "index", "none"])
def test_only_the_encoding_tells_times_apart(name: str, position: str) -> None:
    data = examples(gaps=0)
    net = network(settings(name, position=position)).eval()
    scores = net(data.values, data.observed, data.day)
    turned = net(data.values.flip(2), data.observed, data.day.flip(2))
    moved = net(data.values, data.observed, data.day + 40)
    assert torch.allclose(scores, turned, atol=1e-5) == (position != "index")
    assert torch.allclose(scores, moved, atol=1e-5) == (position != "day")


def test_the_convolutional_lstm_follows_its_equations() -> None:
    data = examples(3, years=1, name="convlstm")
    net = network(replace(settings("convlstm"), layers=1)).eval()
    own = {name: value.detach().numpy() for name, value in net.named_parameters()}
    found = net(data.values, data.observed, data.day)[:, 0].detach().numpy()
    for series in range(3):
        observed, day = data.observed[series, 0].numpy(), data.day[series, 0].numpy()
        state, memory, outputs = np.zeros((8, 5, 5)), np.zeros((8, 5, 5)), []
        for time, phase in enumerate(day * 2 * np.pi / 365.25):
            context = np.array([observed[time], np.sin(phase), np.cos(phase)])
            around = np.broadcast_to(context[:, None, None], (3, 5, 5))
            read = np.concatenate([data.values[series, 0, time].numpy(), around])
            gates = correlated(read, own["cells.0.read.weight"])
            gates += correlated(state, own["cells.0.keep.weight"])
            gates += own["cells.0.read.bias"][:, None, None]
            new, write, forget, show = gates.reshape(4, 8, 5, 5)
            memory = sigmoid(forget + 1) * memory + sigmoid(write) * np.tanh(new)
            state = sigmoid(show) * np.tanh(memory)
            outputs.append(state[:, 2, 2])
        most = np.array(outputs)[observed].max(axis=0)
        normed = (most - most.mean()) / np.sqrt(most.var() + 1e-5)
        normed = normed * own["norm.weight"] + own["norm.bias"]
        scores = own["head.weight"] @ normed + own["head.bias"]
        np.testing.assert_allclose(found[series], scores, rtol=1e-4, atol=1e-5)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-values))."""
    return 1 / (1 + np.exp(-values))


def correlated(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the sums of [channel, y, x] with kernels [out, channel, 3, 3]; 0 beyond the edges."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    squares = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("cyxij,ocij->oyx", squares, weight)


def test_the_encoding_is_the_published_formula() -> None:
    day = torch.tensor([[0.0, 33.0, 351.0]], dtype=torch.float64)
    code = encoding(day, 6, "day")[0].numpy()
    for place, when in enumerate(day[0].tolist()):
        for index in range(6):
            phase = when / 1000 ** (2 * (index // 2) / 6)
            assert code[place, index] == pytest.approx(
                np.cos(phase) if index % 2 else np.sin(phase)
            )
    assert (encoding(day, 6, "none") == 0).all()
    assert (encoding(day, 6, "index")[0, 2] == encoding(day * 0 + 2, 6, "day")[0, 0]).all()


def test_windows_hold_the_days_of_their_year_and_a_year_without_observations_is_no_gap() -> None:
    days = np.array([1100, 1460, 1500], np.int32)
    cut = Cut((2018, 2019), np.array([[0, 1], [1, 2]]), np.array([1096, 1461]), days)
    series = np.arange(12, dtype=np.uint16).reshape(2, 3, 2)
    count = np.array([[1, 0, 0], [0, 1, 1]], np.uint8)
    windows = cut.windows(series, count, np.tile(days, (2, 1)))
    assert windows.day[0].tolist() == [[4, 364], [-1, 39]]
    assert windows.observed.tolist() == [
        [[True, False], [True, True]],
        [[False, True], [True, True]],
    ]
    assert (windows.values[:, 1, 0] == series[:, 1]).all()


# --- training -------------------------------------------------------------------------------------


def test_the_rate_rises_then_falls_and_grows_with_the_batch() -> None:
    train = settings("lstm")
    rates = [loop.rate(train, epoch) for epoch in np.linspace(0, 20, 81)]
    top = int(np.argmax(rates))
    assert top == 4 and rates[-1] < 1e-9 and rates[0] < 0.2 * rates[top]
    assert (np.diff(rates[:4]) > 0).all() and (np.diff(rates[4:]) < 0).all()
    larger = replace(train, batch=4 * train.batch)
    assert loop.rate(larger, 5) == pytest.approx(2 * loop.rate(train, 5))


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    matrix = np.array([[8, 2, 0], [2, 4, 0], [0, 1, 0]])
    assert loop.macro_f1(matrix) == pytest.approx((16 / 20 + 8 / 13) / 2)
    assert np.isnan(loop.macro_f1(np.zeros((3, 3), int)))


def fit(train: Train, data: Examples, checked: Examples, **more: object) -> tuple[Network, State]:
    """Train on one rank from scratch."""
    net, alone = network(train), Distribution()
    optimiser = loop.optimiser_of(net, train, alone)
    state = loop.fit(
        net, data, checked, train, 1, alone, MPI.COMM_SELF,
        until=train.epochs, state=State(), optimiser=optimiser, **{"after_epoch": lambda state: None} | more,
    )  # fmt: skip
    return net, state


@pytest.mark.parametrize("name", SETTINGS)
def test_every_network_learns_and_the_best_epoch_is_kept(name: str) -> None:
    train = settings(name, patience=20)
    checked = examples(200, seed=1, name=name)
    net, state = fit(replace(train, learning_rate=5e-3), examples(400, name=name), checked)
    assert state.best > 0.8
    assert state.best == max(row["macro_f1"] for row in state.history)
    matrix = loop.error_matrix(checked.label, loop.predicted(net, checked, MPI.COMM_SELF), CLASSES)
    assert loop.macro_f1(matrix) == pytest.approx(state.best)


def test_training_ends_when_the_validation_samples_are_got_right_no_better() -> None:
    train = settings("ltae", patience=2, learning_rate=1e-8)
    _, state = fit(train, examples(), examples(40, seed=1))
    assert state.epoch == state.best_epoch + 2 < train.epochs


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    data = examples()
    data.values[3] = torch.nan
    with pytest.raises(
        RankError, match=r"the loss is no number in epoch 1; lower train.learning_rate"
    ):
        fit(settings("lstm"), data, examples(20, seed=1))


def test_pieces_of_a_batch_add_up_to_the_batch() -> None:
    data = examples()
    losses = [
        steps(settings(name, accumulate=pieces), data, Distribution(), torch.float64)
        for name in ("transformer",)
        for pieces in (1, 3)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)


# --- the penalty on change -------------------------------------------------------------------------


def test_the_penalty_agrees_with_its_formula() -> None:
    data, random = examples(20, years=3), np.random.default_rng(4)
    scores = random.normal(size=(20, 3, CLASSES))
    share = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    values, observed, weight = (
        getattr(data, name).numpy() for name in ("values", "observed", "weight")
    )
    apart = np.full((20, 2), np.inf)
    for n, y in np.ndindex(20, 2):
        both = observed[n, y] & observed[n, y + 1]
        if both.any():
            apart[n, y] = ((values[n, y + 1] - values[n, y])[both] ** 2).mean()
    np.testing.assert_allclose(difference(data.values, data.observed), apart, rtol=1e-5)
    usual = np.sort(apart[np.isfinite(apart)])[(np.isfinite(apart).sum() - 1) // 2]
    heavy = np.maximum(weight[:, 1:], weight[:, :-1])
    moved = ((share[:, 1:] - share[:, :-1]) ** 2).sum(-1)
    expected = (heavy * np.exp(-apart / usual) * moved).sum()
    found = penalty(torch.from_numpy(scores), data.steady.double())
    assert found.item() == pytest.approx(expected, rel=1e-5) and expected > 0


def test_one_year_costs_no_change() -> None:
    data = examples(years=1)
    assert data.steady.shape == (75, 0)
    net = network(settings("ltae")).eval()
    free, penalised = (
        loop.summed_loss(net, data, settings("ltae", change_penalty=weight))
        for weight in (0.0, 100.0)
    )
    assert free == penalised


def test_a_series_that_moved_far_may_change_its_class_for_nothing() -> None:
    values = torch.zeros(5, 2, 4, 1)
    values[:4, 1] = 0.1
    values[4, 1] = 3.0
    steady = steadiness(values, torch.ones(5, 2, 4, dtype=torch.bool), torch.ones(5, 2))
    np.testing.assert_allclose(steady[:4, 0], np.exp(-1), rtol=1e-5)
    assert steady[4, 0] < 1e-6


# --- many ranks -----------------------------------------------------------------------------------


def steps(
    train: Train, data: Examples, distribution: Distribution, dtype: torch.dtype
) -> torch.Tensor:
    """Return the losses of the first 50 steps."""
    net = network(train, seed=1 + distribution.rank).to(distribution.device, dtype)
    if distribution.size == 1:
        assert distribution.rank == 0
    optimiser = loop.optimiser_of(net, train, distribution)
    data = data.to(distribution.device, dtype)
    epochs = -(-50 // (len(data) // train.batch))
    return torch.cat([
        loop.train_epoch(net, optimiser, data, epoch, train, 1, distribution) for epoch in range(epochs)
    ])[:50].cpu()  # fmt: skip


@pytest.fixture(scope="module", params=["horovod", "torch"])
def parallel(request: pytest.FixtureRequest) -> Iterator[Distribution]:
    """Return a backend that is started on all ranks."""
    if request.param == "horovod":
        pytest.importorskip("horovod.torch")
    started = distributed.start(request.param, COMM)
    assert started.name == request.param
    yield started
    started.close()


@pytest.mark.mpi
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_ranks_share_a_batch_as_one_rank_reads_it(
    parallel: Distribution, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    train, data = settings(name), examples(name=name)
    alone = steps(train, data, Distribution(device=parallel.device), dtype)
    shared = steps(train, data, parallel, dtype)
    torch.testing.assert_close(shared, alone, rtol=tolerance, atol=0)


@pytest.mark.mpi
def test_the_penalty_on_change_is_shared_by_ranks_like_the_loss(parallel: Distribution) -> None:
    train, data = settings("tempcnn", change_penalty=2.0), examples(years=3)
    alone = steps(train, data, Distribution(device=parallel.device), torch.float64)
    shared = steps(train, data, parallel, torch.float64)
    torch.testing.assert_close(shared, alone, rtol=1e-10, atol=0)
    free = steps(replace(train, change_penalty=0.0), data, parallel, torch.float64)
    assert (shared[0] > free[0] + 1e-4).item()


@pytest.mark.mpi
def test_pieces_and_ranks_add_up_to_the_batch(parallel: Distribution) -> None:
    train, data = settings("lstm"), examples()
    alone = steps(train, data, Distribution(device=parallel.device), torch.float64)
    shared = steps(replace(train, accumulate=2), data, parallel, torch.float64)
    torch.testing.assert_close(shared, alone, rtol=1e-10, atol=0)


@pytest.mark.mpi
def test_ranks_predict_what_one_rank_predicts(parallel: Distribution) -> None:
    net, data = network(settings("lstm")).to(parallel.device), examples()
    data = data.to(parallel.device, torch.float32)
    alone = loop.predicted(net, data, MPI.COMM_SELF)
    np.testing.assert_array_equal(loop.predicted(net, data, COMM), alone)


@pytest.mark.mpi(min_size=2)
def test_fewer_samples_than_ranks_end_the_training_on_all_ranks(parallel: Distribution) -> None:
    train, data = settings("lstm"), examples(COMM.size - 1)
    net = network(train).to(parallel.device)
    optimiser = loop.optimiser_of(net, train, parallel)
    with pytest.raises(RankError, match=f"do not go round {COMM.size} ranks"):
        loop.fit(
            net, data, data, train, 1, parallel, COMM,
            until=train.epochs, state=State(), optimiser=optimiser, after_epoch=lambda state: None,
        )  # fmt: skip


@pytest.mark.mpi
def test_auto_takes_horovod_on_several_ranks_and_nothing_on_one() -> None:
    pytest.importorskip("horovod.torch")
    assert distributed.choose("auto", COMM) == ("none" if COMM.size == 1 else "horovod")
    assert distributed.choose("torch", COMM) == "torch"


@pytest.mark.mpi(min_size=2)
def test_none_is_refused_on_several_ranks() -> None:
    with pytest.raises(RankError, match="train.distributed is none"):
        distributed.start("none", COMM)


# --- optimisers -----------------------------------------------------------------------------------


def test_lamb_takes_the_steps_of_the_published_algorithm() -> None:
    random = np.random.default_rng(1)
    weights = random.normal(size=(7, 3))
    zeros, rate, decay = np.zeros(4), 0.02, 0.1
    tensors = [torch.tensor(weights, requires_grad=True), torch.tensor(zeros, requires_grad=True)]
    optimiser = Lamb(tensors, lr=rate, weight_decay=decay)
    expected, means, squares = [weights.copy(), zeros.copy()], [0.0, 0.0], [0.0, 0.0]
    for step in range(1, 6):
        for place, tensor in enumerate(tensors):
            gradient = random.normal(size=tuple(tensor.shape))
            tensor.grad = torch.tensor(gradient)
            means[place] = 0.9 * means[place] + 0.1 * gradient
            squares[place] = 0.999 * squares[place] + 0.001 * gradient**2
            root = np.sqrt(squares[place] / (1 - 0.999**step)) + 1e-6
            way = means[place] / (1 - 0.9**step) / root + decay * expected[place]
            length = np.linalg.norm(expected[place])
            trust = length / np.linalg.norm(way) if length > 0 else 1.0
            expected[place] = expected[place] - rate * trust * way
        optimiser.step()
    for tensor, wanted in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), wanted, rtol=1e-9)
