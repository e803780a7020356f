"""Kernels of the composite stage: median over time, gap filling, Euclidean buffers.

Each `def` takes prepared arrays, writes into arrays that the caller allocated and checks nothing;
`lcu.composite` holds the documented functions. Loops run over rows, so that threads share no output.
"""

from cython.parallel cimport parallel, prange
from libc.math cimport floor, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from libc.stdlib cimport free, malloc


cdef inline void sort_values(uint16_t* values, int count) noexcept nogil:
    """Insertion sort: the few observations of one pixel, often nearly sorted already."""
    cdef int i, j
    cdef uint16_t value
    for i in range(1, count):
        value = values[i]
        j = i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value


cdef inline uint16_t median_of_sorted(const uint16_t* values, int count) noexcept nogil:
    """Median rounded half up: floor(median + 0.5); 0 of nothing."""
    if count == 0:
        return 0
    if count % 2:
        return values[count // 2]
    return <uint16_t>((<int32_t>values[count // 2 - 1] + values[count // 2] + 1) // 2)


cdef void median_of_row(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    uint16_t[:, :, ::1] values,                # OUT  [band, y, x]
    uint8_t[:, ::1] counts,                    # OUT  [y, x]
    Py_ssize_t y,
    uint16_t* series,                          # scratch [time]
    Py_ssize_t* chosen,                        # scratch [time]
) noexcept nogil:
    cdef Py_ssize_t times = reflectance.shape[0], bands = reflectance.shape[1]
    cdef Py_ssize_t x, time, band
    cdef int count, i
    cdef bint whole
    for x in range(reflectance.shape[3]):
        count = 0
        for time in range(times):
            if not clear[time, y, x]:
                continue
            whole = True
            for band in range(bands):
                if reflectance[time, band, y, x] == 0:
                    whole = False
                    break
            if whole:
                chosen[count] = time
                count += 1
        counts[y, x] = <uint8_t>min(count, 255)
        for band in range(bands):
            for i in range(count):
                series[i] = reflectance[chosen[i], band, y, x]
            sort_values(series, count)
            values[band, y, x] = median_of_sorted(series, count)


def median(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    int threads,
):
    """Median over time of the clear and whole observations of each pixel."""
    cdef Py_ssize_t y, times = reflectance.shape[0]
    cdef uint16_t* series
    cdef Py_ssize_t* chosen
    with nogil, parallel(num_threads=threads):
        series = <uint16_t*>malloc((times + 1) * sizeof(uint16_t))
        chosen = <Py_ssize_t*>malloc((times + 1) * sizeof(Py_ssize_t))
        for y in prange(reflectance.shape[2], schedule="dynamic", chunksize=8):
            median_of_row(reflectance, clear, values, counts, y, series, chosen)
        free(series)
        free(chosen)


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
