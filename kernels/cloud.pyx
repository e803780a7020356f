"""Kernel of the cloud screening: what the scene classification missed, found by comparison in time.

An observation is compared with the nearest usable observations of its own pixel before and after it, and
is cloud or shadow when it stands out against both sides. Everything is whole numbers: reflectance x 10000
in int32, so that no result depends on the machine. `lcu.composite.cloud` holds the documented function
and says where the numbers come from.

The `def`s take prepared arrays, write into arrays that the caller allocated and check nothing.
"""

from cython.parallel cimport parallel, prange
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset


# Pixels that are screened side by side; the number is also known to the C code below.
cdef enum:
    STRIP = 64

cdef extern from *:
    """
    #include <stdint.h>

    #define LCU_STRIP 64
    #define LCU_NEAREST 3   /* neighbours on each side that vote */

    #include "clones.h"

    /* What is known of one time of a strip of pixels; masks are 0 or -1. */
    typedef struct {
        int32_t haze[LCU_STRIP];    /* 32 x (blue - 5/16 swir): high under cloud, not over dry soil */
        int32_t blue[LCU_STRIP];
        int32_t nir[LCU_STRIP];     /* both + 300, so that water has no darkest day */
        int32_t swir[LCU_STRIP];
        int32_t whole[LCU_STRIP];   /* clear so far and nothing missing */
        int32_t usable[LCU_STRIP];  /* whole and not found to be cloud or shadow */
        int32_t scl_snow[LCU_STRIP];
        int32_t snow[LCU_STRIP];    /* snow by SCL, and usable */
        int32_t found[LCU_STRIP];   /* 0 undecided, 1 clear, 3 cloud or shadow */
    } lcu_look;

    LCU_CLONES
    void lcu_load_look(lcu_look *restrict look, const uint8_t *restrict clear, const uint16_t *restrict blue,
                       const uint16_t *restrict nir, const uint16_t *restrict swir, long width) {
        for (long x = 0; x < width; ++x) {
            look->haze[x] = 32 * (int32_t)blue[x] - 10 * (int32_t)swir[x];
            look->blue[x] = blue[x];
            look->nir[x] = (int32_t)nir[x] + 300;
            look->swir[x] = (int32_t)swir[x] + 300;
            look->whole[x] = clear[x] && blue[x] && nir[x] && swir[x] ? -1 : 0;
            look->usable[x] = look->whole[x];
            look->scl_snow[x] = clear[x] == 2 ? -1 : 0;
        }
    }

    /* Note which usable observations SCL calls snow; tell whether any is. */
    LCU_CLONES
    int lcu_note_snow(lcu_look *restrict look) {
        int32_t any = 0;
        for (int x = 0; x < LCU_STRIP; ++x) {
            look->snow[x] = look->usable[x] & look->scl_snow[x];
            any |= look->snow[x];
        }
        return any != 0;
    }

    /* Let another time vote on an observation, unless enough nearer ones have. A vote has one digit (4 bits)
       each for: voters, brighter, much brighter, darker, much darker, glaring. Tell whether more votes are
       wanted. */
    LCU_CLONES
    int lcu_vote(int32_t *restrict votes, const lcu_look *restrict own, const lcu_look *restrict other) {
        int32_t wanted = 0;
        for (int x = 0; x < LCU_STRIP; ++x) {
            int32_t takes = other->usable[x] & -(int32_t)((votes[x] & 15) < LCU_NEAREST);
            int32_t rise = own->haze[x] - other->haze[x];
            int32_t rise_blue = 32 * (own->blue[x] - other->blue[x]);
            int32_t limit = 2 * other->blue[x], far_limit = 3 * other->blue[x];
            int32_t brighter = (rise > limit + 7200) | (rise_blue > limit + 10400);
            int32_t far_brighter = (rise > far_limit + 10800) | (rise_blue > far_limit + 15600);
            int32_t glaring = rise_blue > 32000;
            int32_t no_haze = own->blue[x] < other->blue[x] + 100;
            int32_t darker = (5 * own->nir[x] < 4 * other->nir[x]) & (5 * own->swir[x] < 4 * other->swir[x]);
            int32_t far_darker = (3 * own->nir[x] < 2 * other->nir[x]) & (3 * own->swir[x] < 2 * other->swir[x]);
            int32_t vote = 1 | brighter << 4 | far_brighter << 8
                | (darker & no_haze) << 12 | (far_darker & no_haze) << 16 | glaring << 20;
            votes[x] += takes & vote;
            wanted |= own->whole[x] & -(int32_t)((votes[x] & 15) < LCU_NEAREST);
        }
        return wanted != 0;
    }

    /* Decide from the votes of both sides: most of each, or for what glares one of each, since thick clouds
       that SCL missed may follow one another. One side alone decides only with two voters and a larger
       difference, and never on snow. `seen` is where another time shows snow. */
    LCU_CLONES
    void lcu_decide(lcu_look *restrict own, const int32_t *restrict before, const int32_t *restrict after,
                    const int32_t *restrict seen) {
        for (int x = 0; x < LCU_STRIP; ++x) {
            int32_t b = before[x], a = after[x];
            int32_t count_b = b & 15, count_a = a & 15;
            int32_t both = (count_b > 0) & (count_a > 0);
            int32_t one = ((count_b == 0) & (count_a > 1)) | ((count_a == 0) & (count_b > 1));
            int32_t snow = -own->scl_snow[x];
            int32_t bright_b = 2 * (b >> 4 & 15) > count_b, bright_a = 2 * (a >> 4 & 15) > count_a;
            int32_t dark_b = 2 * (b >> 12 & 15) > count_b, dark_a = 2 * (a >> 12 & 15) > count_a;
            /* The side without voters has no votes: the sum is that of the other side. */
            int32_t far_bright = 2 * ((b >> 8 & 15) + (a >> 8 & 15)) > count_b + count_a;
            int32_t far_dark = 2 * ((b >> 16 & 15) + (a >> 16 & 15)) > count_b + count_a;
            int32_t glaring = (b >> 20 > 0) & (a >> 20 > 0);
            int32_t cloud = (both & ((bright_b & bright_a) | glaring)) | (one & far_bright & !snow);
            int32_t shadow = (both & dark_b & dark_a) | (one & far_dark);
            int32_t kept = snow & (seen[x] != 0);
            int32_t bad = (cloud & !kept) | shadow;
            own->found[x] = own->whole[x] & ((both | one) + 2 * bad);
        }
    }

    LCU_CLONES
    void lcu_use_clear(lcu_look *restrict look) {
        for (int x = 0; x < LCU_STRIP; ++x) look->usable[x] = look->whole[x] & ((look->found[x] >> 1) - 1);
    }

    LCU_CLONES
    void lcu_or(int32_t *restrict to, const int32_t *restrict from) {
        for (int x = 0; x < LCU_STRIP; ++x) to[x] |= from[x];
    }

    /* Add the row that enters a window of rows, take off the row that leaves it (either may be NULL):
       found in the upper half of a number, decided in the lower. */
    LCU_CLONES
    void lcu_slide_rows(int32_t *restrict sums, const uint8_t *restrict enter, const uint8_t *restrict leave,
                        long width) {
        if (enter) for (long x = 0; x < width; ++x) sums[x] += (enter[x] & 1) + ((int32_t)(enter[x] >> 1) << 16);
        if (leave) for (long x = 0; x < width; ++x) sums[x] -= (leave[x] & 1) + ((int32_t)(leave[x] >> 1) << 16);
    }
    """
    ctypedef struct lcu_look:
        int32_t* snow
        int32_t* found
    void lcu_load_look(
        lcu_look* look, const uint8_t* clear, const uint16_t* blue, const uint16_t* nir, const uint16_t* swir,
        long width
    ) noexcept nogil
    int lcu_note_snow(lcu_look* look) noexcept nogil
    int lcu_vote(int32_t* votes, const lcu_look* own, const lcu_look* other) noexcept nogil
    void lcu_decide(
        lcu_look* own, const int32_t* before, const int32_t* after, const int32_t* seen
    ) noexcept nogil
    void lcu_use_clear(lcu_look* look) noexcept nogil
    void lcu_or(int32_t* to, const int32_t* from_) noexcept nogil
    void lcu_slide_rows(int32_t* sums, const uint8_t* enter, const uint8_t* leave, long width) noexcept nogil


