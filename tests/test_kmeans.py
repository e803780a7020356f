"""K-means: scikit-learn's answer, the same bits however the samples are spread, and the edges."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from lcu import _kmeans
from lcu.ranks import RankError
from lcu.sample import kmeans, kmeans_memory
from lcu.sample.kmeans import LIMB, MOST_SAMPLES
from tests import reference
from tests.conftest import ROOT

COMM = MPI.COMM_WORLD
ALONE = {"seed": 1, "comm": MPI.COMM_SELF}
FIXED = {"max_iterations": 5, "tolerance": 0} | ALONE


def clouds(
    samples: int, features: int, groups: int, seed: int = 0, dtype: type = np.float32
) -> np.ndarray:
    """Return points [sample, feature] around `groups` centres, far from 0 as reflectances are."""
    random = np.random.default_rng(seed)
    centres = random.normal(2000, 600, (groups, features))
    points = centres[random.integers(0, groups, samples)] + random.normal(
        0, 400, (samples, features)
    )
    return points.astype(dtype)


def start_of(values: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Return k of the points."""
    return values[np.random.default_rng(seed).choice(len(values), k, replace=False)]


def same_bits(one: tuple, other: tuple) -> None:
    """Check that two results are equal to the bit."""
    for a, b in zip(one, other, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def scikit_learn(values: np.ndarray, start: np.ndarray, iterations: int, weights=None) -> KMeans:
    """Return the model after Lloyd iterations from a start, in double precision."""
    model = KMeans(
        len(start),
        init=start.astype(float),
        n_init=1,
        max_iter=iterations,
        tol=0,
        algorithm="lloyd",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a cluster is empty at the end
        return model.fit(values.astype(float), sample_weight=weights)


# --- the answer -------------------------------------------------------------------------------


@given(
    st.integers(0, 999), st.integers(1, 70), st.integers(1, 19), st.integers(1, 20),
    st.sampled_from([np.float32, np.float64]), st.booleans(),
)  # fmt: skip
def test_kmeans_kernel_matches_numpy_reference(
    seed: int, samples: int, features: int, k: int, dtype: type, weighted: bool
) -> None:
    k = min(k, samples)
    values = clouds(samples, features, 4, seed, dtype)
    weights = np.random.default_rng(seed).random(samples) + 0.1 if weighted else None
    start = start_of(values, k, seed)
    centres, labels, inertia, _ = kmeans(
        values, k, weights=weights, init=start, max_iterations=1, tolerance=0, **ALONE
    )
    expected, _, _ = reference.kmeans(values, start, 1, weights)
    np.testing.assert_allclose(centres, expected, rtol=1e-6)
    _, expected_labels, expected_inertia = reference.kmeans(values, centres, 0, weights)
    np.testing.assert_array_equal(labels, expected_labels)
    assert inertia == pytest.approx(expected_inertia, rel=1e-12, abs=1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("features", "k"), [(40, 8), (61, 13), (120, 32), (3, 5)])
@pytest.mark.parametrize("iterations", [1, 4, 30])
def test_labels_are_those_of_scikit_learn(
    features: int, k: int, iterations: int, dtype: type
) -> None:
    values = clouds(3000, features, k, 3, dtype)
    start = start_of(values, k)
    expected = scikit_learn(values, start, iterations)
    centres, labels, inertia, done = kmeans(
        values, k, init=start, max_iterations=iterations, tolerance=0, **ALONE
    )
    np.testing.assert_array_equal(labels, expected.labels_)
    np.testing.assert_allclose(centres, expected.cluster_centers_, rtol=3e-7)
    assert inertia == pytest.approx(expected.inertia_, rel=1e-6)
    assert done == expected.n_iter_
    assert centres.dtype == dtype and labels.dtype == np.int32


def test_weights_count_as_in_scikit_learn() -> None:
    values = clouds(2000, 12, 6, 5)
    weights = np.random.default_rng(5).integers(0, 4, 2000).astype(float)
    start = start_of(values, 6)
    expected = scikit_learn(values, start, 9, weights)
    centres, labels, inertia, _ = kmeans(
        values, 6, weights=weights, init=start, max_iterations=9, tolerance=0, **ALONE
    )
    np.testing.assert_array_equal(labels, expected.labels_)
    np.testing.assert_allclose(centres, expected.cluster_centers_, rtol=3e-7)
    assert inertia == pytest.approx(expected.inertia_, rel=1e-6)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-2])
