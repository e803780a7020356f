"""Kernels of k-means: nearest centres with bounds that spare distances, exact sums, draws.

Each `def` takes prepared arrays, writes into arrays that the caller allocated and checks nothing;
`lcu.sample.kmeans` holds the documented function. Every sample is computed on its own and all sums are
integers, so nothing depends on threads or on how the samples are shared out.
"""

from cython cimport floating
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int32_t, int64_t, uint64_t

# Samples whose distances are computed together. The number is also known to the C code below.
cdef enum:
    BATCH = 32

# Samples that a thread takes at a time; those that need distances are then taken in batches.
cdef enum:
    BLOCK = 1024

# From so many centres on, one distance more from the own centre spares enough of the others.
cdef enum:
    TIGHTEN = 16

cdef extern from *:
    """
    #include <float.h>
    #include <math.h>
    #include <stdint.h>
    #include <string.h>

    #define LCU_BATCH 32
    #define LCU_LIMB 268435456.0            /* 2^28 */
    #define LCU_MAGIC 6755399441055744.0    /* 1.5 * 2^52 */
    #define LCU_INLINE static inline __attribute__((always_inline))
    #define LCU_UNROLL _Pragma("GCC unroll 8")

    /* One build for every x86-64: the loader picks the version for the processor at hand. The levels 3 and 4
       of the architecture have fused multiplication and addition (level 3: Haswell, Zen). */
    #if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__linux__)
    #define LCU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
    #else
    #define LCU_CLONES
    #endif

    LCU_INLINE int64_t lcu_bits(double value) {
        int64_t bits;
        memcpy(&bits, &value, sizeof(bits));
        return bits;
    }

    /* Add a number of at most 2^28 to two integers: rounded, and the rest in units of 2^-28. */
    LCU_INLINE void lcu_split(double value, int64_t *high, int64_t *low) {
        double whole = value + LCU_MAGIC;
        double rest = (value - (whole - LCU_MAGIC)) * LCU_LIMB + LCU_MAGIC;
        *high += lcu_bits(whole) - lcu_bits(LCU_MAGIC);
        *low += lcu_bits(rest) - lcu_bits(LCU_MAGIC);
    }

    #define LCU_REAL float
    #define LCU_INTEGER int32_t
    #define LCU_LACE_LOWER {0, 8, 1, 9, 2, 10, 3, 11}
    #define LCU_LACE_UPPER {4, 12, 5, 13, 6, 14, 7, 15}
    #define LCU_NAME(name) name##_float
    #define LCU_FMA __builtin_fmaf
    #define LCU_SQRT sqrtf
    #define LCU_MOST FLT_MAX
    #include "kmeans.h"
    #undef LCU_REAL
    #undef LCU_INTEGER
    #undef LCU_LACE_LOWER
    #undef LCU_LACE_UPPER
    #undef LCU_NAME
    #undef LCU_FMA
    #undef LCU_SQRT
    #undef LCU_MOST
    #define LCU_REAL double
    #define LCU_INTEGER int64_t
    #define LCU_LACE_LOWER {0, 4, 1, 5}
    #define LCU_LACE_UPPER {2, 6, 3, 7}
    #define LCU_NAME(name) name##_double
    #define LCU_FMA __builtin_fma
    #define LCU_SQRT sqrt
    #define LCU_MOST DBL_MAX
    #include "kmeans.h"
    """
    void lcu_split(double value, int64_t* high, int64_t* low) noexcept nogil
    void lcu_nearest_float(
        const float** rows, const float* packed, long centres, long features, int32_t first,
        float* best, float* second, int32_t* nearest, int fetch
    ) noexcept nogil
    void lcu_nearest_double(
        const double** rows, const double* packed, long centres, long features, int32_t first,
        double* best, double* second, int32_t* nearest, int fetch
    ) noexcept nogil
    float lcu_apart_float(const float* x, const float* c, long features) noexcept nogil
    double lcu_apart_double(const double* x, const double* c, long features) noexcept nogil
    void lcu_add_float(
        const float* x, long features, const double* scale, double share, int64_t* sums
    ) noexcept nogil
    void lcu_add_double(
        const double* x, long features, const double* scale, double share, int64_t* sums
    ) noexcept nogil
    void lcu_move_float(
        const float* x, long features, const double* scale, double share, int64_t* origin, int64_t* target
    ) noexcept nogil
    void lcu_bounds_float(float* best, float* second, float slack, float tiny) noexcept nogil
    void lcu_largest_float(const float* x, long features, float* largest) noexcept nogil
    void lcu_move_double(
        const double* x, long features, const double* scale, double share, int64_t* origin, int64_t* target
    ) noexcept nogil
    void lcu_bounds_double(double* best, double* second, double slack, double tiny) noexcept nogil
    void lcu_largest_double(const double* x, long features, double* largest) noexcept nogil
    double lcu_squared_float(const float* x, const float* c, long features) noexcept nogil
    double lcu_squared_double(const double* x, const double* c, long features) noexcept nogil


