"""K-means over samples that are spread over ranks, the same to the bit however they are spread.

Three things make it so. Each sample's distances are computed on their own, in a fixed order. Everything
that is added over samples is an integer: values times a power of two that all ranks agree on, in two
parts of 28 bits. Random numbers come from the seed and a sample's position among all samples.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from lcu import _kmeans
from lcu.clock import spending
from lcu.ranks import together
from lcu.sample.draw import mix

# Rounds of k-means|| and how many candidates one of them draws, on average, for each centre; Bahmani et
# al. (2012) find no gain beyond these.
ROUNDS, OVERSAMPLING = 5, 2

# Lloyd iterations that the weighted candidates get before they become centres.
CANDIDATE_ITERATIONS = 20

# Values become integers of this many bits, then what is left does; so many samples at most can be added
# before 63 bits overflow.
LIMB = 2.0**28
MOST_SAMPLES = 2**34

# Samples that are looked at together where there is an array of doubles for them.
CHUNK = 65536


@dataclass(frozen=True)
class Part:
    """Samples of this rank and what all ranks know about all of them.

    Attributes
    ----------
    values : ndarray[sample, feature], float32 or float64
    weights : ndarray[sample], float64
        Empty where all are 1.
    comm : MPI.Comm
    threads : int
    first : int
        Position of the first sample here among all samples.
    samples : int
        Samples on all ranks.
    scale : ndarray[feature], float64
        Power of two that brings a feature's values to at most 1.
    unit : float
        Power of two that brings the weights to at most 1.
    """

    values: np.ndarray
    weights: np.ndarray
    comm: MPI.Comm
    threads: int
    first: int
    samples: int
    scale: np.ndarray
    unit: float

    @property
    def features(self) -> int:
        """Count the features."""
        return self.values.shape[1]

    @spending("waiting")
    def sum(self, numbers: np.ndarray) -> np.ndarray:
        """Return the sum over the ranks of int64 arrays of one shape."""
        total = np.empty_like(numbers)
        self.comm.Allreduce(np.ascontiguousarray(numbers), total, op=MPI.SUM)
        return total

    @spending("waiting")
    def largest(self, number: float) -> float:
        """Return the largest of all ranks' numbers."""
        return self.comm.allreduce(float(number), op=MPI.MAX)


