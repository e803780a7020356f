"""Which candidates deserve their label: the consistency of an old map with the series under it.

Nothing but the map and the series is known. What a place looks like is the mean of its years, season by season, for
single years differ more by weather, sowing and mowing than kinds of a class do. Means are brought into the few
directions that tell the map's classes apart, clustered, and every cluster is asked which classes the map gives to its
members. A label is reliable where the map says the same of pixels that look alike elsewhere; polygons, clusters and
pixels that look like another class are not.

Everything is the same to the bit for any number of ranks and any way of spreading the candidates: what is
added over candidates are integers, what is chosen is chosen by numbers that belong to a candidate, and
what follows from small tables is computed on one rank for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from mpi4py import MPI

from lcu.discriminants import add_up, directions, project
from lcu.ranks import mine, on_root, together
from lcu.sample.kmeans import kmeans

# What became of a candidate: the first rule that removed it.
KEPT, POLYGON, CLUSTER, ATYPICAL, UNRELIABLE = range(5)
RULES = ("kept", "polygon", "cluster", "atypical", "unreliable")

# Candidates of a class that tell its middle; least spread around it (of the logarithm: 1 %); candidates that
# are looked at together.
MIDDLE_OF, LEAST_SPREAD, FEW_ROWS = 4096, np.float32(0.01), 4096

# Natural logarithm of each reflectance x 10000; 0 counts as 1.
LOGARITHM = np.log(np.maximum(np.arange(65536), 1)).astype(np.float32)

# The same in whole numbers that 16 bits hold, of which sums are exact.
WHOLE_LOGARITHM = np.rint(LOGARITHM * np.float32(5900)).astype(np.uint16)

# Times that candidates are judged: the second time by those alone that stood the first.
PASSES = 2

# Clusterings whose tables are averaged: one alone depends on where its borders happen to lie.
CLUSTERINGS = 3

# Numbers of clusters that are tried, candidates that they are tried on, and how many of these a cluster
# must have on average.
CLUSTERS, TRIED_ON, LEAST_MEMBERS = (12, 25, 50, 100, 200), 32768, 16

# Lloyd iterations of a clustering; its centres come from the candidates that it was tried on.
ITERATIONS = 20

# Weight, in candidates, of the map's shares in those of a cluster: none is certain of anything.
PRIOR = 0.5

# What a candidate's own polygon counts for in its cluster: the mistakes of a polygon agree with each other.
OWN_POLYGON = 0.3

# A polygon is wrong when, by all others, another class is this many times as likely.
WRONG_POLYGON = 4.0

# A candidate whose score is not higher looks like another class.
FITS = 0.5

# Score of a candidate whose class is the most frequent, but another one is more so than usual.
JUST_FITS = np.float32(0.50001)

# Least share of its candidates that a class keeps, whatever they look like.
LEAST_KEPT = 0.25

# Least part of the share that is kept of all that a class keeps, and of its class's that a cluster keeps.
LEAST_OF_CLASS, LEAST_OF_CLUSTER = 0.6, 0.8

# Candidates whose scores are found together.
CHUNK = 2**18


@dataclass(frozen=True)
class Pool:
    """Candidates of this rank, all arrays [candidate].

    Attributes
    ----------
    series : tuple of ndarray[candidate, feature], uint16
        Gap-filled reflectance x 10000 of each year that is looked at, time and band in one axis.
    observed : ndarray[candidate, year], bool
        Whether there is any observation in the year.
    index : uint8
        Class index.
    polygon : int64
        Polygon of the old map, unique in the run; it has one class.
    key : uint64
        A number that looks random and belongs to the candidate's place, see `lcu.sample.priority`.
    border : uint8
        Distance to the nearest pixel of another class, in pixels.
    part : uint8
        0 or 1: the half of the landscape that the place belongs to.
    """

    series: tuple[np.ndarray, ...]
    observed: np.ndarray
    index: np.ndarray
    polygon: np.ndarray
    key: np.ndarray
    border: np.ndarray
    part: np.ndarray

    def __len__(self) -> int:
        """Count the candidates."""
        return len(self.index)

    def looks(self) -> Looks:
        """Return the candidates that were observed in any year, with the mean of what they look like in these."""
        mean = np.empty(self.series[0].shape, np.uint16)
        count = self.observed.sum(axis=1).astype(np.uint32)
        for first in range(0, len(self), FEW_ROWS):
            rows = slice(first, first + FEW_ROWS)
            total = sum(
                WHOLE_LOGARITHM[series[rows]].astype(np.uint32) * seen[rows, None]
                for series, seen in zip(self.series, self.observed.T, strict=True)
            )
            mean[rows] = total // np.maximum(count[rows, None], 1)
        return Looks(mean, self.index, self.polygon, self.key, self.part).take(count > 0)


@dataclass(frozen=True)
class Looks:
    """Candidates of this rank with what is usual of them; see `Pool`.

    Attributes
    ----------
    series : ndarray[candidate, feature], uint16
        Mean logarithm over the years, x 5900.
    """

    series: np.ndarray
    index: np.ndarray
    polygon: np.ndarray
    key: np.ndarray
    part: np.ndarray

    def __len__(self) -> int:
        """Count the candidates."""
        return len(self.index)

    def take(self, chosen: np.ndarray) -> Looks:
        """Return the chosen ones, bool [candidate]."""
        return Looks(*(getattr(self, entry.name)[chosen] for entry in fields(self)))


@dataclass(frozen=True)
class Verdict:
    """What was found of the candidates of this rank, all arrays [candidate].

    Attributes
    ----------
    rule : uint8
        0 = kept, else the position in `RULES` of the rule that removed it.
    cluster : int32
        The classes share the numbers. -1 = not observed.
    score : float32
        Reliability, 0..1: how well the own class fits beside the best other one; 0.5 = equally well.
    """

    rule: np.ndarray
    cluster: np.ndarray
    score: np.ndarray


def reliable(
    pool: Pool,
    *,
    classes: int,
    keep: float,
    typical: float,
    outdated: Sequence[bool],
    seed: int,
    comm: MPI.Comm,
    threads: int = 1,
) -> Verdict:
    """Find the candidates whose label is reliable; collective over `comm`.

    Parameters
    ----------
    pool : Pool
        This rank's candidates; may be empty.
    classes : int
        Classes of the legend.
    keep : float
        Largest share of all candidates that is kept, 0..1.
    typical : float
        Share of each class that is near enough to its middle to be kept, 0..1.
    outdated : [year], bool
        Whether the map is of another year than the series, so that the land may have changed.
    seed : int
    comm : MPI.Comm
    threads : int
        OpenMP threads of this rank.

    Notes
    -----
    A candidate is removed by the first of these rules: its polygon looks like another class (``polygon``), its
    clusters do (``cluster``), it is far from the middle of its class (``atypical``), others are more reliable
    (``unreliable``). The best of a class that are not far from its middle stay where rules on pixels would leave less
    than `LEAST_KEPT` of it.

    Beyond the pool a rank holds, for each candidate, the mean of its years, 4 bytes for each of at most
    classes - 1 discriminants, what `kmeans` needs (12 bytes), and labels and scores (about 40); and tables of what is
    in each polygon and cluster, 21 bytes for each such pair of all ranks.
    """
    seen = pool.observed.any(axis=1)
    wrong, score = np.zeros(len(pool), bool), np.ones(len(pool), np.float32)
    cluster = np.full(len(pool), -1, np.int32)
    wrong[seen], cluster[seen], score[seen] = judge(pool.looks(), classes, seed, comm, threads)
    far = least_typical(pool, classes, typical, outdated, comm)
    rule = np.where(far, ATYPICAL, KEPT).astype(np.uint8)
    rule[score <= FITS] = CLUSTER
    rule[wrong] = POLYGON
    second = (rule == CLUSTER) & ~far
    rule[least_kept(score, rule == KEPT, second, pool, classes, comm)] = KEPT
    chosen = most_reliable(score, rule == KEPT, cluster + 1, pool, classes, keep, comm)
    rule[(rule == KEPT) & ~chosen] = UNRELIABLE
    return Verdict(rule, cluster, score)


# -------------------------------------------------------------------------- the middle of a class


def least_typical(
    pool: Pool, classes: int, typical: float, outdated: Sequence[bool], comm: MPI.Comm
) -> np.ndarray:
    """Choose all but a share `typical` of each class: those farthest from its middle in some year, bool [candidate].

    What an outdated map calls by one name everywhere, such as forest that was felled since, no cluster can
    tell: the map says the same of all that looks alike. But it is not like the rest of its class. In the map's
    own year nothing has changed, and what is rare in a class belongs to it.
    """
    distance = np.zeros(len(pool), np.float32)
    for position in np.flatnonzero(outdated):
        series, seen = pool.series[position], pool.observed[:, position]
        for value, (middle, spread) in middles(pool, position, classes, comm).items():
            own = np.flatnonzero(seen & (pool.index == value))
            for first in range(0, len(own), FEW_ROWS):
                chosen = own[first : first + FEW_ROWS]
                away = (LOGARITHM[series[chosen]] - middle) / spread
                distance[chosen] = np.maximum(distance[chosen], (away * away).mean(axis=1))
    most = total_count(pool.index, classes, comm)
    most -= np.ceil((typical if any(outdated) else 1) * most).astype(np.int64)
    # Of floats that are not negative the bits have the order of the numbers.
    return highest(distance.view(np.uint32), pool.index.astype(np.int64), most, comm)


def middles(
    pool: Pool, position: int, classes: int, comm: MPI.Comm
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return, for each class index, the middle and the spread of its series' logarithms in a year, float32 [feature].

    They are the median and the median absolute deviation from it, so what is few in a class moves neither; of
    the `MIDDLE_OF` candidates with the lowest keys, which every rank can hold.
    """
    series, seen = pool.series[position], pool.observed[:, position]
    number = (~pool.key >> np.uint64(32)).astype(np.uint32)
    few = highest(number, pool.index.astype(np.int64), np.full(classes, MIDDLE_OF), comm, seen)
    parts = comm.allgather((series[few], pool.index[few]))
    known, index = (np.concatenate(column) for column in zip(*parts, strict=True))
    found = {}
    for value in np.unique(index):
        values = LOGARITHM[known[index == value]]
        middle = np.median(values, axis=0)
        spread = np.median(np.abs(values - middle), axis=0)
        found[int(value)] = middle, np.maximum(spread, LEAST_SPREAD)
    return found