def test_tolerance_means_what_it_does_in_scikit_learn(tolerance: float) -> None:
    values = clouds(4000, 10, 9, 11)
    start = start_of(values, 9)
    model = KMeans(9, init=start.astype(float), n_init=1, max_iter=100, tol=tolerance)
    expected = model.fit(values.astype(float))
    *_, done = kmeans(values, 9, init=start, max_iterations=100, tolerance=tolerance, **ALONE)
    assert done == expected.n_iter_


def test_sparing_distances_changes_no_bit() -> None:
    values = clouds(20000, 24, 9, 2)
    centres = start_of(values, 9)
    whole = kmeans(values, 9, init=centres, max_iterations=12, tolerance=0, **ALONE)
    for _ in range(12):
        centres, *rest, _ = kmeans(values, 9, init=centres, max_iterations=1, tolerance=0, **ALONE)
    same_bits(whole[:3], (centres, *rest))


@pytest.mark.parametrize("init", ["k-means||", "k-means++"])
def test_kmeans_kernel_threads_do_not_change_a_bit(init: str) -> None:
    values = clouds(5000, 17, 7)
    weights = np.random.default_rng(0).random(5000)
    for own in (None, weights):
        one = kmeans(values, 7, weights=own, init=init, **FIXED)
        for threads in (2, 3):
            same_bits(one, kmeans(values, 7, weights=own, init=init, threads=threads, **FIXED))


def test_order_of_the_samples_does_not_change_a_bit() -> None:
    values = clouds(3000, 9, 5)
    start, order = start_of(values, 5), np.random.default_rng(1).permutation(3000)
    centres, labels, inertia, done = kmeans(values, 5, init=start, **FIXED)
    same_bits(
        (centres, labels[order], inertia, done), kmeans(values[order], 5, init=start, **FIXED)
    )


@pytest.mark.parametrize("init", ["k-means||", "k-means++"])
def test_seeding_finds_clusters_that_lie_apart(init: str) -> None:
    random = np.random.default_rng(7)
    truth = random.permutation(np.repeat(np.arange(12), 200))
    values = (100 * random.normal(size=(12, 6))[truth] + random.normal(size=(2400, 6))).astype(
        np.float32
    )
    found = [
        kmeans(values, 12, seed=seed, comm=MPI.COMM_SELF, init=init, tolerance=0)[2]
        for seed in range(8)
    ]
    _, _, least = reference.kmeans(
        values, np.array([values[truth == t].mean(axis=0) for t in range(12)]), 0
    )
    assert min(found) <= least * 1.01
    if init == "k-means||":
        assert sorted(found)[5] <= least * 1.01


def test_seed_alone_selects_the_random_numbers() -> None:
    values = clouds(3000, 5, 40)
    for init in ("k-means||", "k-means++"):
        arguments = {"init": init, "comm": MPI.COMM_SELF, "max_iterations": 1}
        one, again = (kmeans(values, 20, seed=3, **arguments) for _ in range(2))
        same_bits(one, again)
        assert kmeans(values, 20, seed=4, **arguments)[2] != one[2]


# --- the edges --------------------------------------------------------------------------------


def test_empty_cluster_moves_to_the_farthest_sample_as_in_scikit_learn() -> None:
    values = clouds(500, 4, 3)
    start = np.vstack([start_of(values, 4), np.full((1, 4), 1e5)]).astype(np.float32)
    for iterations in (1, 3):
        expected = scikit_learn(values, start, iterations)
        centres, labels, *_ = kmeans(
            values, 5, init=start, max_iterations=iterations, tolerance=0, **ALONE
        )
        np.testing.assert_array_equal(labels, expected.labels_)
        np.testing.assert_allclose(centres, expected.cluster_centers_, rtol=3e-7)