def kmeans(
    values: np.ndarray,
    k: int,
    *,
    weights: np.ndarray | None = None,
    seed: int,
    comm: MPI.Comm,
    init: str | np.ndarray = "k-means||",
    max_iterations: int = 300,
    tolerance: float = 1e-4,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Cluster samples by k-means; collective over `comm`, each rank passes its own samples.

    The result is the same to the bit for any number of ranks and threads and any way of spreading the
    samples, as long as their order, rank after rank, is the same.

    Parameters
    ----------
    values : ndarray[sample, feature]
        This rank's samples, in any unit; a rank may have none (shape [0, feature]). float32 and float64 are
        computed with as they are; integers of at most 16 bits and float16 become float32, everything else
        float64. What is no C-contiguous array of these is copied.
    k : int
        Clusters, at least 1 and at most as many as all ranks have samples.
    weights : ndarray[sample], optional
        Weight of each sample, at least 0 and finite; None on all ranks: 1 each. A sample of weight 0 gets a
        label and moves no centre.
    seed : int
        Selects the random numbers, at least 0; used by the seeding only.
    comm : MPI.Comm
    init : {"k-means||", "k-means++"} or ndarray[k, feature]
        Seeding, or the first centres (the same on all ranks).
    max_iterations : int
        Lloyd iterations at most, at least 1.
    tolerance : float
        Iterations end when the squared distances that the centres moved add up to at most this times the
        mean variance of the features; with 0 when no label changes.
    threads : int
        OpenMP threads of this rank.

    Returns
    -------
    centres : ndarray[k, feature], dtype of the values
        On every rank.
    labels : ndarray[sample], int32
        Nearest centre of each sample of this rank; of equally near ones the first.
    inertia : float
        Weighted sum, over the samples of all ranks, of the squared distance from their centre.
    iterations : int
        Lloyd iterations that were done.

    Raises
    ------
    ValueError
        On every rank, with one text, when on any of them an argument is wrong, a value is NaN, infinite or so
        large that squared distances overflow, or arguments that must agree differ.
    RankError
        On every rank, when the arguments of one are no arrays of numbers.

    Notes
    -----
    Lloyd iterations end as scikit-learn's do, and an empty cluster is treated as there: its centre moves
    to the sample farthest from its own centre, which leaves its cluster's mean (several empty clusters:
    the farthest samples in their order; equally far ones by position; samples of weight 0 and samples that
    lie on their centre are no use). If there is none, as with fewer distinct samples than clusters, the
    empty cluster lies on the heaviest one's centre. Labels belong to the centres that are returned.

    Seeding: k-means|| (Bahmani et al. 2012, PVLDB 5) with 5 rounds of 2 k candidates; these, weighted by
    the samples nearest to them, are clustered by k-means++ and Lloyd on every rank alike. Where the rounds
    find fewer than k candidates, k-means++ draws from the samples instead. k-means++ (Arthur and
    Vassilvitskii 2007) goes k times over the samples. When every sample lies on a centre, the others repeat
    the first.

    Distances that cannot matter are left out by two bounds a sample (Hamerly 2010, SDM), which allow for
    rounding: labels are those of all distances computed. Differences below 1e-19 (float32) or 1e-154
    (float64) count as none, because their squares vanish. Sums are exact to 2^-56 of a feature's largest
    absolute value per sample; they take up to 2^34 samples.
    """
    part, k, start = agree(values, k, weights, seed, comm, init, max_iterations, tolerance, threads)
    if isinstance(start, str):
        start = seed_centres(part, k, start, seed)
    limit = tolerance * mean_variance(part) if tolerance > 0 else 0.0
    centres, state, iterations = lloyd(part, start, max_iterations, limit)
    most = part.largest(_kmeans.largest_bound(state.upper, part.weights, part.unit))
    return centres, state.labels, inertia_of(part, centres, state.labels, most), iterations


def kmeans_memory(samples: int, features: int, k: int, dtype: type = np.float32) -> int:
    """Return the bytes that `kmeans` holds on a rank at most, beyond its arguments.

    Parameters
    ----------
    samples : int
        Samples of this rank.
    features, k : int
    dtype : data type
        That of the computation, see `kmeans`; values of another type are copied, which is not counted.

    Notes
    -----
    A label and two bounds for each sample, room for weights that are no array of float64, and, for each
    thread and each centre or candidate, sums. 50 million samples of 120 float32 values, 24 GB, need 1 GB.
    """
    size = np.dtype(dtype).itemsize
    candidates = 4 * OVERSAMPLING * ROUNDS * k + 64
    table = candidates * (features + 8) * (3 * size + 4 * 16)
    return samples * (4 + 2 * size + 8) + 16 * CHUNK + 2 * table


# ------------------------------------------------------------------------------ the arguments


def agree(
    values: np.ndarray,
    k: int,
    weights: np.ndarray | None,
    seed: int,
    comm: MPI.Comm,
    init: str | np.ndarray,
    max_iterations: int,
    tolerance: float,
    threads: int,
) -> tuple[Part, int, str | np.ndarray]:
    """Check the arguments of all ranks; return this rank's part, k, and the seeding or first centres."""
    with together(comm, "k-means"):
        own, kind = as_floats(values), "none"
        if weights is not None:
            weights, kind = np.ascontiguousarray(weights, np.float64), "given"
        start = init if isinstance(init, str) else np.array(init, own.dtype, order="C")
        k, seed, max_iterations = map(operator.index, (k, seed, max_iterations))
        tolerance, threads = float(tolerance), operator.index(threads)
        sizes = np.zeros(0, own.dtype)
        problem = problem_of(own, k, weights, seed, start, max_iterations, tolerance, threads)
        if problem is None:
            sizes = largest_values(own, threads)
            problem = problem_of_values(own, sizes)
    same = {
        "k": k, "number of features": own.shape[-1] if own.ndim == 2 else None,
        "dtype": str(own.dtype), "weights": kind, "seed": seed, "max_iterations": max_iterations,
        "tolerance": tolerance,
        "init": start if isinstance(start, str) else hashlib.sha256(start.tobytes()).hexdigest(),
    }  # fmt: skip
    heaviest = 1.0 if weights is None else float(weights.max(initial=0))
    ranks = comm.allgather((problem, same, len(own) if own.ndim else 0, heaviest))
    raise_problems(ranks)
    counts = [count for *_, count, _ in ranks]
    if k > sum(counts):
        raise ValueError(f"k-means: k is {k}, but all ranks together have {sum(counts)} samples")
    if sum(counts) > MOST_SAMPLES:
        raise ValueError(
            f"k-means: {sum(counts)} samples; at most {MOST_SAMPLES} can be added exactly"
        )
    heaviest = max(weight for *_, weight in ranks)
    if heaviest == 0:
        raise ValueError("k-means: all weights are 0")
    largest = np.empty_like(sizes)
    comm.Allreduce(sizes, largest, op=MPI.MAX)
    part = Part(
        own, np.empty(0) if weights is None else weights, comm, threads,
        sum(counts[: comm.rank]), sum(counts), to_one(largest), float(to_one(heaviest)),
    )  # fmt: skip
    return part, k, start


