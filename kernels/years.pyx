"""Kernels of the choice over years: the most likely classes of a pixel, and how likely each class and change is.

Each `def` takes prepared arrays, writes into arrays that the caller allocated and checks nothing;
`lcu.classify` holds the documented functions. Loops run over strips of pixels, so that threads share no
output; what is done to a strip stands in `years.h`.
"""

from cython.parallel cimport parallel, prange
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc


cdef extern from "years.h" nogil:
    enum:
        LCU_STRIP

    ctypedef struct lcu_years:
        const float* probability
        const float* transition
        const float* reverse
        const float* diagonal
        const float* stay
        long years, classes, pixels

    long lcu_years_scratch(const lcu_years* data)
    void lcu_decode_strip(const lcu_years* data, long first, uint8_t* labels, float* scratch)
    void lcu_posterior_strip(
        const lcu_years* data, long first, float* posterior, float* change, float* scratch
    )


cdef lcu_years data_of(
    const float[:, :, ::1] probability,  # IN  [year, class, pixel], NaN = missing
    const float[:, :, ::1] transition,   # IN  [year - 1, from, to], 0 where from is to; a row of anything of one year
    const float[:, :, ::1] reverse,      # IN  [year - 1, to, from], the same
    const float[:, ::1] diagonal,        # IN  [year - 1, class]
    const float[:, ::1] stay,            # IN  [step (step + 1) / 2 + start, pixel]; no row: 1
):
    """Say where everything lies."""
    cdef lcu_years data
    data.probability = &probability[0, 0, 0]
    data.transition, data.reverse = &transition[0, 0, 0], &reverse[0, 0, 0]
    data.diagonal = &diagonal[0, 0]
    data.stay = &stay[0, 0] if stay.shape[0] else NULL
    data.years, data.classes, data.pixels = probability.shape[0], probability.shape[1], probability.shape[2]
    return data


def decode(
    const float[:, :, ::1] probability,
    const float[:, :, ::1] transition,
    const float[:, :, ::1] reverse,
    const float[:, ::1] diagonal,
    const float[:, ::1] stay,
    uint8_t[:, ::1] labels,  # OUT  [year, pixel]
    int threads,
):
    """Find the most likely sequence of classes of each pixel."""
    cdef lcu_years data = data_of(probability, transition, reverse, diagonal, stay)
    cdef Py_ssize_t first
    cdef float* scratch
    with nogil, parallel(num_threads=threads):
        scratch = <float*>malloc(lcu_years_scratch(&data) * sizeof(float))
        for first in prange(0, data.pixels, LCU_STRIP, schedule="static"):
            lcu_decode_strip(&data, first, &labels[0, 0], scratch)
        free(scratch)


def posterior(
    const float[:, :, ::1] probability,
    const float[:, :, ::1] transition,
    const float[:, :, ::1] reverse,
    const float[:, ::1] diagonal,
    const float[:, ::1] stay,
    float[:, :, ::1] classes,  # OUT  [year, class, pixel]
    float[:, ::1] change,      # OUT  [year - 1, pixel]; a row of anything where there is one year
    int threads,
):
    """Find the probability of each class, and of a change, given all years."""
    cdef lcu_years data = data_of(probability, transition, reverse, diagonal, stay)
    cdef Py_ssize_t first
    cdef float* scratch
    with nogil, parallel(num_threads=threads):
        scratch = <float*>malloc(lcu_years_scratch(&data) * sizeof(float))
        for first in prange(0, data.pixels, LCU_STRIP, schedule="static"):
            lcu_posterior_strip(&data, first, &classes[0, 0, 0], &change[0, 0], scratch)
        free(scratch)