def test_empty_clusters_take_equally_far_samples_by_position_and_none_of_weight_0() -> None:
    values = np.array([[0], [3], [-3], [3], [1]], np.float32)
    start = np.array([[0], [900], [800]], np.float32)
    weights = np.array([1, 0, 1, 1, 1.0])
    arguments = {"init": start, "max_iterations": 1, "tolerance": 0} | ALONE
    assert kmeans(values, 3, **arguments)[0].ravel().tolist() == [pytest.approx(4 / 3), 3, -3]
    centres = kmeans(values, 3, weights=weights, **arguments)[0]
    assert centres.ravel().tolist() == [0.5, -3, 3]


def test_more_clusters_than_distinct_samples_leaves_some_empty() -> None:
    values = np.repeat(np.array([[1, 2], [3, 4]], np.float32), 20, axis=0)
    for init in ("k-means||", "k-means++", np.full((5, 2), 9, np.float32)):
        centres, labels, inertia, _ = kmeans(values, 5, init=init, **ALONE)
        assert centres.shape == (5, 2) and inertia == 0
        np.testing.assert_array_equal(centres[labels], values)


def test_constant_features_and_one_cluster() -> None:
    values = clouds(300, 3, 2)
    values[:, 1] = 7
    for k in (1, 4):
        centres, labels, _, _ = kmeans(values, k, **FIXED)
        assert (centres[:, 1] == 7).all() and len(np.unique(labels)) == k
    np.testing.assert_allclose(kmeans(values, 1, **FIXED)[0][0], values.mean(axis=0), rtol=1e-6)
    zeros = np.zeros((9, 2), np.float32)
    assert kmeans(zeros, 2, **ALONE)[2] == 0


def test_as_many_clusters_as_samples_give_each_its_own() -> None:
    values = clouds(30, 4, 30)
    for init in ("k-means||", "k-means++"):
        _, labels, inertia, _ = kmeans(values, 30, init=init, **ALONE)
        assert sorted(labels) == list(range(30)) and inertia == 0


def test_all_kinds_of_numbers_are_taken() -> None:
    values = np.random.default_rng(0).integers(0, 9000, (200, 5))
    expected = kmeans(values.astype(np.float32), 3, **FIXED)
    for kind in (np.uint16, np.int16):
        same_bits(kmeans(values.astype(kind), 3, **FIXED), expected)
    same_bits(kmeans(np.asfortranarray(values.astype(np.float32)), 3, **FIXED), expected)
    assert kmeans(values, 3, **FIXED)[0].dtype == np.float64


def test_extreme_scales_keep_their_digits() -> None:
    values = clouds(900, 6, 4, dtype=np.float64)
    expected = kmeans(values, 4, init=values[:4], **FIXED)
    for power in (-300, 300):
        centres, labels, inertia, _ = kmeans(
            values * 2.0**power, 4, init=values[:4] * 2.0**power, **FIXED
        )
        np.testing.assert_array_equal(labels, expected[1])
        np.testing.assert_array_equal(centres, expected[0] * 2.0**power)
        assert inertia == expected[2] * 4.0**power


def test_values_of_one_feature_may_lie_far_apart() -> None:
    values = np.array([[1e12], [1], [2], [1e12]], np.float64)
    centres, _, inertia, _ = kmeans(values, 2, init=values[:2], **FIXED)
    assert centres.ravel().tolist() == [1e12, pytest.approx(1.5, abs=1e-4)]
    assert inertia == pytest.approx(0.5, abs=1e-3)


def test_weights_may_add_up_to_more_than_31_bits() -> None:
    values = clouds(1000, 5, 3)
    start = start_of(values, 3)
    plain = kmeans(values, 3, init=start, **FIXED)
    heavy = kmeans(values, 3, weights=np.full(1000, 3e9), init=start, **FIXED)
    np.testing.assert_array_equal(plain[1], heavy[1])
    np.testing.assert_allclose(plain[0], heavy[0], rtol=1e-7)
    assert heavy[2] == pytest.approx(3e9 * plain[2], rel=1e-12)


