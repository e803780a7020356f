"""Kernel of reading: digital numbers of a band become reflectance on the tile's grid in one pass."""

from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef extern from *:
    """
    #include <stdint.h>

    #include "clones.h"

    /* Shift, clip to 1..65535 and keep nodata apart, without a branch. */
    LCU_CLONES
    void lcu_harmonise_row(const uint16_t *restrict numbers, uint16_t *restrict row, long width,
                           int32_t shift, int32_t nodata) {
        for (long x = 0; x < width; ++x) {
            int32_t number = numbers[x], value = number + shift;
            value = value < 1 ? 1 : value;
            value = value > 65535 ? 65535 : value;
            row[x] = (uint16_t)(number == nodata ? 0 : value);
        }
    }

    /* Repeat every value twice: the case of all 20 m bands. */
    LCU_CLONES
    void lcu_double_row(const uint16_t *restrict values, uint16_t *restrict row, long width) {
        for (long x = 0; x < width; ++x) {
            row[2 * x] = values[x];
            row[2 * x + 1] = values[x];
        }
    }
    """
    void lcu_harmonise_row(
        const uint16_t* numbers, uint16_t* row, long width, int32_t shift, int32_t nodata
    ) noexcept nogil
    void lcu_double_row(const uint16_t* values, uint16_t* row, long width) noexcept nogil


cdef void place_row(
    const uint16_t* values,     # IN   [native x]
    const int64_t[::1] cols,    # IN   [x], native column of each
    uint16_t* row,              # OUT  [x]
    Py_ssize_t native,
    bint doubled,
) noexcept nogil:
    cdef Py_ssize_t x, width = cols.shape[0]
    if doubled:
        lcu_double_row(values, row, native)
        return
    for x in range(width):
        row[x] = values[cols[x]]


def place(
    const uint16_t[:, ::1] numbers,  # IN   [native y, native x]
    const int64_t[::1] rows,         # IN   [y], native row of each, ascending
    const int64_t[::1] cols,         # IN   [x], native column of each, ascending
    int shift,
    int nodata,
    uint16_t[:, ::1] out,            # OUT  [y, x]
):
    """Harmonise digital numbers and bring them to another grid by nearest neighbour."""
    cdef Py_ssize_t y, x, native = numbers.shape[1], width = out.shape[1]
    cdef bint same = native == width
    cdef bint doubled = width == 2 * native
    cdef uint16_t* values
    for x in range(width):
        same = same and cols[x] == x
        doubled = doubled and cols[x] == x // 2
    with nogil:
        values = <uint16_t*>malloc(max(native, 1) * sizeof(uint16_t))
        for y in range(out.shape[0]):
            if y and rows[y] == rows[y - 1]:
                memcpy(&out[y, 0], &out[y - 1, 0], width * sizeof(uint16_t))
            elif same:
                lcu_harmonise_row(&numbers[rows[y], 0], &out[y, 0], width, shift, nodata)
            else:
                lcu_harmonise_row(&numbers[rows[y], 0], values, native, shift, nodata)
                place_row(values, cols, &out[y, 0], native, doubled)
        free(values)