cdef inline void find_nearest(
    const floating[:, ::1] values,     # IN     [sample, feature]
    const floating[:, :, ::1] packed,  # IN     [group, feature, lane]
    Py_ssize_t centres,
    int32_t first,
    const Py_ssize_t* places,          # IN     [count], the samples and those of the next batches
    Py_ssize_t count,                  # at least 1
    floating* best,                    # INOUT  [BATCH]
    floating* second,                  # INOUT  [BATCH]
    int32_t* nearest,                  # INOUT  [BATCH]
) noexcept nogil:
    """Find the nearest centres of a batch; where it is not full the last sample stands in."""
    cdef const floating* rows[2 * BATCH]
    cdef Py_ssize_t s
    # The processor itself fetches rows that follow each other in good time, where each is used but once.
    cdef bint fetch = centres > 8 or places[min(2 * BATCH, count) - 1] - places[0] >= 2 * BATCH
    for s in range(2 * BATCH):
        rows[s] = &values[places[min(s, count - 1)], 0]
    if floating is float:
        lcu_nearest_float(
            rows, &packed[0, 0, 0], centres, values.shape[1], first, best, second, nearest, fetch
        )
    else:
        lcu_nearest_double(
            rows, &packed[0, 0, 0], centres, values.shape[1], first, best, second, nearest, fetch
        )


cdef inline void add(
    const floating[:, ::1] values,  # IN  [sample, feature]
    Py_ssize_t sample,
    const double[::1] scale,        # IN  [feature]
    double share,
    int64_t* sums,                  # INOUT  [2][feature + 1]
) noexcept nogil:
    if floating is float:
        lcu_add_float(&values[sample, 0], values.shape[1], &scale[0], share, sums)
    else:
        lcu_add_double(&values[sample, 0], values.shape[1], &scale[0], share, sums)


cdef inline void move(
    const floating[:, ::1] values,  # IN  [sample, feature]
    Py_ssize_t sample,
    const double[::1] scale,        # IN  [feature]
    double share,
    int64_t* origin,                # INOUT  [2][feature + 1]
    int64_t* target,                # INOUT  [2][feature + 1]
) noexcept nogil:
    if floating is float:
        lcu_move_float(&values[sample, 0], values.shape[1], &scale[0], share, origin, target)
    else:
        lcu_move_double(&values[sample, 0], values.shape[1], &scale[0], share, origin, target)


cdef inline double share_of(const double[::1] weights, Py_ssize_t sample, double unit) noexcept nogil:
    """Return a sample's weight in units; weights may be empty, then each is 1."""
    return weights[sample] * unit if weights.shape[0] else unit


# ------------------------------------------------------------------------------- Lloyd iterations


cdef Py_ssize_t still_open(
    Py_ssize_t start,
    Py_ssize_t stop,
    const floating[::1] drift,  # IN     [centre]
    const floating[::1] reach,  # IN     [centre]
    const floating[::1] half,   # IN     [centre]
    floating slack,
    floating tiny,
    const int32_t[::1] labels,  # IN     [sample]
    floating[::1] upper,        # INOUT  [sample]
    floating[::1] lower,        # INOUT  [sample]
    Py_ssize_t* places,         # OUT    [BLOCK]
) noexcept nogil:
    """Move the bounds by what the centres moved; list the samples whose nearest centre may be another."""
    cdef Py_ssize_t sample, count = 0
    cdef int32_t label
    cdef floating near, far
    cdef floating more = 1 + slack, less = 1 - slack
    for sample in range(start, stop):
        label = labels[sample]
        near = (upper[sample] + drift[label]) * more
        far = (lower[sample] - reach[label]) * less
        upper[sample] = near
        lower[sample] = far
        places[count] = sample
        count += not (near * more + tiny < max(far, half[label]))
    return count