def test_kernel_sums_of_the_most_samples_fit() -> None:
    # Every value is as large as can be: the sums of all samples but three, then these three.
    before = (MOST_SAMPLES - 3) * int(LIMB)
    sums = np.array([[before, -before, before], [0, 0, 0]])
    values = np.array([[4, -4]] * 3, np.float32)
    _kmeans.add_samples(values, np.full(2, 0.25), LIMB, sums)
    most = MOST_SAMPLES * int(LIMB)
    assert sums[0].tolist() == [most, -most, most] and 2 * most <= 2**63
    # What is rounded away is at most half of the last place, so the lower part needs one bit less.
    values = np.array([[3e-5, -2e-3]], np.float32)
    sums = np.zeros((2, 3), np.int64)
    _kmeans.add_samples(values, np.full(2, 0.25), LIMB, sums)
    assert (np.abs(sums[1]) <= LIMB / 2).all() and sums[1, 0] != 0
    exact = [round(value * 2.0**54) for value in values[0].tolist()]
    assert [int(high) * 2**28 + int(low) for high, low in sums.T[:2]] == exact


GOOD = np.ones((6, 2), np.float32)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"k": 7}, "k is 7, but all ranks together have 6 samples"),
        ({"values": np.ones(4)}, r"values have shape \(4,\)"),
        ({"values": np.ones((4, 0))}, "at least one feature"),
        ({"values": np.ones((0, 2))}, "all ranks together have 0 samples"),
        ({"values": np.array([[1, 2], [np.nan, 1]])}, "sample 1, feature 0 is nan"),
        ({"values": np.array([[1, 2], [1, -np.inf]], np.float32)}, "sample 1, feature 1 is -inf"),
        ({"values": np.array([[1, 2], [1e30, 1]], np.float32)}, r"at most 8\.15e\+17"),
        ({"weights": np.ones(5)}, r"weights have shape \(5,\), expected \(6,\)"),
        ({"weights": np.array([1, 1, -1, 1, 1, 1])}, r"weight of sample 2 is -1\.0"),
        ({"weights": np.array([1, np.nan, 1, 1, 1, 1])}, "weight of sample 1 is nan"),
        ({"weights": np.array([1, np.inf, 1, 1, 1, 1])}, "weight of sample 1 is inf"),
        ({"weights": np.zeros(6)}, "all weights are 0"),
        ({"seed": -1}, "seed is -1"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"tolerance": -1}, r"tolerance is -1\.0"),
        ({"tolerance": np.nan}, "tolerance is nan"),
        ({"init": "random"}, "init is 'random'"),
        ({"init": np.ones((3, 2))}, r"init has shape \(3, 2\), expected \(2, 2\)"),
        ({"init": np.full((2, 2), np.nan)}, "init holds NaN"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kmeans(**({"values": GOOD, "k": 2} | ALONE | arguments))


def test_what_is_no_array_of_numbers_is_an_error() -> None:
    for arguments in ({"values": [["a"]]}, {"k": 1.5}, {"seed": None}):
        with pytest.raises(RankError, match="k-means"):
            kmeans(**({"values": GOOD, "k": 2} | ALONE | arguments))


GROWTH = """
    import re, sys
    import numpy as np
    from mpi4py import MPI
    from lcu.sample import kmeans

    def peak():
        return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024

    samples, features, k = map(int, sys.argv[1:4])
    random = np.random.default_rng(0)
    kmeans(random.random((5000, features), np.float32), k, seed=0, comm=MPI.COMM_SELF)
    values = random.random((samples, features), np.float32)
    weights = random.random(samples) if sys.argv[4] == "weights" else None
    before = peak()
    kmeans(values, k, weights=weights, seed=0, comm=MPI.COMM_SELF, max_iterations=4)
    print(peak() - before)
"""


@pytest.mark.parametrize("weights", ["weights", "none"])
def test_memory_stays_below_the_plan(weights: str) -> None:
    samples, features, k = 1_500_000, 12, 16
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GROWTH), *map(str, (samples, features, k)), weights],
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=True,
    )  # fmt: skip
    grown = int(done.stdout)
    assert 8 * samples < grown < kmeans_memory(samples, features, k)
    assert kmeans_memory(50_000_000, 120, 16) < 1.1e9