def raise_problems(ranks: list[tuple]) -> None:
    """Raise what the ranks found, or how their arguments differ."""
    found = [f"rank {rank}: {problem}" for rank, (problem, *_) in enumerate(ranks) if problem]
    if found:
        raise ValueError(f"k-means: {'; '.join(found[:4])}")
    first = ranks[0][1]
    for rank, (_, same, *_) in enumerate(ranks):
        for name, value in same.items():
            if value != first[name]:
                raise ValueError(
                    f"k-means: {name} must be the same on all ranks; "
                    f"rank 0 has {first[name]}, rank {rank} has {value}"
                )


def as_floats(values: np.ndarray) -> np.ndarray:
    """Return values as a C-contiguous array of float32 or float64."""
    values = np.asarray(values)
    exact = np.can_cast(values.dtype, np.float32)
    return np.ascontiguousarray(values, np.float32 if exact else np.float64)


def problem_of(
    values: np.ndarray,
    k: int,
    weights: np.ndarray | None,
    seed: int,
    start: str | np.ndarray,
    max_iterations: int,
    tolerance: float,
    threads: int,
) -> str | None:
    """Return what is wrong with a rank's arguments, the values themselves apart."""
    if values.ndim != 2 or values.shape[1] == 0:
        return f"values have shape {values.shape}, expected [sample, feature], at least one feature"
    for name, number, least in (
        ("k", k, 1), ("max_iterations", max_iterations, 1), ("threads", threads, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if number < least:
            return f"{name} is {number}, expected at least {least}"
    if not 0 <= tolerance < np.inf:
        return f"tolerance is {tolerance}, expected a finite number of at least 0"
    if weights is not None and weights.shape != values.shape[:1]:
        return f"weights have shape {weights.shape}, expected ({len(values)},) as the samples"
    if weights is not None and not ((weights >= 0) & (weights < np.inf)).all():
        place = int(np.argmin((weights >= 0) & (weights < np.inf)))
        return (
            f"the weight of sample {place} is {weights[place]}, expected a finite one of at least 0"
        )
    return problem_of_start(values, k, start)


def problem_of_start(values: np.ndarray, k: int, start: str | np.ndarray) -> str | None:
    """Return what is wrong with `init`."""
    if isinstance(start, str):
        known = start in ("k-means||", "k-means++")
        return (
            None if known else f"init is {start!r}, expected 'k-means||', 'k-means++' or an array"
        )
    if start.shape != (k, values.shape[1]):
        return f"init has shape {start.shape}, expected ({k}, {values.shape[1]}): [k, feature]"
    if not (np.abs(start) <= most_value(start)).all():
        return f"init holds NaN, infinity or values above {most_value(start):.3g}"
    return None


def problem_of_values(values: np.ndarray, sizes: np.ndarray) -> str | None:
    """Return what is wrong with the values, of which `sizes` are the largest of each feature."""
    if (sizes <= most_value(values)).all():
        return None
    feature = int(np.argmin(sizes <= most_value(values)))
    sample = int(np.argmin(np.abs(values[:, feature]) <= most_value(values)))
    return (
        f"the value of sample {sample}, feature {feature} is {values[sample, feature]}, expected "
        f"finite ones of at most {most_value(values):.3g}"
    )


def most_value(values: np.ndarray) -> float:
    """Return up to what absolute value squared distances cannot overflow."""
    return float(np.sqrt(np.finfo(values.dtype).max / values.shape[1])) / 16


def largest_values(values: np.ndarray, threads: int) -> np.ndarray:
    """Return the largest absolute value of each feature; infinity where one is no number."""
    sizes = np.zeros((threads, values.shape[1]), values.dtype)
    _kmeans.largest(values, sizes, threads)
    return sizes.max(axis=0)


def to_one(sizes: np.ndarray | float) -> np.ndarray:
    """Return the powers of two, float64, that bring numbers of these sizes to at most 1."""
    _, exponent = np.frexp(np.asarray(sizes, np.float64))
    return np.ldexp(1.0, np.minimum(-exponent, 1000))


# --------------------------------------------------------------------------- Lloyd iterations


@dataclass
class State:
    """Labels, bounds and sums of this rank, which live through all iterations.

    Attributes
    ----------
    labels : ndarray[sample], int32
        -1 before the first iteration.
    upper, lower : ndarray[sample], dtype of the values
        Bounds of the distance from the own centre and from all others.
    sums : ndarray[thread, centre, 2, feature + 1], int64
        See `_kmeans.assign`.
    """

    labels: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, part: Part, k: int) -> State:
        """Return the state before the first iteration."""
        samples = len(part.values)
        return cls(
            np.full(samples, -1, np.int32),
            np.empty(samples, part.values.dtype),
            np.empty(samples, part.values.dtype),
            np.zeros((part.threads, k, 2, part.features + 1), np.int64),
        )


def lloyd(
    part: Part, centres: np.ndarray, max_iterations: int, limit: float
) -> tuple[np.ndarray, State, int]:
    """Return centres, labels with their bounds, and how many iterations it took; see `kmeans`."""
    state = State.of(part, len(centres))
    drift = np.zeros(len(centres))
    iterations, ended = 0, False
    while not ended and iterations < max_iterations:
        moved = part.sum(np.array([assign(part, state, centres, drift)]))[0]
        sums = part.sum(state.sums.sum(axis=0))
        relocate_empty(part, sums, centres, state.labels)
        before, centres = centres, means(part, sums)
        squared = ((centres.astype(np.float64) - before) ** 2).sum(axis=1)
        drift = np.sqrt(squared)
        iterations, ended = iterations + 1, moved == 0 or squared.sum() <= limit
    if drift.any():
        assign(part, state, centres, drift)
    return centres, state, iterations


def assign(part: Part, state: State, centres: np.ndarray, drift: np.ndarray) -> int:
    """Label this rank's samples anew after the centres moved by `drift`; return how many labels changed."""
    dtype = centres.dtype
    half = np.empty(len(centres))
    _kmeans.half_way(centres, half)
    farthest = int(np.argmax(drift))
    reach = np.full(len(centres), drift[farthest])
    reach[farthest] = np.delete(drift, farthest).max(initial=0)
    # Twice the rounding of a distance (half of that of its square, kmeans.h), and a little.
    slack = (part.features + 16) * np.finfo(dtype).eps
    tiny = np.sqrt(part.features * np.finfo(dtype).tiny)
    return _kmeans.assign(
        part.values, part.weights, packed(centres), centres,
        up(drift, dtype), up(reach, dtype), (half * (1 - slack)).astype(dtype), slack, tiny,
        part.scale, LIMB * part.unit, state.labels, state.upper, state.lower, state.sums, part.threads,
    )  # fmt: skip


def up(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return numbers of this type that are not below the given ones, 0 for 0."""
    larger = np.nextafter(numbers.astype(dtype), dtype.type(np.inf))
    return np.where(numbers > 0, larger, 0).astype(dtype)


def packed(centres: np.ndarray) -> np.ndarray:
    """Return centres [group, feature, lane] as the kernels read them: 32 bytes side by side."""
    lanes = 32 // centres.itemsize
    groups = -(-len(centres) // lanes)
    filled = np.zeros((groups * lanes, centres.shape[1]), centres.dtype)
    filled[: len(centres)] = centres
    return np.ascontiguousarray(filled.reshape(groups, lanes, -1).transpose(0, 2, 1))


def joined(sums: np.ndarray) -> np.ndarray:
    """Return float64 [..., column] of sums [..., 2, column], in units of the lower part."""
    return sums[..., 0, :] * LIMB + sums[..., 1, :]


def means(part: Part, sums: np.ndarray) -> np.ndarray:
    """Return the centres of clusters with these sums; empty ones lie on the heaviest one's."""
    total = joined(sums)
    weight = total[:, -1]
    heaviest = int(np.argmax(weight))
    source = np.where(weight > 0, np.arange(len(weight)), heaviest)
    centres = total[source, :-1] / weight[source, None] / part.scale
    return centres.astype(part.values.dtype)


def relocate_empty(part: Part, sums: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> None:
    """Give each empty cluster the farthest sample that is left, in `sums` of all ranks.

    As scikit-learn's `_relocate_empty_clusters_dense`; the labels stay, for the next iteration sets them.
    """
    empty = np.flatnonzero(joined(sums)[:, -1] == 0)
    if len(empty) == 0:
        return
    chosen = farthest_samples(part, centres, labels, len(empty))
    moved = np.zeros((len(chosen), *sums.shape[1:]), np.int64)
    source = np.zeros(len(chosen), np.int64)
    for number, position in enumerate(chosen):
        sample = position - part.first
        if 0 <= sample < len(labels):
            source[number] = labels[sample]
            weight = part.weights[sample] if len(part.weights) else 1.0
            _kmeans.add_samples(
                part.values[sample : sample + 1],
                part.scale,
                LIMB * part.unit * weight,
                moved[number],
            )
    moved, source = part.sum(moved), part.sum(source)
    for number, cluster in enumerate(empty[: len(chosen)]):
        sums[source[number]] -= moved[number]
        sums[cluster] = moved[number]


def farthest_samples(part: Part, centres: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Return the positions among all samples of the `count` farthest from their own centre."""
    found: list[tuple[float, int]] = []
    for start, squared in squared_distances(part, centres, labels):
        if len(part.weights):
            squared = np.where(part.weights[start : start + CHUNK] > 0, squared, 0)
        kept = max(len(squared) - count, 0)
        far = np.flatnonzero(squared >= np.partition(squared, kept)[kept])
        found += [(-squared[place], part.first + start + int(place)) for place in far]
        found = sorted(found)[:count]
    everywhere = sorted(pair for pairs in part.comm.allgather(found) for pair in pairs)
    return [position for distance, position in everywhere[:count] if distance < 0]


def squared_distances(
    part: Part, centres: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Give, chunk after chunk, its start and the squared distances, float64, from the own centres."""
    squared = np.empty(min(CHUNK, len(labels)))
    for start in range(0, len(labels), CHUNK):
        own = labels[start : start + CHUNK]
        _kmeans.squared_distances(
            part.values[start : start + CHUNK], centres, own, squared[: len(own)], part.threads
        )
        yield start, squared[: len(own)]


def inertia_of(part: Part, centres: np.ndarray, labels: np.ndarray, most: float) -> float:
    """Return the weighted sum of the squared distances over all samples, none of them above `most`."""
    scale = float(to_one(most)) * LIMB
    sums = np.zeros(2, np.int64)
    for start, squared in squared_distances(part, centres, labels):
        weights = part.weights[start : start + CHUNK]
        _kmeans.add_terms(squared, weights, part.unit, scale, sums)
    return float(joined(part.sum(sums)[:, None])[0] / LIMB / scale / part.unit)


def mean_variance(part: Part) -> float:
    """Return the variance of the features, without weights, and its mean over them."""
    sums = np.zeros((2, part.features + 1), np.int64)
    _kmeans.add_samples(part.values, part.scale, LIMB, sums)
    mean = means(part, part.sum(sums)[None])
    plain = Part(**(vars(part) | {"weights": np.empty(0), "unit": 1.0}))
    labels = np.zeros(len(part.values), np.int32)
    most = float(((2 / part.scale) ** 2).sum())
    return inertia_of(plain, mean, labels, most) / part.samples / part.features


# ------------------------------------------------------------------------------------ seeding


def seed_centres(part: Part, k: int, method: str, seed: int) -> np.ndarray:
    """Return the first centres."""
    if method == "k-means||":
        candidates, weights = draw_candidates(part, k, seed)
        if len(candidates) >= k:
            return kmeans(
                candidates, k, weights=weights, seed=seed, comm=MPI.COMM_SELF, init="k-means++",
                max_iterations=CANDIDATE_ITERATIONS, tolerance=0, threads=part.threads,
            )[0]  # fmt: skip
    return plus_plus(part, k, seed)


class Approach:
    """The squared distance of this rank's samples from the nearest centre so far.

    Attributes
    ----------
    centres : ndarray[centre, feature]
    squared : ndarray[sample], dtype of the values
        1 while there is no centre, so that the first is drawn by weight alone.
    labels : ndarray[sample], int32
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.centres = np.empty((0, part.features), part.values.dtype)
        self.squared = np.ones(len(part.values), part.values.dtype)
        self.labels = np.zeros(len(part.values), np.int32)

    def add(self, centres: np.ndarray) -> None:
        """Take more centres."""
        if len(self.centres) == 0:
            self.squared.fill(np.inf)
        _kmeans.approach(
            self.part.values, packed(centres), len(centres), len(self.centres),
            self.squared, self.labels, self.part.threads,
        )  # fmt: skip
        self.centres = np.concatenate([self.centres, centres])

    def scale(self) -> float:
        """Return the power of two that brings all weighted squared distances to 2^28; 0 if all are 0."""
        part = self.part
        most = part.largest(_kmeans.largest_term(self.squared, part.weights, part.unit))
        return float(to_one(most)) * LIMB if most > 0 else 0.0

    def sums(self, scale: float) -> np.ndarray:
        """Return the sum of this rank's weighted squared distances, int64 [2]."""
        sums = np.zeros(2, np.int64)
        _kmeans.add_terms(self.squared, self.part.weights, self.part.unit, scale, sums)
        return sums

    def draw(self, number: int, scale: float) -> np.ndarray:
        """Return a sample [1, feature], drawn in proportion by a number of 53 bits."""
        part, comm = self.part, self.part.comm
        totals = comm.allgather(int(self.sums(scale)[0]))
        target = (sum(totals) * number) >> 53
        owner = 0
        while target >= totals[owner]:
            target -= totals[owner]
            owner += 1
        drawn = np.empty((1, part.features), part.values.dtype)
        if comm.rank == owner:
            place = _kmeans.find_term(self.squared, part.weights, part.unit, scale, target)
            drawn[0] = part.values[place]
        comm.Bcast(drawn, root=owner)
        return drawn


def random_key(seed: int, turn: int) -> int:
    """Return a random-looking number of 64 bits for a turn of the seeding."""
    start = mix(np.array([seed % 2**64], np.uint64))
    return int(mix(start ^ mix(np.array([turn], np.uint64)))[0])


def plus_plus(part: Part, k: int, seed: int) -> np.ndarray:
    """Return k samples, each drawn in proportion to weight and squared distance from those before."""
    approach = Approach(part)
    for turn in range(k):
        scale = approach.scale()
        if scale == 0:
            rest = np.repeat(approach.centres[:1], k - turn, axis=0)
            return np.concatenate([approach.centres, rest])
        approach.add(approach.draw(random_key(seed, turn) >> 11, scale))
    return approach.centres


def draw_candidates(part: Part, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates of k-means||, in an order that ranks do not change, and their weights."""
    approach = Approach(part)
    approach.add(approach.draw(random_key(seed, 0) >> 11, approach.scale()))
    for turn in range(1, ROUNDS + 1):
        scale = approach.scale()
        if scale == 0:
            break
        total = joined(part.sum(approach.sums(scale))[:, None])[0] / LIMB / scale
        rows = _kmeans.choose(
            approach.squared, part.weights, part.unit, OVERSAMPLING * k / total,
            random_key(seed, turn), part.first,
        )  # fmt: skip
        drawn = gather_rows(part, rows)
        if len(drawn):
            approach.add(drawn)
    sums = np.zeros((len(approach.centres), 2), np.int64)
    _kmeans.add_weights(approach.labels, part.weights, LIMB * part.unit, sums)
    return approach.centres, joined(part.sum(sums)[..., None])[:, 0]


def gather_rows(part: Part, rows: list[int]) -> np.ndarray:
    """Return the chosen samples of all ranks, in rank order, on every rank."""
    own = part.values[rows]
    counts = np.array(part.comm.allgather(own.size))
    drawn = np.empty((counts.sum() // part.features, part.features), own.dtype)
    part.comm.Allgatherv(own, (drawn, counts))
    return drawn