cdef void judge(
    lcu_look* looks,            # INOUT  [time]
    const uint8_t* snowy,       # IN     [time], 1 where any pixel is snow
    const int32_t[::1] days,    # IN     [time], ascending
    Py_ssize_t time,
    int32_t window,
) noexcept nogil:
    """Decide on one time: the nearest usable times within the window vote, nearest first."""
    cdef int32_t before[STRIP]
    cdef int32_t after[STRIP]
    cdef int32_t seen[STRIP]
    cdef Py_ssize_t other
    cdef bint wanted = True
    memset(before, 0, sizeof(before))
    memset(after, 0, sizeof(after))
    memset(seen, 0, sizeof(seen))
    other = time - 1
    while other >= 0 and days[time] - days[other] <= window:
        if wanted:
            wanted = lcu_vote(before, looks + time, looks + other)
        if snowy[other]:
            lcu_or(seen, looks[other].snow)
        other -= 1
    wanted = True
    other = time + 1
    while other < days.shape[0] and days[other] - days[time] <= window:
        if wanted:
            wanted = lcu_vote(after, looks + time, looks + other)
        if snowy[other]:
            lcu_or(seen, looks[other].snow)
        other += 1
    lcu_decide(looks + time, before, after, seen)


cdef void screen_strip(
    const uint16_t[:, :, :, ::1] reflectance,  # IN   [time, band, y, x], 0 = nodata
    const uint8_t[:, :, ::1] clear,            # IN   [time, y, x], 0 = not clear, 1 = clear, 2 = clear and snow by SCL
    const int32_t[::1] days,                   # IN   [time], ascending
    const Py_ssize_t[::1] bands,               # IN   positions of blue, near infrared, short-wave infrared
    const int32_t[::1] windows,                # IN   [pass], days
    uint8_t[:, :, ::1] found,                  # OUT  [time, y, x], 0 undecided, 1 clear, 3 cloud or shadow
    Py_ssize_t y,
    Py_ssize_t start,
    lcu_look* looks,                           # scratch [time], beyond the width all 0
    uint8_t* snowy,                            # scratch [time]
) noexcept nogil:
    cdef Py_ssize_t times = clear.shape[0], time, turn, x
    cdef Py_ssize_t width = min(<Py_ssize_t>STRIP, clear.shape[2] - start)
    for time in range(times):
        if width < STRIP:
            memset(looks + time, 0, sizeof(lcu_look))
        lcu_load_look(
            looks + time, &clear[time, y, start], &reflectance[time, bands[0], y, start],
            &reflectance[time, bands[1], y, start], &reflectance[time, bands[2], y, start], width,
        )
    for turn in range(windows.shape[0]):
        for time in range(times):
            snowy[time] = lcu_note_snow(looks + time)
        for time in range(times):
            judge(looks, snowy, days, time, windows[turn])
        for time in range(times):
            lcu_use_clear(looks + time)
    for time in range(times):
        for x in range(width):
            found[time, y, start + x] = <uint8_t>looks[time].found[x]