cdef Py_ssize_t tighten(
    const floating[:, ::1] values,   # IN     [sample, feature]
    const floating[:, ::1] centres,  # IN     [centre, feature]
    const floating[::1] half,        # IN     [centre]
    floating slack,
    floating tiny,
    const int32_t[::1] labels,       # IN     [sample]
    floating[::1] upper,             # INOUT  [sample]
    const floating[::1] lower,       # IN     [sample]
    Py_ssize_t* places,              # INOUT  [count]
    Py_ssize_t count,
) noexcept nogil:
    """Compute the distances from the own centres; list the samples that are still open then."""
    cdef Py_ssize_t number, sample, left = 0
    cdef floating near
    cdef int32_t label
    for number in range(count):
        sample = places[number]
        label = labels[sample]
        if floating is float:
            near = lcu_apart_float(&values[sample, 0], &centres[label, 0], values.shape[1])
        else:
            near = lcu_apart_double(&values[sample, 0], &centres[label, 0], values.shape[1])
        near = <floating>sqrt(near) * (1 + slack) + tiny
        upper[sample] = near
        places[left] = sample
        left += not (near * (1 + slack) + tiny < max(lower[sample], half[label]))
    return left


cdef Py_ssize_t assign_open(
    const floating[:, ::1] values,     # IN     [sample, feature]
    const double[::1] weights,         # IN     [sample] or empty
    const floating[:, :, ::1] packed,  # IN     [group, feature, lane]
    Py_ssize_t centres,
    const double[::1] scale,           # IN     [feature]
    double unit,
    floating slack,
    floating tiny,
    const Py_ssize_t* places,          # IN     [count]
    Py_ssize_t count,
    int32_t[::1] labels,               # INOUT  [sample]
    floating[::1] upper,               # OUT    [sample]
    floating[::1] lower,               # OUT    [sample]
    int64_t* sums,                     # INOUT  [centre][2][feature + 1]
) noexcept nogil:
    """Compute all distances of the listed samples, keep the sums up to date; return how many moved."""
    cdef Py_ssize_t number, start, s, sample, here, moved = 0, width = 2 * (values.shape[1] + 1)
    cdef floating best[BATCH]
    cdef floating second[BATCH]
    cdef int32_t nearest[BATCH]
    cdef double share
    for number in range((count + BATCH - 1) // BATCH):
        start = number * BATCH
        here = min(count - start, <Py_ssize_t>BATCH)
        for s in range(BATCH):
            best[s] = INFINITY
            second[s] = INFINITY
            nearest[s] = 0
        find_nearest(values, packed, centres, 0, places + start, count - start, best, second, nearest)
        if floating is float:
            lcu_bounds_float(best, second, slack, tiny)
        else:
            lcu_bounds_double(best, second, slack, tiny)
        for s in range(here):
            sample = places[start + s]
            upper[sample] = best[s]
            lower[sample] = second[s]
            if labels[sample] == nearest[s]:
                continue
            share = share_of(weights, sample, unit)
            if labels[sample] < 0:
                add(values, sample, scale, share, sums + nearest[s] * width)
            else:
                move(values, sample, scale, share, sums + labels[sample] * width, sums + nearest[s] * width)
            labels[sample] = nearest[s]
            moved += 1
    return moved


def assign(
    const floating[:, ::1] values,
    const double[::1] weights,
    const floating[:, :, ::1] packed,
    const floating[:, ::1] centres,
    const floating[::1] drift,
    const floating[::1] reach,
    const floating[::1] half,
    floating slack,
    floating tiny,
    const double[::1] scale,
    double unit,
    int32_t[::1] labels,
    floating[::1] upper,
    floating[::1] lower,
    int64_t[:, :, :, ::1] sums,
    int threads,
):
    """Label every sample by its nearest centre, keep the clusters' sums; return how many moved.

    sums [thread, centre, 2, feature + 1]: the sum over the threads, of both parts, is the cluster's.

    A sample whose bounds (Hamerly 2010) show that no computed distance can be below the one from its own
    centre is left alone: `upper` from its centre, `lower` from all others; since they were set the centres
    moved by `drift`, and the farthest moving of the others by `reach`; `half` the way to the nearest other
    centre. `slack` covers the rounding of the distances and of the bounds, so that the labels are those of
    all distances computed. Labels -1: never labelled.
    """
    cdef Py_ssize_t block, samples = values.shape[0], moved = 0
    for block in prange(
        (samples + BLOCK - 1) // BLOCK, nogil=True, num_threads=threads, schedule="dynamic", chunksize=4
    ):
        moved += assign_block(
            values, weights, packed, centres, drift, reach, half, slack, tiny, scale, unit,
            block * BLOCK, min(samples, (block + 1) * BLOCK), labels, upper, lower,
            &sums[threadid(), 0, 0, 0]
        )
    return moved


cdef Py_ssize_t assign_block(
    const floating[:, ::1] values,
    const double[::1] weights,
    const floating[:, :, ::1] packed,
    const floating[:, ::1] centres,
    const floating[::1] drift,
    const floating[::1] reach,
    const floating[::1] half,
    floating slack,
    floating tiny,
    const double[::1] scale,
    double unit,
    Py_ssize_t start,
    Py_ssize_t stop,
    int32_t[::1] labels,
    floating[::1] upper,
    floating[::1] lower,
    int64_t* sums,
) noexcept nogil:
    """Do what `assign` does for at most BLOCK samples."""
    cdef Py_ssize_t places[BLOCK]
    cdef Py_ssize_t s, count
    if labels[start] < 0:
        count = stop - start
        for s in range(count):
            places[s] = start + s
    else:
        count = still_open(
            start, stop, drift, reach, half, slack, tiny, labels, upper, lower, places
        )
        if centres.shape[0] >= TIGHTEN:
            count = tighten(values, centres, half, slack, tiny, labels, upper, lower, places, count)
    return assign_open(
        values, weights, packed, centres.shape[0], scale, unit, slack, tiny, places, count, labels, upper, lower, sums
    )


def half_way(const floating[:, ::1] centres, double[::1] half):
    """Give for each centre half the distance to its nearest other one; infinity where there is none."""
    cdef Py_ssize_t one, other
    cdef double squared
    with nogil:
        for one in range(centres.shape[0]):
            half[one] = INFINITY
        for one in range(centres.shape[0]):
            for other in range(one):
                squared = squared_distance(centres, one, centres, other)
                half[one] = min(half[one], squared)
                half[other] = min(half[other], squared)
        for one in range(centres.shape[0]):
            half[one] = sqrt(half[one]) / 2


# ------------------------------------------------------------------------- sums over all samples


cdef inline double squared_distance(
    const floating[:, ::1] values, Py_ssize_t sample, const floating[:, ::1] centres, Py_ssize_t centre
) noexcept nogil:
    if floating is float:
        return lcu_squared_float(&values[sample, 0], &centres[centre, 0], values.shape[1])
    else:
        return lcu_squared_double(&values[sample, 0], &centres[centre, 0], values.shape[1])


def squared_distances(
    const floating[:, ::1] values,
    const floating[:, ::1] centres,
    const int32_t[::1] labels,
    double[::1] squared,
    int threads,
):
    """Squared distance of every sample from its own centre, in double precision."""
    cdef Py_ssize_t sample
    for sample in prange(values.shape[0], nogil=True, num_threads=threads, schedule="static"):
        squared[sample] = squared_distance(values, sample, centres, labels[sample])


def largest(const floating[:, ::1] values, floating[:, ::1] sizes, int threads):
    """Raise sizes [thread, feature] to the largest absolute value; infinity where one is no number."""
    cdef Py_ssize_t sample, features = values.shape[1]
    for sample in prange(values.shape[0], nogil=True, num_threads=threads, schedule="static"):
        if floating is float:
            lcu_largest_float(&values[sample, 0], features, &sizes[threadid(), 0])
        else:
            lcu_largest_double(&values[sample, 0], features, &sizes[threadid(), 0])


def add_samples(const floating[:, ::1] values, const double[::1] scale, double unit, int64_t[:, ::1] sums):
    """Add all samples, each with weight 1, to sums [2, feature + 1]."""
    cdef Py_ssize_t sample
    with nogil:
        for sample in range(values.shape[0]):
            add(values, sample, scale, unit, &sums[0, 0])


def largest_term(const floating[::1] squared, const double[::1] weights, double unit):
    """Return the largest product of a weight and a squared distance."""
    cdef Py_ssize_t sample
    cdef double most = 0
    with nogil:
        for sample in range(squared.shape[0]):
            most = max(most, share_of(weights, sample, unit) * squared[sample])
    return most


def largest_bound(const floating[::1] upper, const double[::1] weights, double unit):
    """Return the largest product of a weight and a bound squared."""
    cdef Py_ssize_t sample
    cdef double most = 0
    with nogil:
        for sample in range(upper.shape[0]):
            most = max(most, share_of(weights, sample, unit) * upper[sample] * upper[sample])
    return most


def add_terms(
    const floating[::1] squared, const double[::1] weights, double unit, double scale, int64_t[::1] sums
):
    """Add the products of weights and squared distances, times `scale`, to sums [2], exactly."""
    cdef Py_ssize_t sample
    with nogil:
        for sample in range(squared.shape[0]):
            lcu_split(share_of(weights, sample, unit) * squared[sample] * scale, &sums[0], &sums[1])


def find_term(
    const floating[::1] squared, const double[::1] weights, double unit, double scale, int64_t target
):
    """Return the first sample up to which the terms' high parts add up to more than `target`."""
    cdef Py_ssize_t sample
    cdef int64_t total = 0, rest = 0
    for sample in range(squared.shape[0]):
        lcu_split(share_of(weights, sample, unit) * squared[sample] * scale, &total, &rest)
        if total > target:
            return sample
    raise AssertionError("the terms are fewer than their total")


def add_weights(const int32_t[::1] labels, const double[::1] weights, double unit, int64_t[:, ::1] sums):
    """Add each sample's weight to sums [label, 2]."""
    cdef Py_ssize_t sample
    with nogil:
        for sample in range(labels.shape[0]):
            lcu_split(
                share_of(weights, sample, unit), &sums[labels[sample], 0], &sums[labels[sample], 1]
            )


# ------------------------------------------------------------------------------------- seeding


def approach(
    const floating[:, ::1] values,
    const floating[:, :, ::1] packed,
    Py_ssize_t centres,
    int32_t first,
    floating[::1] squared,
    int32_t[::1] labels,
    int threads,
):
    """Lower `squared` to the squared distances from more centres, numbered from `first`; label so."""
    cdef Py_ssize_t batch, samples = values.shape[0]
    for batch in prange(
        (samples + BATCH - 1) // BATCH, nogil=True, num_threads=threads, schedule="static"
    ):
        approach_batch(
            values, packed, centres, first, batch * BATCH, squared, labels
        )


cdef void approach_batch(
    const floating[:, ::1] values,
    const floating[:, :, ::1] packed,
    Py_ssize_t centres,
    int32_t first,
    Py_ssize_t start,
    floating[::1] squared,
    int32_t[::1] labels,
) noexcept nogil:
    cdef floating best[BATCH]
    cdef floating second[BATCH]
    cdef int32_t nearest[BATCH]
    cdef Py_ssize_t places[2 * BATCH]
    cdef Py_ssize_t s, here = min(<Py_ssize_t>BATCH, values.shape[0] - start)
    for s in range(2 * BATCH):
        places[s] = min(start + s, values.shape[0] - 1)
    for s in range(BATCH):
        best[s] = squared[places[s]]
        second[s] = INFINITY
        nearest[s] = labels[places[s]]
    find_nearest(values, packed, centres, first, places, 2 * BATCH, best, second, nearest)
    for s in range(here):
        squared[start + s] = best[s]
        labels[start + s] = nearest[s]


cdef inline uint64_t mix(uint64_t value) noexcept nogil:
    """Scramble a number (SplitMix64's finaliser, Steele et al. 2014), as lcu.sample.draw.mix."""
    value += <uint64_t>0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EB
    return value ^ (value >> 31)


def choose(
    const floating[::1] squared,
    const double[::1] weights,
    double unit,
    double factor,
    uint64_t key,
    uint64_t first,
):
    """Return the samples whose number in [0, 1) is below weight * squared distance * factor.

    The number is computed from `key` and the sample's position among all, of which `first` is that
    of the first here.
    """
    cdef Py_ssize_t sample
    cdef double number
    chosen = []
    for sample in range(squared.shape[0]):
        number = <double>(mix(key ^ (first + <uint64_t>sample)) >> 11) * 2.0**-53
        if number < share_of(weights, sample, unit) * squared[sample] * factor:
            chosen.append(sample)
    return chosen
