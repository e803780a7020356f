"""Kernels of the composite stage: composites over time, gap filling, Euclidean buffers.

Each `def` takes prepared arrays, writes into arrays that the caller allocated and checks nothing;
`lcu.composite` holds the documented functions. Loops run over rows, so that threads share no output.
"""

from cython.parallel cimport parallel, prange
from libc.math cimport floor, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from libc.stdlib cimport calloc, free

import numpy as np


# Pixels that are sorted at once: one row of them per time stays in the first-level cache up to about
# 100 times. The number is also known to the C code below, whose loops are unrolled for it.
cdef enum:
    STRIP = 128

# Pixels that the geometric median moves together. They wait for the slowest of them: with 128 it ran
# at half the speed of 32.
cdef enum:
    LANES = 32

cdef extern from *:
    """
    #include <stdint.h>

    #define LCU_STRIP 128
    #define LCU_LANES 32

    /* One build for every x86-64: the loader picks the version for the processor at hand. */
    #if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
    #define LCU_CLONES __attribute__((target_clones("arch=skylake-avx512", "avx2", "sse4.1", "default")))
    #else
    #define LCU_CLONES
    #endif

    /* Sort the columns of rows [time][LCU_STRIP] by a network: each step orders two rows, element by
       element, with one minimum and one maximum, and no branch. */
    LCU_CLONES
    void lcu_sort_columns(uint16_t *restrict rows, const int32_t *restrict steps, long count) {
        for (long step = 0; step < count; ++step) {
            uint16_t *restrict low = rows + (long)steps[2 * step] * LCU_STRIP;
            uint16_t *restrict high = rows + (long)steps[2 * step + 1] * LCU_STRIP;
            for (int x = 0; x < LCU_STRIP; ++x) {
                uint16_t one = low[x], other = high[x];
                low[x] = one < other ? one : other;
                high[x] = one < other ? other : one;
            }
        }
    }

    /* Put one time of one band into a row; what does not count becomes the largest value. */
    LCU_CLONES
    void lcu_load_row(uint16_t *restrict row, const uint16_t *restrict values,
                      const uint16_t *restrict missing, long width) {
        for (long x = 0; x < width; ++x) row[x] = values[x] | missing[x];
    }

    #include <math.h>

    /* One Weiszfeld iteration with the step of Vardi and Zhang for a few pixels side by side (PNAS 97, 2000):
       x [time][band][lane], used [time][lane] 0 or 1, y [band][lane] moves towards the median,
       scratch [band + 5][lane]. A pixel whose step was below the tolerance stays where it is.
       Every pixel has its own lane and its own order of sums: nothing depends on its neighbours.
       Returns how many pixels still move. */
    LCU_CLONES
    int lcu_weiszfeld_step(const float *restrict x, const float *restrict used, float *restrict y,
                           float *restrict scratch, long times, long bands, float tolerance) {
        float *restrict total = scratch;
        float *restrict weights = scratch + bands * LCU_LANES;
        float *restrict atop = weights + LCU_LANES;
        float *restrict weight = atop + LCU_LANES;
        float *restrict length = weight + LCU_LANES;
        float *restrict done = length + LCU_LANES;
        int moving = 0;
        for (long i = 0; i < bands * LCU_LANES; ++i) total[i] = 0;
        for (int p = 0; p < LCU_LANES; ++p) { weights[p] = 0; atop[p] = 0; }
        for (long t = 0; t < times; ++t) {
            const float *restrict own = x + t * bands * LCU_LANES;
            for (int p = 0; p < LCU_LANES; ++p) weight[p] = 0;
            for (long b = 0; b < bands; ++b)
                for (int p = 0; p < LCU_LANES; ++p) {
                    float d = own[b * LCU_LANES + p] - y[b * LCU_LANES + p];
                    weight[p] += d * d;
                }
            for (int p = 0; p < LCU_LANES; ++p) {
                float d = sqrtf(weight[p]);
                float far = d > 1e-7f ? used[t * LCU_LANES + p] : 0.0f;
                weight[p] = far / (d > 1e-7f ? d : 1.0f);
                weights[p] += weight[p];
                atop[p] += used[t * LCU_LANES + p] - far;
            }
            for (long b = 0; b < bands; ++b)
                for (int p = 0; p < LCU_LANES; ++p)
                    total[b * LCU_LANES + p] += weight[p] * own[b * LCU_LANES + p];
        }
        for (int p = 0; p < LCU_LANES; ++p) length[p] = 0;
        for (long b = 0; b < bands; ++b)
            for (int p = 0; p < LCU_LANES; ++p) {
                float pull = weights[p] > 0 ? total[b * LCU_LANES + p] / weights[p] - y[b * LCU_LANES + p] : 0.0f;
                total[b * LCU_LANES + p] = pull;
                length[p] += pull * pull;
            }
        for (int p = 0; p < LCU_LANES; ++p) {
            float r = sqrtf(length[p]);
            float held = r > 0 ? atop[p] / (r * weights[p]) : 0.0f;
            float part = held < 1.0f ? 1.0f - held : 0.0f;
            part = done[p] > 0 ? 0.0f : part;
            weight[p] = part;
            done[p] = part * r < tolerance ? 1.0f : 0.0f;
            moving += done[p] > 0 ? 0 : 1;
        }
        for (long b = 0; b < bands; ++b)
            for (int p = 0; p < LCU_LANES; ++p)
                y[b * LCU_LANES + p] += weight[p] * total[b * LCU_LANES + p];
        return moving;
    }

    /* For each pixel the sum of the distances from observation `one` to all others, [lane]. */
    LCU_CLONES
    void lcu_distance_sum(const float *restrict x, const float *restrict used, float *restrict sum,
                          float *restrict squared, long times, long bands, long one) {
        const float *restrict own = x + one * bands * LCU_LANES;
        for (int p = 0; p < LCU_LANES; ++p) sum[p] = 0;
        for (long t = 0; t < times; ++t) {
            const float *restrict other = x + t * bands * LCU_LANES;
            for (int p = 0; p < LCU_LANES; ++p) squared[p] = 0;
            for (long b = 0; b < bands; ++b)
                for (int p = 0; p < LCU_LANES; ++p) {
                    float d = own[b * LCU_LANES + p] - other[b * LCU_LANES + p];
                    squared[p] += d * d;
                }
            for (int p = 0; p < LCU_LANES; ++p) sum[p] += used[t * LCU_LANES + p] * sqrtf(squared[p]);
        }
    }
    """
    int lcu_weiszfeld_step(
        const float* x, const float* used, float* y, float* scratch, long times, long bands, float tolerance
    ) noexcept nogil
    void lcu_distance_sum(
        const float* x, const float* used, float* sum, float* squared, long times, long bands, long one
    ) noexcept nogil
    void lcu_sort_columns(uint16_t* rows, const int32_t* steps, long count) noexcept nogil
    void lcu_load_row(uint16_t* row, const uint16_t* values, const uint16_t* missing, long width) noexcept nogil