# ------------------------------------------------------------------------------------ judging


def judge(
    looks: Looks, classes: int, seed: int, comm: MPI.Comm, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judge the candidates by their series.

    Returns
    -------
    wrong : ndarray[candidate], bool
        Whether its polygon looks like another class.
    cluster : ndarray[candidate], int32
    score : ndarray[candidate], float32
        Reliability; 1 where there are no two classes to compare.
    """
    used, wrong = np.ones(len(looks), bool), np.zeros(len(looks), bool)
    cluster, score = np.zeros(len(looks), np.int32), np.ones(len(looks), np.float32)
    for turn in range(PASSES):
        few = looks.take(used)
        values = discriminants(looks, few, classes, comm)
        if not values.shape[1]:
            break
        starts = starting_centres(values[used], few, classes, seed + turn, comm)
        labels = [
            kmeans(values, len(start), seed=seed, comm=comm, init=start, max_iterations=ITERATIONS,
                   threads=threads)[1]
            for start in starts
        ]  # fmt: skip
        clusters = max(len(start) for start in starts)
        tables = [crosstab(label[used], few, clusters, classes, comm) for label in labels]
        if turn == 0:  # later, classes that few candidates stood for have too few to tell
            polygons = on_root(comm, "judging polygons", wrong_polygons, tables, classes)
            wrong = np.isin(looks.polygon, polygons)
            tables = [table.without(polygons) for table in tables]
        cluster, score = labels[0], scores(tables, labels, looks, used & ~wrong, comm)
        used = ~wrong & (score > FITS)
    return wrong, cluster, score


# ------------------------------------------------------------------------------- discriminants


def discriminants(looks: Looks, used: Looks, classes: int, comm: MPI.Comm) -> np.ndarray:
    """Return the candidates' linear discriminants, float32 [candidate, at most classes - 1].

    They are those of the candidates `used`.

    Labels that are wrong at random widen the scatter within classes and draw the means together; the directions
    stay. There are none where fewer than two classes have candidates, or all series are the same.
    """
    counts, sums, products = moments(used, classes, comm)
    weights, frame = on_root(comm, "finding discriminants", directions, counts, sums, products)
    return project(looks.series, weights, frame)


def moments(
    looks: Looks, classes: int, comm: MPI.Comm
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts [class], sums [class, feature] and products [feature, feature] of all ranks, int64."""
    features = comm.allreduce(looks.series.shape[1], op=MPI.MAX)
    total = np.zeros(classes + classes * features + features * features, np.int64)
    with together(comm, "adding up series"):
        if len(looks):
            parts = add_up(looks.series, looks.index, classes)
            total = np.concatenate([part.ravel() for part in parts])
    whole = np.empty_like(total)
    comm.Allreduce(total, whole)
    counts, sums, products = np.split(whole, [classes, classes * (1 + features)])
    return counts, sums.reshape(classes, features), products.reshape(features, features)


# ----------------------------------------------------------------------------------- clusters


def starting_centres(
    values: np.ndarray, looks: Looks, classes: int, seed: int, comm: MPI.Comm
) -> list[np.ndarray]:
    """Return the first centres of each clustering, float32 [cluster, direction].

    They are found, and their number is chosen, on the candidates with the lowest keys, which every rank can
    hold; the ranks share the tries. It is the number whose clusters foretell best (least mean log-loss) which
    classes the map has in the other half of the landscape, from what it has in one.
    """
    number = (~looks.key >> np.uint64(32)).astype(np.uint32)
    few = highest(number, np.zeros(len(looks), np.int64), np.array([TRIED_ON]), comm)
    parts = comm.allgather((looks.key[few], values[few], looks.index[few], looks.part[few]))
    key, values, index, part = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(key, kind="stable")
    tried = _try_clusters(values[order], index[order], part[order], classes, seed, comm)
    best = min(tried, key=lambda k: np.mean([loss for loss, _ in tried[k]]))
    return [centres for _, centres in tried[best]]


def _try_clusters(
    values: np.ndarray, index: np.ndarray, part: np.ndarray, classes: int, seed: int, comm: MPI.Comm
) -> dict[int, list[tuple[float, np.ndarray]]]:
    """Return the loss and the centres of each clustering, by the number of clusters; the same on every rank."""
    most = max(1, len(values) // LEAST_MEMBERS)
    numbers = [k for k in CLUSTERS if k <= most] or [most]
    work = [(k, turn) for k in numbers for turn in range(CLUSTERINGS)]
    found = {}
    with together(comm, "trying numbers of clusters"):
        for k, turn in mine(work, comm, cost=lambda item: item[0]):
            centres, label, *_ = kmeans(
                values, k, seed=seed + turn, comm=MPI.COMM_SELF, max_iterations=ITERATIONS
            )
            found[k, turn] = foretelling_loss(label, index, part, k, classes), centres
    for others in comm.allgather(found):
        found |= others
    return {k: [found[k, turn] for turn in range(CLUSTERINGS)] for k in numbers}


def foretelling_loss(
    label: np.ndarray, index: np.ndarray, part: np.ndarray, k: int, classes: int
) -> float:
    """Return the mean log-loss of the classes of each half, foretold from the clusters of the other."""
    counts = np.zeros((2, k, classes))
    np.add.at(counts, (part, label, index), 1)
    loss = 0.0
    for own, other in (counts, counts[::-1]):
        likely = with_prior(other, other.sum(axis=0) / max(other.sum(), 1))
        loss -= (own[own > 0] * np.log(np.maximum(likely[own > 0], 1e-6))).sum()
    return loss / len(label)


def with_prior(counts: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the shares of the classes in clusters, [..., class], drawn to those of the map by `PRIOR`."""
    added = counts + PRIOR * share
    return added / np.maximum(added.sum(axis=-1, keepdims=True), 1e-300)


@dataclass(frozen=True)
class Table:
    """How many candidates of all ranks each polygon has in each cluster; all arrays [row].

    Attributes
    ----------
    polygon : int64
        Ascending.
    index : uint8
        Class of the polygon.
    cluster : int32
        Ascending within a polygon.
    count : int64
    clusters, classes : int
    """

    polygon: np.ndarray
    index: np.ndarray
    cluster: np.ndarray
    count: np.ndarray
    clusters: int
    classes: int

    def without(self, polygons: np.ndarray) -> Table:
        """Return the table without some polygons."""
        left = ~np.isin(self.polygon, polygons)
        columns = (getattr(self, name)[left] for name in ("polygon", "index", "cluster", "count"))
        return Table(*columns, self.clusters, self.classes)

    @property
    def by_class(self) -> np.ndarray:
        """Candidates, float64 [cluster, class]."""
        counts = np.zeros((self.clusters, self.classes))
        np.add.at(counts, (self.cluster, self.index), self.count)
        return counts

    def own(self, polygon: np.ndarray, cluster: np.ndarray) -> np.ndarray:
        """Return how many candidates of the same polygon there are in a cluster, int64 [candidate]."""
        numbers = np.unique(self.polygon)
        rows = np.searchsorted(numbers, self.polygon) * self.clusters + self.cluster
        place = np.searchsorted(numbers, polygon)
        known = place < len(numbers)
        known[known] = numbers[place[known]] == polygon[known]
        wanted = place * self.clusters + cluster
        row = np.minimum(np.searchsorted(rows, wanted), max(len(rows) - 1, 0))
        if not len(rows):
            return np.zeros(len(polygon), np.int64)
        return np.where(known & (rows[row] == wanted), self.count[row], 0)


def crosstab(label: np.ndarray, looks: Looks, clusters: int, classes: int, comm: MPI.Comm) -> Table:
    """Count the candidates of all ranks by polygon and cluster."""
    own = _count_rows(looks.polygon, looks.index, label, np.ones(len(looks), np.int64), clusters)
    parts = comm.allgather(own)
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Table(*_count_rows(*columns, clusters), clusters, classes)


def _count_rows(
    polygon: np.ndarray, index: np.ndarray, cluster: np.ndarray, count: np.ndarray, clusters: int
) -> tuple[np.ndarray, ...]:
    """Add up the counts of equal (polygon, cluster); sorted by these."""
    numbers, place = np.unique(polygon, return_inverse=True)
    of_polygon = np.zeros(len(numbers), np.uint8)
    of_polygon[place] = index
    rows, place = np.unique(place * clusters + cluster, return_inverse=True)
    added = np.zeros(len(rows), np.int64)
    np.add.at(added, place, count)
    position = rows // clusters
    return numbers[position], of_polygon[position], (rows % clusters).astype(np.int32), added


# ------------------------------------------------------------------------- polygons and scores


def wrong_polygons(tables: Sequence[Table], classes: int) -> np.ndarray:
    """Return the polygons that look like another class to all other polygons, int64.

    For each cluster that a polygon lies in, the classes of the other polygons' candidates there are its
    testimony. Classes are compared as in `scores`. A polygon that is more than half of its class is not
    judged: the others cannot know the class without it.
    """
    polygon, first = np.unique(tables[0].polygon, return_index=True)
    index = tables[0].index[first]
    fit, size = np.zeros((len(polygon), classes)), np.zeros(len(polygon))
    usual = np.zeros(classes)
    for table in tables:
        counts = table.by_class
        share = counts.sum(axis=0) / max(counts.sum(), 1)
        usual += (counts * with_prior(counts, share)).sum(axis=0) / len(tables)
        others = counts[table.cluster]
        others[np.arange(len(others)), table.index] -= table.count
        place = np.searchsorted(polygon, table.polygon)
        np.add.at(fit, place, with_prior(others, share) * table.count[:, None] / len(tables))
        np.add.at(size, place, table.count / len(tables))
    total = np.bincount(index, weights=size, minlength=classes)
    fit /= size[:, None] * np.where(total > 0, usual / np.maximum(total, 1), 1)
    own = fit[np.arange(len(fit)), index]
    fit[np.arange(len(fit)), index] = 0
    return polygon[(fit.max(axis=1, initial=0) > WRONG_POLYGON * own) & (2 * size <= total[index])]


def fits(
    tables: Sequence[Table], labels: Sequence[np.ndarray], looks: Looks, chosen: slice
) -> np.ndarray:
    """Return the share of each class among a candidate's like, float64 [candidate, class].

    These are the candidates of its cluster, those of its own polygon counted `OWN_POLYGON` times, and the
    mean is taken over the clusterings.
    """
    polygon, index = looks.polygon[chosen], looks.index[chosen]
    total = np.zeros((len(index), tables[0].classes))
    for table, label in zip(tables, labels, strict=True):
        counts, cluster = table.by_class, label[chosen]
        share = counts.sum(axis=0) / max(counts.sum(), 1)
        alike = counts[cluster]
        own = table.own(polygon, cluster)
        alike[np.arange(len(alike)), index] -= (1 - OWN_POLYGON) * own
        total += with_prior(alike, share)
    return total / len(tables)


def scores(
    tables: Sequence[Table],
    labels: Sequence[np.ndarray],
    looks: Looks,
    used: np.ndarray,
    comm: MPI.Comm,
) -> np.ndarray:
    """Return the reliability of this rank's candidates, float32 [candidate].

    A class's share is compared with the share that it usually has where the map shows it (the thresholds of
    confident learning, Northcutt et al. 2021, Journal of Artificial Intelligence Research 70): classes that
    are rare or mixed everywhere are judged by their own measure. Where a class is the most frequent one among
    a candidate's like it fits all the same, if only just; else frequent classes would lose to rare ones what is
    theirs. The score is that of the own class over
    its sum with that of the best other one.
    """
    usual = usual_shares(tables, labels, looks, used, comm)
    score = np.empty(len(looks), np.float32)
    for first in range(0, len(looks), CHUNK):
        chosen = slice(first, first + CHUNK)
        fit, index = fits(tables, labels, looks, chosen), looks.index[chosen]
        plain, relative = beside_best(fit, index), beside_best(fit / usual, index)
        score[chosen] = np.where(plain > 0.5, np.maximum(relative, JUST_FITS), relative)
    return score


def beside_best(fit: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return how the own class fits beside the best other one, 0..1, float64 [candidate].

    Parameters
    ----------
    fit : ndarray[candidate, class]
        At least 0.
    index : ndarray[candidate]
        The own class.
    """
    rows = np.arange(len(fit)), index
    others = fit.copy()
    others[rows] = 0
    return fit[rows] / np.maximum(fit[rows] + others.max(axis=1), 1e-300)


def usual_shares(
    tables: Sequence[Table],
    labels: Sequence[np.ndarray],
    looks: Looks,
    used: np.ndarray,
    comm: MPI.Comm,
) -> np.ndarray:
    """Return the mean share of a class among its own candidates' like, float64 [class]; 1 where none."""
    one = 2.0**30
    added = np.zeros((2, tables[0].classes), np.int64)
    for first in range(0, len(looks), CHUNK):
        chosen = slice(first, first + CHUNK)
        index, fit = looks.index[chosen], fits(tables, labels, looks, chosen)
        whole = np.rint(fit[np.arange(len(fit)), index] * one).astype(np.int64)
        np.add.at(added[0], index[used[chosen]], whole[used[chosen]])
        np.add.at(added[1], index[used[chosen]], 1)
    total = np.empty_like(added)
    comm.Allreduce(added, total)
    return np.where(total[0] > 0, total[0] / np.maximum(total[1], 1) / one, 1.0)


# --------------------------------------------------------------------------------- what is kept


def most_reliable(
    score: np.ndarray,
    left: np.ndarray,
    cluster: np.ndarray,
    pool: Pool,
    classes: int,
    keep: float,
    comm: MPI.Comm,
) -> np.ndarray:
    """Choose the most reliable of those that are left, bool [candidate].

    At most a share `keep` of all candidates, over all classes; but of every class at least `LEAST_OF_CLASS`
    of this share of what is left of it, and of every cluster in a class `LEAST_OF_CLUSTER` of the class's share, so
    that what is rare, in the landscape or in its class, survives.
    """
    number = ranking(score, pool)
    clusters = comm.allreduce(int(cluster.max(initial=0)), op=MPI.MAX) + 1
    everything = np.zeros(len(pool), np.int64)
    group = pool.index.astype(np.int64) * clusters + cluster
    most = np.array([int(keep * comm.allreduce(len(pool)))])
    best = left & highest(number, everything, most, comm, left)
    sizes = total_count(group[left], classes * clusters, comm).reshape(classes, clusters)
    of_class = sizes.sum(axis=1)
    wanted = total_count(pool.index[best], classes, comm)
    wanted = np.maximum(wanted, np.ceil(LEAST_OF_CLASS * keep * of_class).astype(np.int64))
    wanted = np.maximum(wanted, np.minimum(fewest(pool, classes, comm), of_class))
    share = wanted / np.maximum(of_class, 1)
    floor = np.ceil(LEAST_OF_CLUSTER * share[:, None] * sizes).astype(np.int64)
    chosen = highest(number, group, floor.ravel(), comm, left)
    rest = np.maximum(wanted - total_count(pool.index[chosen], classes, comm), 0)
    return chosen | highest(number, pool.index.astype(np.int64), rest, comm, left & ~chosen)


def least_kept(
    score: np.ndarray,
    left: np.ndarray,
    among: np.ndarray,
    pool: Pool,
    classes: int,
    comm: MPI.Comm,
) -> np.ndarray:
    """Choose the best of what looks like another class where too little of a class is left, bool [candidate].

    Parameters
    ----------
    left, among : ndarray[candidate], bool
        What is left, and what may be chosen besides.
    """
    index = pool.index.astype(np.int64)
    wanted = fewest(pool, classes, comm) - total_count(index[left], classes, comm)
    return highest(ranking(score, pool), index, np.maximum(wanted, 0), comm, among)


def fewest(pool: Pool, classes: int, comm: MPI.Comm) -> np.ndarray:
    """Return how many of its candidates a class keeps at least, int64 [class]."""
    return np.ceil(LEAST_KEPT * total_count(pool.index, classes, comm)).astype(np.int64)


def ranking(score: np.ndarray, pool: Pool) -> np.ndarray:
    """Return numbers whose order is that of reliability, uint32 [candidate].

    Of equal scores (to 2^-16) the candidate farther from the border comes first, then chance decides.
    """
    first = np.minimum(score * 65536, 65535).astype(np.uint32) << np.uint32(16)
    second = np.minimum(pool.border, 63).astype(np.uint32) << np.uint32(10)
    return first | second | (pool.key >> np.uint64(54)).astype(np.uint32)


def total_count(group: np.ndarray, groups: int, comm: MPI.Comm) -> np.ndarray:
    """Return how many of all ranks' candidates are in each group, int64 [group]."""
    total = np.empty(groups, np.int64)
    comm.Allreduce(np.bincount(group, minlength=groups).astype(np.int64), total)
    return total


def highest(
    number: np.ndarray,
    group: np.ndarray,
    wanted: np.ndarray,
    comm: MPI.Comm,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Choose, of all ranks' candidates, those with the highest numbers of each group, bool [candidate].

    Digit by digit, so that only counts travel. Equal numbers at the limit are left out.

    Parameters
    ----------
    number : ndarray[candidate], uint32
    group : ndarray[candidate], int64
    wanted : ndarray[group], int64
        How many of each group.
    among : ndarray[candidate], bool, optional
        Those that may be chosen; None: all.
    """
    chosen = np.zeros(len(number), bool)
    open_ = np.ones(len(number), bool) if among is None else among.copy()
    wanted = wanted.astype(np.int64)
    for shift in (22, 11, 0):
        digit = ((number >> np.uint32(shift)) & np.uint32(2047)).astype(np.int64)
        count = total_count(group[open_] * 2048 + digit[open_], len(wanted) * 2048, comm)
        at_least = count.reshape(-1, 2048)[:, ::-1].cumsum(axis=1)[:, ::-1]
        least = 2048 - (at_least <= wanted[:, None]).sum(axis=1)  # least digit that fits in whole
        chosen |= open_ & (digit >= least[group])
        fitting = np.concatenate([at_least, np.zeros((len(wanted), 1), np.int64)], axis=1)
        wanted = wanted - fitting[np.arange(len(wanted)), least]
        open_ &= digit == least[group] - 1
    return chosen