# --- ranks ------------------------------------------------------------------------------------


def spread(count: int, how: str, size: int) -> np.ndarray:
    """Return where each rank's samples end, for a way of spreading them."""
    if how == "even":
        return np.linspace(0, count, size + 1).astype(int)[1:]
    if how == "uneven":
        return (count * (np.arange(1, size + 1) / size) ** 3).astype(int)
    if how == "first":
        return np.full(size, count)
    return np.where(np.arange(1, size + 1) < size, 0, count)  # all on the last


def mine(values: np.ndarray, how: str) -> np.ndarray:
    """Return this rank's part."""
    ends = spread(len(values), how, COMM.size)
    return values[ends[COMM.rank - 1] if COMM.rank else 0 : ends[COMM.rank]]


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["even", "uneven", "first", "last"])
@pytest.mark.parametrize("init", ["k-means||", "k-means++", "array", "empty"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_spread_over_the_ranks_gives_the_same_bits(how: str, init: str, dtype: type) -> None:
    values = clouds(2111, 13, 8, dtype=dtype)
    random = np.random.default_rng(4)
    start: str | np.ndarray = init
    if init in ("array", "empty"):
        start = start_of(values, 8)
        start[5:] += 1e5 * (init == "empty")
    for weights in (None, random.random(2111), random.integers(0, 3, 2111)):
        arguments = {"seed": 9, "init": start, "max_iterations": 7, "tolerance": 1e-5}
        whole = kmeans(values, 8, weights=weights, comm=MPI.COMM_SELF, **arguments)
        own = None if weights is None else mine(weights, how)
        part = kmeans(mine(values, how), 8, weights=own, comm=COMM, **arguments)
        same_bits(part, (whole[0], mine(whole[1], how), *whole[2:]))


@pytest.mark.mpi
def test_few_samples_on_many_ranks() -> None:
    values = clouds(3, 2, 3)
    for how in ("even", "last"):
        for k in (1, 3):
            whole = kmeans(values, k, **ALONE)
            part = kmeans(mine(values, how), k, seed=1, comm=COMM)
            same_bits(part, (whole[0], mine(whole[1], how), *whole[2:]))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    "wrong",
    [
        {"values": np.full((6, 2), np.nan, np.float32)},
        {"values": np.ones((6, 3), np.float32)},
        {"values": np.ones((6, 2))},
        {"values": np.ones(6, np.float32)},
        {"weights": np.full(6, -1.0)},
        {"k": 1},
        {"k": 0},
        {"seed": 2},
        {"max_iterations": 3},
        {"tolerance": 0.5},
        {"init": "k-means++"},
        {"init": GOOD[:2]},
        {"k": None},
    ],
)
def test_a_mistake_on_one_rank_is_raised_on_every_rank(wrong: dict) -> None:
    arguments = {"values": GOOD, "k": 2, "seed": 1, "comm": COMM}
    guilty = COMM.size - 1
    with pytest.raises((ValueError, RankError)) as caught:
        kmeans(**(arguments | (wrong if COMM.rank == guilty else {})))
    texts = COMM.allgather(str(caught.value))  # the ranks are still in step
    assert len(set(texts)) == 1 and (f"rank {guilty}" in texts[0] or f"of {COMM.size}" in texts[0])


@pytest.mark.mpi
def test_no_samples_at_all_is_an_error_on_every_rank() -> None:
    with pytest.raises(ValueError, match="all ranks together have 0 samples"):
        kmeans(np.empty((0, 4), np.float32), 2, seed=1, comm=COMM)
    with pytest.raises(ValueError, match="all weights are 0"):
        kmeans(GOOD, 2, weights=np.zeros(6), seed=1, comm=COMM)
