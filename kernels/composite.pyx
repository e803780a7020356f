"""Kernels of the composite stage: composites over time, gap filling, Euclidean buffers.

Each `def` takes prepared arrays, writes into arrays that the caller allocated and checks nothing;
`lcu.composite` holds the documented functions. Loops run over rows, so that threads share no output;
what is done to a row stands in `composite.h`.
"""

from cython.parallel cimport parallel, prange
from libc.math cimport floor, sqrt
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.stdlib cimport free, malloc


# Rows whose geometric medians are sought together: at their end some lanes are empty.
cdef enum:
    ROWS = 8

cdef extern from "composite.h" nogil:
    ctypedef struct lcu_cube:
        const uint16_t* reflectance
        const uint8_t* clear
        uint16_t* values
        uint8_t* counts
        long times, bands, height, width

    long lcu_median_scratch(long times, long bands)
    long lcu_search_scratch(long times, long bands)
    long lcu_vectors_scratch(long times, long bands)
    long lcu_strip_bytes(long times, long bands)
    long lcu_fill_scratch(long times)
    void lcu_median_row(const lcu_cube* cube, long y, char* scratch)
    void lcu_geometric_median_rows(
        const lcu_cube* cube, long y, long end, float tolerance, long limit, char* scratch
    )
    void lcu_medoid_row(const lcu_cube* cube, long y, char* scratch)
    void lcu_max_ndvi_row(const lcu_cube* cube, long y, long red, long nir, char* scratch)
    void lcu_fill_row(
        const uint16_t* reflectance, const int32_t* days, uint16_t* filled, uint8_t* flags,
        long times, long stride, long width, char* scratch,
    )
    long lcu_resample_scratch(long wanted)
    void lcu_resample_row(
        const uint16_t* reflectance, const int32_t* days, const int32_t* at, uint16_t* found,
        long times, long wanted, long bands, long stride, long width, char* scratch,
    )
    void lcu_distance_in_row(const uint8_t* mask, int32_t* distance, long width, int32_t far)
    void lcu_spread_row(const int32_t* distance, uint8_t* grown, long width, int32_t reach)


cdef bint cube_of(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear
    uint16_t[:, :, ::1] values,                # OUT  [band, y, x]
    uint8_t[:, ::1] counts,                    # OUT  [y, x]
    lcu_cube* cube,                            # OUT
):
    """Say where everything lies; return whether there is anything."""
    cube.times, cube.bands = reflectance.shape[0], reflectance.shape[1]
    cube.height, cube.width = reflectance.shape[2], reflectance.shape[3]
    if reflectance.size == 0:
        return False
    cube.reflectance, cube.clear = &reflectance[0, 0, 0, 0], &clear[0, 0, 0]
    cube.values, cube.counts = &values[0, 0, 0], &counts[0, 0]
    return True


def median(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    int threads,
):
    """Median over time of the clear and whole observations of each pixel."""
    cdef lcu_cube cube
    cdef Py_ssize_t y
    cdef char* scratch
    if not cube_of(reflectance, clear, values, counts, &cube):
        return
    with nogil, parallel(num_threads=threads):
        scratch = <char*>malloc(lcu_median_scratch(cube.times, cube.bands))
        for y in prange(cube.height, schedule="dynamic", chunksize=8):
            lcu_median_row(&cube, y, scratch)
        free(scratch)


def geometric_median(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    float tolerance,
    long limit,
    int threads,
):
    """Geometric median of the clear and whole observations of each pixel."""
    cdef lcu_cube cube
    cdef Py_ssize_t y
    cdef char* scratch
    if not cube_of(reflectance, clear, values, counts, &cube):
        return
    with nogil, parallel(num_threads=threads):
        scratch = <char*>malloc(lcu_search_scratch(cube.times, cube.bands))
        for y in prange(0, cube.height, ROWS, schedule="dynamic"):
            lcu_geometric_median_rows(&cube, y, min(y + ROWS, cube.height), tolerance, limit, scratch)
        free(scratch)