def screen(
    const uint16_t[:, :, :, ::1] reflectance,
    const uint8_t[:, :, ::1] clear,
    const int32_t[::1] days,
    const Py_ssize_t[::1] bands,
    const int32_t[::1] windows,
    uint8_t[:, :, ::1] found,
    int threads,
):
    """Compare every clear and whole observation with its neighbours in time, pixel by pixel."""
    cdef Py_ssize_t y, strip, strips = (clear.shape[2] + STRIP - 1) // STRIP
    cdef lcu_look* looks = NULL
    cdef uint8_t* snowy = NULL
    with nogil, parallel(num_threads=threads):
        looks = <lcu_look*>calloc(clear.shape[0], sizeof(lcu_look))
        snowy = <uint8_t*>calloc(clear.shape[0], 1)
        for y in prange(clear.shape[1], schedule="dynamic", chunksize=8):
            for strip in range(strips):
                screen_strip(
                    reflectance, clear, days, bands, windows, found, y, strip * STRIP, looks, snowy
                )
        free(snowy)
        free(looks)


cdef void support_row(
    const int32_t* sums,       # IN     [x], of the rows of the window
    uint8_t* clear,            # INOUT  [x]
    Py_ssize_t width,
    Py_ssize_t radius,
) noexcept nogil:
    """Slide the window along a row; take what is mostly found (two fifths of what is decided)."""
    cdef Py_ssize_t x
    cdef int32_t total = 0, decided, bad
    for x in range(min(radius, width)):
        total += sums[x]
    for x in range(width):
        if x + radius < width:
            total += sums[x + radius]
        if x - radius > 0:
            total -= sums[x - radius - 1]
        bad = total >> 16
        decided = total & 65535
        clear[x] = clear[x] and (bad == 0 or 5 * bad < 2 * decided)


cdef void support_layer(
    const uint8_t[:, :, ::1] found,  # IN     [time, y, x], as `screen` left it
    uint8_t[:, :, ::1] clear,        # INOUT  [time, y, x]
    Py_ssize_t time,
    Py_ssize_t radius,
    int32_t* sums,                   # scratch [x], 0
) noexcept nogil:
    cdef Py_ssize_t y, height = found.shape[1], width = found.shape[2]
    for y in range(min(radius, height)):
        lcu_slide_rows(sums, &found[time, y, 0], NULL, width)
    for y in range(height):
        lcu_slide_rows(
            sums,
            &found[time, y + radius, 0] if y + radius < height else NULL,
            &found[time, y - radius - 1, 0] if y - radius > 0 else NULL,
            width,
        )
        support_row(sums, &clear[time, y, 0], width, radius)
    memset(sums, 0, width * sizeof(int32_t))


def support(const uint8_t[:, :, ::1] found, uint8_t[:, :, ::1] clear, Py_ssize_t radius, int threads):
    """Unset `clear` where enough of the square of decided pixels around is cloud or shadow."""
    cdef Py_ssize_t time
    cdef int32_t* sums = NULL
    with nogil, parallel(num_threads=threads):
        sums = <int32_t*>calloc(max(found.shape[2], 1), sizeof(int32_t))
        for time in prange(found.shape[0], schedule="dynamic"):
            support_layer(found, clear, time, radius, sums)
        free(sums)