def median_network(int times):
    """Return the steps, int32 [step, 2], that bring the lower half of `times` values into order.

    Batcher's odd-even merge sort (1968) for the next power of two, without the steps that touch a
    value beyond `times` (those are larger than all others, and stay where they are) and without those
    that no position up to times // 2, the highest that a median can come from, depends on.
    """
    steps = []
    size = 1
    while size < times:
        size *= 2
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p) and i + j + k < times:
                        steps.append((i + j, i + j + k))
            k //= 2
        p *= 2
    needed = set(range(times // 2 + 1))
    kept = []
    for low, high in reversed(steps):
        if low in needed or high in needed:
            kept.append((low, high))
            needed.update((low, high))
    return np.array(kept[::-1], dtype=np.int32).reshape(-1, 2)


cdef int find_missing(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    Py_ssize_t y,
    Py_ssize_t start,
    Py_ssize_t width,
    Py_ssize_t stride,
    uint16_t* missing,                         # OUT  [time][stride], 65535 where it does not count
    int* counts,                               # OUT  [width]
) noexcept nogil:
    """Tell which observations count; return the most of any pixel."""
    cdef Py_ssize_t time, band, x
    cdef uint16_t* row
    cdef int most = 0
    for x in range(width):
        counts[x] = 0
    for time in range(reflectance.shape[0]):
        row = missing + time * stride
        for x in range(width):
            row[x] = 0 if clear[time, y, start + x] else 65535
        for band in range(reflectance.shape[1]):
            for x in range(width):
                row[x] |= 0 if reflectance[time, band, y, start + x] else 65535
        for x in range(width):
            counts[x] += row[x] == 0
    for x in range(width):
        most = max(most, counts[x])
    return most


cdef void median_of_strip(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    const int32_t[:, ::1] steps,               # IN   [step, 2]
    uint16_t[:, :, ::1] values,                # OUT  [band, y, x]
    uint8_t[:, ::1] counts,                    # OUT  [y, x]
    Py_ssize_t y,
    Py_ssize_t start,
    uint16_t* scratch,                         # scratch [2][time][STRIP]
) noexcept nogil:
    cdef Py_ssize_t times = reflectance.shape[0], bands = reflectance.shape[1]
    cdef Py_ssize_t width = min(<Py_ssize_t>STRIP, reflectance.shape[3] - start)
    cdef Py_ssize_t time, band, x
    cdef int number[STRIP]
    cdef uint16_t* missing = scratch
    cdef uint16_t* rows = scratch + times * STRIP
    cdef int32_t lower, upper
    cdef int most = find_missing(reflectance, clear, y, start, width, STRIP, missing, number)
    for x in range(width):
        counts[y, start + x] = <uint8_t>min(number[x], 255)
    if most == 0:
        for band in range(bands):
            for x in range(width):
                values[band, y, start + x] = 0
        return
    for band in range(bands):
        for time in range(times):
            lcu_load_row(rows + time * STRIP, &reflectance[time, band, y, start], missing + time * STRIP, width)
        lcu_sort_columns(rows, &steps[0, 0] if steps.shape[0] else NULL, steps.shape[0])
        for x in range(width):
            if number[x] == 0:
                values[band, y, start + x] = 0
                continue
            lower = rows[((number[x] - 1) // 2) * STRIP + x]
            upper = rows[(number[x] // 2) * STRIP + x]
            values[band, y, start + x] = <uint16_t>((lower + upper + 1) // 2)


def median(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    int threads,
):
    """Median over time of the clear and whole observations of each pixel."""
    cdef Py_ssize_t y, strip, times = reflectance.shape[0], width = reflectance.shape[3]
    cdef Py_ssize_t strips = (width + STRIP - 1) // STRIP
    cdef const int32_t[:, ::1] steps = median_network(times)
    cdef uint16_t* scratch
    if times == 0:
        return
    with nogil, parallel(num_threads=threads):
        scratch = <uint16_t*>calloc(2 * times * STRIP, sizeof(uint16_t))
        for y in prange(reflectance.shape[2], schedule="dynamic", chunksize=8):
            for strip in range(strips):
                median_of_strip(reflectance, clear, steps, values, counts, y, strip * STRIP, scratch)
        free(scratch)


# --- geometric median and medoid: observations as vectors of all bands --------------------------


cdef struct Strip:
    Py_ssize_t width    # pixels that are really there
    int count           # times that count for some pixel
    int number[LANES]   # observations that count, of each pixel
    float* vectors      # [count][band][LANES], reflectance 0..6.5535
    float* used         # [count][LANES], 0 or 1
    float* point        # [band][LANES]
    float* work         # [band + 5][LANES]
    uint16_t* missing   # [time][LANES]
    int* chosen         # [count], the time of each


cdef int load_vectors(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint16_t* missing,                   # IN   [time][LANES], 65535 where it does not count
    Py_ssize_t y,
    Py_ssize_t start,
    Py_ssize_t width,
    float* vectors,                            # OUT  [chosen][band][LANES], reflectance 0..6.5535
    float* used,                               # OUT  [chosen][LANES], 0 or 1
    int* chosen,                               # OUT  [chosen], the times that count for some pixel
) noexcept nogil:
    cdef Py_ssize_t time, band, x, bands = reflectance.shape[1]
    cdef int count = 0
    cdef bint any_used
    for time in range(reflectance.shape[0]):
        any_used = False
        for x in range(LANES):
            used[count * LANES + x] = 0
        for x in range(width):
            if missing[time * LANES + x] == 0:
                used[count * LANES + x] = 1
                any_used = True
        if not any_used:
            continue
        for band in range(bands):
            for x in range(width):
                vectors[(count * bands + band) * LANES + x] = reflectance[time, band, y, start + x] * <float>1e-4
            for x in range(width, LANES):
                vectors[(count * bands + band) * LANES + x] = 0
        chosen[count] = <int>time
        count += 1
    return count


cdef void prepare_strip(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    Py_ssize_t y,
    Py_ssize_t start,
    float* scratch,                            # scratch of vector_scratch bytes
    Strip* strip,                              # OUT
) noexcept nogil:
    """Lay the scratch out and load the observations of a strip."""
    cdef Py_ssize_t times = reflectance.shape[0], bands = reflectance.shape[1], x
    strip.width = min(<Py_ssize_t>LANES, reflectance.shape[3] - start)
    strip.vectors = scratch
    strip.used = strip.vectors + times * bands * LANES
    strip.point = strip.used + (times + 1) * LANES
    strip.work = strip.point + bands * LANES
    strip.missing = <uint16_t*>(strip.work + (bands + 5) * LANES)
    strip.chosen = <int*>(strip.missing + times * LANES)
    for x in range(LANES):
        strip.number[x] = 0
    find_missing(reflectance, clear, y, start, strip.width, LANES, strip.missing, strip.number)
    strip.count = load_vectors(
        reflectance, strip.missing, y, start, strip.width, strip.vectors, strip.used, strip.chosen
    )


cdef inline uint16_t to_count(float reflectance) noexcept nogil:
    """Reflectance x 10000, rounded half up, as it is written: 1..65535."""
    return <uint16_t>min(max(<int>(reflectance * 10000 + <float>0.5), 1), 65535)


cdef void mean_vector(
    const float* vectors, const float* used, const int* number, Py_ssize_t count, Py_ssize_t bands, float* mean
) noexcept nogil:
    """Start of the iteration: the mean of the observations that count."""
    cdef Py_ssize_t time, band, x
    for band in range(bands):
        for x in range(LANES):
            mean[band * LANES + x] = 0
        for time in range(count):
            for x in range(LANES):
                mean[band * LANES + x] += used[time * LANES + x] * vectors[(time * bands + band) * LANES + x]
        for x in range(LANES):
            mean[band * LANES + x] /= max(number[x], 1)


cdef void geometric_median_of_strip(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    uint16_t[:, :, ::1] values,                # OUT  [band, y, x]
    uint8_t[:, ::1] counts,                    # OUT  [y, x]
    Py_ssize_t y,
    Py_ssize_t start,
    float tolerance,
    int limit,
    float* scratch,                            # scratch of vector_scratch bytes
) noexcept nogil:
    cdef Py_ssize_t bands = reflectance.shape[1], band, x
    cdef Strip strip
    cdef int iteration
    prepare_strip(reflectance, clear, y, start, scratch, &strip)
    mean_vector(strip.vectors, strip.used, strip.number, strip.count, bands, strip.point)
    for x in range(LANES):
        # Of one observation the mean is itself, and of two it is as good as any point between them.
        strip.work[(bands + 4) * LANES + x] = 0 if strip.number[x] > 2 else 1
    for iteration in range(limit):
        if lcu_weiszfeld_step(
            strip.vectors, strip.used, strip.point, strip.work, strip.count, bands, tolerance
        ) == 0:
            break
    for x in range(strip.width):
        counts[y, start + x] = <uint8_t>min(strip.number[x], 255)
        for band in range(bands):
            values[band, y, start + x] = to_count(strip.point[band * LANES + x]) if strip.number[x] else 0


cdef void medoid_of_strip(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    uint16_t[:, :, ::1] values,                # OUT  [band, y, x]
    uint8_t[:, ::1] counts,                    # OUT  [y, x]
    Py_ssize_t y,
    Py_ssize_t start,
    float* scratch,                            # scratch of vector_scratch bytes
) noexcept nogil:
    cdef Py_ssize_t bands = reflectance.shape[1], band, x
    cdef Strip strip
    cdef int best[LANES]
    cdef float least[LANES]
    cdef int one
    prepare_strip(reflectance, clear, y, start, scratch, &strip)
    for x in range(LANES):
        best[x] = -1
    for one in range(strip.count):
        lcu_distance_sum(strip.vectors, strip.used, strip.point, strip.work, strip.count, bands, one)
        for x in range(strip.width):
            if strip.used[one * LANES + x] > 0 and (best[x] < 0 or strip.point[x] < least[x]):
                best[x] = strip.chosen[one]
                least[x] = strip.point[x]
    for x in range(strip.width):
        counts[y, start + x] = <uint8_t>min(strip.number[x], 255)
        for band in range(bands):
            values[band, y, start + x] = reflectance[best[x], band, y, start + x] if best[x] >= 0 else 0


cdef size_t vector_scratch(Py_ssize_t times, Py_ssize_t bands) noexcept nogil:
    """Bytes for: vectors, used (and one row more), point, work, missing, chosen."""
    cdef size_t floats = (times * bands + times + 1 + bands + bands + 5) * LANES
    return floats * sizeof(float) + times * LANES * sizeof(uint16_t) + (times + 1) * sizeof(int)


def geometric_median(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    float tolerance,
    int limit,
    int threads,
):
    """Geometric median of the clear and whole observations of each pixel."""
    cdef Py_ssize_t y, strip, strips = (reflectance.shape[3] + LANES - 1) // LANES
    cdef float* scratch
    with nogil, parallel(num_threads=threads):
        scratch = <float*>calloc(vector_scratch(reflectance.shape[0], reflectance.shape[1]), 1)
        for y in prange(reflectance.shape[2], schedule="dynamic", chunksize=4):
            for strip in range(strips):
                geometric_median_of_strip(
                    reflectance, clear, values, counts, y, strip * LANES, tolerance, limit, scratch
                )
        free(scratch)


def medoid(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    int threads,
):
    """Medoid of the clear and whole observations of each pixel."""
    cdef Py_ssize_t y, strip, strips = (reflectance.shape[3] + LANES - 1) // LANES
    cdef float* scratch
    with nogil, parallel(num_threads=threads):
        scratch = <float*>calloc(vector_scratch(reflectance.shape[0], reflectance.shape[1]), 1)
        for y in prange(reflectance.shape[2], schedule="dynamic", chunksize=4):
            for strip in range(strips):
                medoid_of_strip(reflectance, clear, values, counts, y, strip * LANES, scratch)
        free(scratch)


cdef void max_ndvi_of_row(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    uint16_t[:, :, ::1] values,                # OUT  [band, y, x]
    uint8_t[:, ::1] counts,                    # OUT  [y, x]
    Py_ssize_t red,
    Py_ssize_t nir,
    Py_ssize_t y,
) noexcept nogil:
    cdef Py_ssize_t time, band, x, best
    cdef int64_t difference, total, best_difference, best_total
    cdef int count
    cdef bint whole
    for x in range(reflectance.shape[3]):
        count = 0
        best = -1
        best_difference = best_total = 0
        for time in range(reflectance.shape[0]):
            whole = clear[time, y, x] != 0
            for band in range(reflectance.shape[1]):
                whole = whole and reflectance[time, band, y, x] > 0
            if not whole:
                continue
            count += 1
            difference = <int64_t>reflectance[time, nir, y, x] - reflectance[time, red, y, x]
            total = <int64_t>reflectance[time, nir, y, x] + reflectance[time, red, y, x]
            # Two fractions are compared by their cross products: exact, so that ties are ties.
            if best < 0 or difference * best_total > best_difference * total:
                best, best_difference, best_total = time, difference, total
        counts[y, x] = <uint8_t>min(count, 255)
        for band in range(reflectance.shape[1]):
            values[band, y, x] = reflectance[best, band, y, x] if best >= 0 else 0


def max_ndvi(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    Py_ssize_t red,
    Py_ssize_t nir,
    int threads,
):
    """Take the clear and whole observation of the largest NDVI of each pixel."""
    cdef Py_ssize_t y
    for y in prange(reflectance.shape[2], nogil=True, num_threads=threads, schedule="dynamic", chunksize=8):
        max_ndvi_of_row(reflectance, clear, values, counts, red, nir, y)


# --- gaps and masks -----------------------------------------------------------------------------


cdef inline uint16_t between(
    uint16_t before, uint16_t after, int64_t day_before, int64_t day_after, int64_t day
) noexcept nogil:
    """Linear in time, rounded half up, in whole numbers so that every machine agrees."""
    cdef int64_t span = day_after - day_before
    cdef int64_t twice
    if span <= 0:
        return before
    twice = 2 * (<int64_t>before * (day_after - day) + <int64_t>after * (day - day_before)) + span
    return <uint16_t>(twice // (2 * span))


cdef void fill_row(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = gap
    const int32_t[::1] days,                   # IN   [time], ascending
    uint16_t[:, :, :, ::1] filled,             # OUT  [time, band, y, x]
    uint8_t[:, :, :, ::1] flags,               # OUT  [time, band, y, x], 1 = filled
    Py_ssize_t band,
    Py_ssize_t y,
) noexcept nogil:
    cdef Py_ssize_t times = reflectance.shape[0]
    cdef Py_ssize_t x, time, gap, last
    cdef uint16_t value
    for x in range(reflectance.shape[3]):
        last = -1
        for time in range(times):
            value = reflectance[time, band, y, x]
            if value == 0:
                continue
            filled[time, band, y, x] = value
            flags[time, band, y, x] = 0
            for gap in range(last + 1, time):
                flags[gap, band, y, x] = 1
                if last < 0:
                    filled[gap, band, y, x] = value
                else:
                    filled[gap, band, y, x] = between(
                        reflectance[last, band, y, x], value, days[last], days[time], days[gap]
                    )
            last = time
        for gap in range(last + 1, times):
            flags[gap, band, y, x] = 1
            filled[gap, band, y, x] = 0 if last < 0 else reflectance[last, band, y, x]


def fill_gaps(
    const uint16_t[:, :, :, ::1] reflectance,
    const int32_t[::1] days,
    uint16_t[:, :, :, ::1] filled,
    uint8_t[:, :, :, ::1] flags,
    int threads,
):
    """Fill the gaps of every series: linear in time, the nearest value at the ends."""
    cdef Py_ssize_t y, band
    for y in prange(reflectance.shape[2], nogil=True, num_threads=threads, schedule="static"):
        for band in range(reflectance.shape[1]):
            fill_row(reflectance, days, filled, flags, band, y)


cdef void spread_row(
    const uint8_t[:, ::1] mask,  # IN     [y, x]
    uint8_t[:, ::1] grown,       # INOUT  [y, x]
    Py_ssize_t source,
    Py_ssize_t target,
    Py_ssize_t reach,
) noexcept nogil:
    """Set every pixel of row `target` that lies within `reach` columns of a set one in `source`."""
    cdef Py_ssize_t x, column, start, end, filled_to = 0, width = mask.shape[1]
    for x in range(width):
        if not mask[source, x]:
            continue
        start = max(x - reach, filled_to)
        end = min(x + reach + 1, width)
        for column in range(start, end):
            grown[target, column] = 1
        filled_to = max(filled_to, end)


def buffer_mask(const uint8_t[:, ::1] mask, uint8_t[:, ::1] grown, double radius):
    """Grow a mask by a Euclidean disc: row by row, for every row distance the half chord."""
    cdef Py_ssize_t y, source, distance, reach, height = mask.shape[0]
    cdef Py_ssize_t rows = <Py_ssize_t>floor(radius)
    with nogil:
        for y in range(height):
            for source in range(max(0, y - rows), min(height, y + rows + 1)):
                distance = source - y
                reach = <Py_ssize_t>floor(sqrt(radius * radius - distance * distance) + 1e-9)
                spread_row(mask, grown, source, y, reach)


# --- the clearest acquisitions ------------------------------------------------------------------


def keep(
    const uint16_t[:, :, ::1] reflectance,  # IN     [band, y, x], 0 = nodata
    const uint8_t[:, ::1] clear,            # IN     [y, x], 0 = not clear
    int32_t day,
    uint16_t[:, :, :, ::1] values,          # INOUT  [slot, band, y, x]
    int32_t[:, :, ::1] days,                # INOUT  [slot, y, x]
    int32_t[:, ::1] taken,                  # INOUT  [y, x], slots in use
):
    """Put an observation into the next slot of every pixel that has one, where it is clear and whole."""
    cdef Py_ssize_t y, x, band, slot, bands = reflectance.shape[0]
    cdef bint whole
    with nogil:
        for y in range(clear.shape[0]):
            for x in range(clear.shape[1]):
                slot = taken[y, x]
                whole = clear[y, x] != 0 and slot < values.shape[0]
                for band in range(bands):
                    whole = whole and reflectance[band, y, x] > 0
                if not whole:
                    continue
                for band in range(bands):
                    values[slot, band, y, x] = reflectance[band, y, x]
                days[slot, y, x] = day
                taken[y, x] += 1


cdef void swap_slots(
    uint16_t[:, :, :, ::1] values,  # INOUT  [slot, band, y, x]
    int32_t[:, :, ::1] days,        # INOUT  [slot, y, x]
    Py_ssize_t one,
    Py_ssize_t other,
    Py_ssize_t y,
    Py_ssize_t x,
) noexcept nogil:
    cdef Py_ssize_t band
    cdef uint16_t value
    cdef int32_t day = days[one, y, x]
    days[one, y, x] = days[other, y, x]
    days[other, y, x] = day
    for band in range(values.shape[1]):
        value = values[one, band, y, x]
        values[one, band, y, x] = values[other, band, y, x]
        values[other, band, y, x] = value


def order_by_day(
    uint16_t[:, :, :, ::1] values,   # INOUT  [slot, band, y, x]
    int32_t[:, :, ::1] days,         # INOUT  [slot, y, x]
    const int32_t[:, ::1] taken,     # IN     [y, x], slots in use
):
    """Bring the slots of every pixel into the order of their days, by selection: few swaps."""
    cdef Py_ssize_t y, x, slot, later, first
    with nogil:
        for y in range(taken.shape[0]):
            for x in range(taken.shape[1]):
                for slot in range(taken[y, x]):
                    first = slot
                    for later in range(slot + 1, taken[y, x]):
                        if days[later, y, x] < days[first, y, x]:
                            first = later
                    if first != slot:
                        swap_slots(values, days, slot, first, y, x)