def medoid(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    uint16_t[:, :, ::1] values,
    uint8_t[:, ::1] counts,
    int threads,
):
    """Medoid of the clear and whole observations of each pixel."""
    cdef lcu_cube cube
    cdef Py_ssize_t y
    cdef char* scratch
    if not cube_of(reflectance, clear, values, counts, &cube):
        return
    with nogil, parallel(num_threads=threads):
        scratch = <char*>malloc(lcu_vectors_scratch(cube.times, cube.bands))
        for y in prange(cube.height, schedule="dynamic", chunksize=4):
            lcu_medoid_row(&cube, y, scratch)
        free(scratch)


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
    cdef lcu_cube cube
    cdef Py_ssize_t y
    cdef char* scratch
    if not cube_of(reflectance, clear, values, counts, &cube):
        return
    with nogil, parallel(num_threads=threads):
        scratch = <char*>malloc(lcu_strip_bytes(cube.times, cube.bands))
        for y in prange(cube.height, schedule="dynamic", chunksize=8):
            lcu_max_ndvi_row(&cube, y, red, nir, scratch)
        free(scratch)


# --- gaps and masks -----------------------------------------------------------------------------


def fill_gaps(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = gap
    const int32_t[::1] days,                   # IN   [time], ascending
    uint16_t[:, :, :, ::1] filled,             # OUT  [time, band, y, x]
    uint8_t[:, :, :, ::1] flags,               # OUT  [time, band, y, x], 1 = filled
    int threads,
):
    """Fill the gaps of every series: linear in time, the nearest value at the ends."""
    cdef Py_ssize_t times = reflectance.shape[0], width = reflectance.shape[3]
    cdef Py_ssize_t y, band, stride = reflectance.shape[1] * reflectance.shape[2] * width
    cdef char* scratch
    if reflectance.size == 0:
        return
    with nogil, parallel(num_threads=threads):
        scratch = <char*>malloc(lcu_fill_scratch(times))
        for y in prange(reflectance.shape[2], schedule="static"):
            for band in range(reflectance.shape[1]):
                lcu_fill_row(
                    &reflectance[0, band, y, 0], &days[0], &filled[0, band, y, 0], &flags[0, band, y, 0],
                    times, stride, width, scratch,
                )
        free(scratch)


def resample(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x]
    const int32_t[:, :, ::1] days,             # IN   [time, y, x], ascending in every pixel; 0 = no observation
    const int32_t[::1] at,                     # IN   [period], ascending
    uint16_t[:, :, :, ::1] found,              # OUT  [period, band, y, x]
    int threads,
):
    """Read every series at other days: linear in time, the nearest value at the ends."""
    cdef Py_ssize_t times = reflectance.shape[0], bands = reflectance.shape[1], width = reflectance.shape[3]
    cdef Py_ssize_t y, stride = reflectance.shape[2] * width
    cdef char* scratch
    if reflectance.size == 0 or found.size == 0:
        return
    with nogil, parallel(num_threads=threads):
        scratch = <char*>malloc(lcu_resample_scratch(at.shape[0]))
        for y in prange(reflectance.shape[2], schedule="static"):
            lcu_resample_row(
                &reflectance[0, 0, y, 0], &days[0, y, 0], &at[0], &found[0, 0, y, 0],
                times, at.shape[0], bands, stride, width, scratch,
            )
        free(scratch)


def buffer_mask(const uint8_t[:, ::1] mask, int32_t[:, ::1] distance, uint8_t[:, ::1] grown, double radius):
    """Grow a mask by a Euclidean disc: row by row, for every row distance the half chord.

    `distance` [y, x] is scratch: from each pixel the columns to the nearest set one of its row.
    """
    cdef Py_ssize_t y, source, height = mask.shape[0], width = mask.shape[1]
    cdef Py_ssize_t rows = <Py_ssize_t>min(floor(radius), <double>height)
    cdef double chord
    if mask.size == 0:
        return
    with nogil:
        for y in range(height):
            lcu_distance_in_row(&mask[y, 0], &distance[y, 0], width, <int32_t>width)
        for y in range(height):
            for source in range(max(0, y - rows), min(height, y + rows + 1)):
                chord = floor(sqrt(radius * radius - (source - y) ** 2) + 1e-9)
                lcu_spread_row(
                    &distance[source, 0], &grown[y, 0], width, <int32_t>min(chord, <double>(width - 1))
                )


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
