/* The inner loops of the composites, compiled once for each kind of processor.

   A row of the image is worked on in strips of LCU_STRIP pixels. Between two observations of a pixel lies
   a whole image, so the observations of a strip are first copied side by side; then every loop runs over
   neighbouring pixels, which the compiler turns into vectors of whatever width the processor has.
   Only additions, multiplications, comparisons and whole numbers are used, each pixel has its own place
   in the vectors and its own order of sums: no result depends on the processor or on the neighbours. */

#ifndef LCU_COMPOSITE_H
#define LCU_COMPOSITE_H

#include <stdint.h>
#include <string.h>

#include "clones.h"

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed to inlined functions only */

#define LCU_STRIP 128 /* pixels that are copied at once */
#define LCU_GROUP 32  /* pixels that are sorted at once: a cache line, the widest vector */
#define LCU_LANES 16  /* pixels whose geometric median is sought at once */
#define LCU_NONE 65535

/* What a composite is made from and where it goes. */
typedef struct {
    const uint16_t *reflectance; /* [time][band][y][x], 0 = nodata */
    const uint8_t *clear;        /* [time][y][x], 0 = not clear */
    uint16_t *values;            /* [band][y][x] */
    uint8_t *counts;             /* [y][x] */
    long times, bands, height, width;
} lcu_cube;

/* The observations of a strip, without the times that count for none of its pixels. */
typedef struct {
    long first, width;  /* its first pixel, its pixels */
    long count;         /* times that count for some pixel */
    uint16_t *values;   /* [count][band][LCU_STRIP] */
    uint16_t *missing;  /* [count][LCU_STRIP], LCU_NONE where the observation does not count, else 0 */
    char *rest;         /* scratch for what is done with them */
} lcu_strip;

typedef uint16_t lcu_group __attribute__((vector_size(2 * LCU_GROUP), aligned(2), may_alias));

static long lcu_least(long one, long other) { return one < other ? one : other; }

/* Bytes of scratch for a strip, in multiples of a cache line. */
static long lcu_strip_bytes(long times, long bands) { return times * (bands + 1) * LCU_STRIP * 2; }

LCU_INLINE lcu_group lcu_read_group(const uint16_t *source) { return *(const lcu_group *)source; }
LCU_INLINE void lcu_write_group(uint16_t *target, lcu_group group) { *(lcu_group *)target = group; }

/* Write the first `width` pixels of a group. */
LCU_INLINE void lcu_write_part(uint16_t *target, lcu_group group, long width) {
    if (width >= LCU_GROUP)
        lcu_write_group(target, group);
    else
        memcpy(target, &group, 2 * width);
}

/* Tell whether no pixel of a group counts. */
LCU_INLINE int lcu_all_missing(lcu_group missing) {
    uint16_t all = LCU_NONE;
    for (int p = 0; p < LCU_GROUP; ++p) all &= ((uint16_t *)&missing)[p];
    return all == LCU_NONE;
}

/* Where a group is not clear. */
LCU_INLINE lcu_group lcu_not_clear(const uint8_t *clear, long width) {
    uint8_t seen[LCU_GROUP] = {0};
    lcu_group missing = {0};
    if (width >= LCU_GROUP)
        memcpy(seen, clear, LCU_GROUP);
    else
        memcpy(seen, clear, width);
    for (int p = 0; p < LCU_GROUP; ++p) ((uint16_t *)&missing)[p] = seen[p];
    return (lcu_group)(missing == 0);
}

/* Copy one time of a group, all bands; tell whether it is clear anywhere. If not, no value is read. */
LCU_INLINE int lcu_load_group(const uint16_t *source, const uint8_t *clear, long plane, long bands, long width,
                              uint16_t *values, uint16_t *missing) {
    lcu_group bad = lcu_not_clear(clear, width);
    lcu_write_group(missing, bad);
    if (lcu_all_missing(bad)) return 0;
    for (long band = 0; band < bands; ++band) {
        lcu_group value = {0};
        if (width >= LCU_GROUP)
            value = lcu_read_group(source + band * plane);
        else
            memcpy(&value, source + band * plane, 2 * width);
        lcu_write_group(values + band * LCU_STRIP, value);
        bad |= (lcu_group)(value == 0);
    }
    lcu_write_group(missing, bad);
    return 1;
}

LCU_INLINE void lcu_load_strip(const lcu_cube *cube, long y, long first, char *scratch, lcu_strip *strip) {
    long plane = cube->height * cube->width, here = y * cube->width + first;
    strip->first = first;
    strip->width = lcu_least(LCU_STRIP, cube->width - first);
    strip->count = 0;
    strip->values = (uint16_t *)scratch;
    strip->missing = strip->values + cube->times * cube->bands * LCU_STRIP;
    strip->rest = scratch + lcu_strip_bytes(cube->times, cube->bands);
    for (long time = 0; time < cube->times; ++time) {
        const uint16_t *source = cube->reflectance + time * cube->bands * plane + here;
        const uint8_t *clear = cube->clear + time * plane + here;
        uint16_t *values = strip->values + strip->count * cube->bands * LCU_STRIP;
        uint16_t *missing = strip->missing + strip->count * LCU_STRIP;
        int any = 0;
        for (long x = 0; x < strip->width; x += LCU_GROUP)
            any |= lcu_load_group(source + x, clear + x, plane, cube->bands, strip->width - x, values + x, missing + x);
        strip->count += any;
    }
}

/* Count the observations of a group of pixels and write the counts; 255 stands for more. */
LCU_INLINE lcu_group lcu_count_group(const lcu_cube *cube, const lcu_strip *strip, long y, long x) {
    uint8_t *counts = cube->counts + y * cube->width + strip->first + x;
    lcu_group number = {0}, written;
    for (long time = 0; time < strip->count; ++time)
        number -= (lcu_group)(lcu_read_group(strip->missing + time * LCU_STRIP + x) == 0);
    written = number | (lcu_group)(number > 255);
    for (long p = 0; p < lcu_least(LCU_GROUP, strip->width - x); ++p) counts[p] = (uint8_t)((uint16_t *)&written)[p];
    return number;
}

/* --- median ------------------------------------------------------------------------------------- */

/* Order two of the n values r; those from n on are thought to be larger than all others. */
#define LCU_ORDER(i, j) \
    if ((j) < n) { uint16_t low = r[i], high = r[j]; r[i] = low < high ? low : high; r[j] = low < high ? high : low; }

/* Batcher's odd-even merge sort (1968) of the 32 values from o on: halves are sorted and merged. */
#define LCU_ORDER_2(i, d) LCU_ORDER(i, (i) + d) LCU_ORDER((i) + 1, (i) + 1 + d)
#define LCU_ORDER_4(i, d) LCU_ORDER_2(i, d) LCU_ORDER_2((i) + 2, d)
#define LCU_ORDER_8(i, d) LCU_ORDER_4(i, d) LCU_ORDER_4((i) + 4, d)
#define LCU_ODD_2(o) LCU_ORDER((o) + 1, (o) + 2)
#define LCU_ODD_4(o) LCU_ODD_2(o) LCU_ODD_2((o) + 2) LCU_ODD_2((o) + 4)
#define LCU_ODD_8(o) LCU_ODD_4(o) LCU_ODD_4((o) + 6) LCU_ODD_2((o) + 12)
#define LCU_MERGE_4(o) LCU_ORDER_2(o, 2) LCU_ODD_2(o)
#define LCU_MERGE_8(o) LCU_ORDER_4(o, 4) LCU_ORDER_2((o) + 2, 2) LCU_ODD_4(o)
#define LCU_MERGE_16(o) \
    LCU_ORDER_8(o, 8) LCU_ORDER_4((o) + 4, 4) \
    LCU_ORDER_2((o) + 2, 2) LCU_ORDER_2((o) + 6, 2) LCU_ORDER_2((o) + 10, 2) LCU_ODD_8(o)
#define LCU_MERGE_32(o) \
    LCU_ORDER_8(o, 16) LCU_ORDER_8((o) + 8, 16) LCU_ORDER_8((o) + 8, 8) \
    LCU_ORDER_4((o) + 4, 4) LCU_ORDER_4((o) + 12, 4) LCU_ORDER_4((o) + 20, 4) \
    LCU_ORDER_2((o) + 2, 2) LCU_ORDER_2((o) + 6, 2) LCU_ORDER_2((o) + 10, 2) LCU_ORDER_2((o) + 14, 2) \
    LCU_ORDER_2((o) + 18, 2) LCU_ORDER_2((o) + 22, 2) LCU_ORDER_2((o) + 26, 2) \
    LCU_ODD_8(o) LCU_ODD_2((o) + 14) LCU_ODD_8((o) + 16)
#define LCU_SORT_4(o) LCU_ORDER(o, (o) + 1) LCU_ORDER((o) + 2, (o) + 3) LCU_MERGE_4(o)
#define LCU_SORT_8(o) LCU_SORT_4(o) LCU_SORT_4((o) + 4) LCU_MERGE_8(o)
#define LCU_SORT_16(o) LCU_SORT_8(o) LCU_SORT_8((o) + 8) LCU_MERGE_16(o)
#define LCU_SORT_32(o) LCU_SORT_16(o) LCU_SORT_16((o) + 16) LCU_MERGE_32(o)

/* Sort the columns of rows [n][LCU_GROUP]; n is known when this is compiled, so that a vector of each
   row stays in a register. */
LCU_INLINE void lcu_sort_rows(uint16_t *rows, int n) {
    #pragma GCC ivdep
    for (int x = 0; x < LCU_GROUP; ++x) {
        uint16_t r[32];
        #pragma GCC unroll 32
        for (int i = 0; i < n; ++i) r[i] = rows[i * LCU_GROUP + x];
        LCU_SORT_32(0)
        #pragma GCC unroll 32
        for (int i = 0; i < n; ++i) rows[i * LCU_GROUP + x] = r[i];
    }
}

/* The middle two of each column of rows [2 n][LCU_GROUP], the first n of which are sorted. When the
   other n are sorted too, the n smallest of all are the smaller ones of the first and the last, the
   second and the last but one, ... */
LCU_INLINE void lcu_middle_rows(const uint16_t *rows, uint16_t *lower, uint16_t *upper, int n) {
    #pragma GCC ivdep
    for (int x = 0; x < LCU_GROUP; ++x) {
        uint16_t r[32], most = 0, least = LCU_NONE;
        #pragma GCC unroll 32
        for (int i = 0; i < n; ++i) r[i] = rows[(n + i) * LCU_GROUP + x];
        LCU_SORT_32(0)
        #pragma GCC unroll 32
        for (int i = 0; i < n; ++i) {
            uint16_t one = rows[i * LCU_GROUP + x], other = r[n - 1 - i];
            uint16_t low = one < other ? one : other, high = one < other ? other : one;
            most = low > most ? low : most;
            least = high < least ? high : least;
        }
        lower[x] = most;
        upper[x] = least;
    }
}

/* Order two rows, element by element. */
LCU_INLINE void lcu_order_rows(uint16_t *restrict one, uint16_t *restrict other) {
    for (int x = 0; x < LCU_GROUP; ++x) {
        uint16_t low = one[x], high = other[x];
        one[x] = low < high ? low : high;
        other[x] = low < high ? high : low;
    }
}

/* Merge sorted blocks of p rows, two and two, by Batcher's merge. */
LCU_INLINE void lcu_merge_blocks(uint16_t *rows, long count, long p) {
    for (long begin = 0; begin + p < count; begin += 2 * p)
        for (long k = p; k >= 1; k /= 2)
            for (long j = k % p; j + 2 * k <= 2 * p; j += 2 * k)
                for (long i = begin + j; i < begin + j + k && i + k < count; ++i)
                    lcu_order_rows(rows + i * LCU_GROUP, rows + (i + k) * LCU_GROUP);
}

/* The middle two of each column of rows [count][LCU_GROUP], of which the first m are sorted and the others
   too: the lower half of all holds i of the first and the rest of the others, and of all ways to
   choose i the right one has the least maximum below and the largest minimum above. */
LCU_INLINE void lcu_middle_of_two(const uint16_t *rows, uint16_t *lower, uint16_t *upper, long m, long count) {
    long half = count / 2;
    memset(lower, 255, 2 * LCU_GROUP);
    memset(upper, 0, 2 * LCU_GROUP);
    for (long i = half - lcu_least(half, count - m); i <= half; ++i)
        for (int p = 0; p < LCU_GROUP; ++p) {
            long j = half - i;
            uint16_t one = i > 0 ? rows[(i - 1) * LCU_GROUP + p] : 0;
            uint16_t other = j > 0 ? rows[(m + j - 1) * LCU_GROUP + p] : 0;
            uint16_t below = one > other ? one : other;
            one = i < m ? rows[i * LCU_GROUP + p] : LCU_NONE;
            other = m + j < count ? rows[(m + j) * LCU_GROUP + p] : LCU_NONE;
            uint16_t above = one < other ? one : other;
            lower[p] = below < lower[p] ? below : lower[p];
            upper[p] = above > upper[p] ? above : upper[p];
        }
}

/* There is code for these numbers of rows that are sorted in registers. */
#define LCU_CASES \
    LCU_CASE(1) LCU_CASE(2) LCU_CASE(3) LCU_CASE(4) LCU_CASE(5) LCU_CASE(6) LCU_CASE(7) LCU_CASE(8) \
    LCU_CASE(9) LCU_CASE(10) LCU_CASE(11) LCU_CASE(12) LCU_CASE(13) LCU_CASE(14) LCU_CASE(15) LCU_CASE(16) \
    LCU_CASE(18) LCU_CASE(20) LCU_CASE(22) LCU_CASE(24) LCU_CASE(26) LCU_CASE(28) LCU_CASE(30) LCU_CASE(32)

LCU_INLINE void lcu_sort(uint16_t *rows, long n) {
#define LCU_CASE(n) case n: lcu_sort_rows(rows, n); break;
    switch (n) { LCU_CASES }
#undef LCU_CASE
}

LCU_INLINE void lcu_middle_of_halves(uint16_t *rows, uint16_t *lower, uint16_t *upper, long n) {
#define LCU_CASE(n) case n: lcu_middle_rows(rows, lower, upper, n); break;
    switch (n) { LCU_CASES }
#undef LCU_CASE
}

/* The middle two of each column of rows [count][LCU_GROUP], count as `lcu_rows` says. */
LCU_INLINE void lcu_middle(uint16_t *rows, uint16_t *lower, uint16_t *upper, long count) {
    long block = count > 64 ? 32 : count / 2, end = count > 64 ? count : block;
    for (long begin = 0; begin < end; begin += block)
        lcu_sort(rows + begin * LCU_GROUP, lcu_least(block, end - begin));
    if (count <= 64) {
        lcu_middle_of_halves(rows, lower, upper, block);
        return;
    }
    for (; 2 * block < count; block *= 2) lcu_merge_blocks(rows, count, block);
    lcu_middle_of_two(rows, lower, upper, block, count);
}

/* How many rows the observations of a group get: an even number, and such that there is code for
   the halves of up to 64 and for what is left over from blocks of 32. */
LCU_INLINE long lcu_rows(long count) {
    return count <= 32 || count > 64 ? count + count % 2 : (count + 3) / 4 * 4;
}

/* Scratch of lcu_median_row: the strip, three tables of rows, the list of times. */
static long lcu_median_scratch(long times, long bands) {
    return lcu_strip_bytes(times, bands) + (times + 4) * (3 * 2 * LCU_GROUP + 8);
}

/* Ask for the values of one band of a group that is needed soon: they come while others are sorted. */
LCU_INLINE void lcu_fetch(const lcu_cube *cube, long band, long y, long x) {
    long plane = cube->height * cube->width, pixel = y * cube->width + x;
    if (pixel >= plane) return;
    for (long time = 0; time < cube->times; ++time)
        __builtin_prefetch(cube->reflectance + (time * cube->bands + band) * plane + pixel, 0, 1);
}

/* Median of one group. Observations that do not count are replaced by 65535 and 0 in turn, so that as
   many lie above as below: then the middle rows of all are the middle of those that count. If their
   number is odd, so is the number replaced; it begins with a 65535, and the lower of the two is the median. */
LCU_INLINE void lcu_median_group(const lcu_cube *cube, const lcu_strip *strip, long y, long x) {
    long plane = cube->height * cube->width, width = lcu_least(LCU_GROUP, strip->width - x), count = 0;
    uint16_t *rows = (uint16_t *)strip->rest;                /* [row][LCU_GROUP] */
    uint16_t *keep = rows + (cube->times + 4) * LCU_GROUP;   /* LCU_NONE where it counts, else 0 */
    uint16_t *other = keep + (cube->times + 4) * LCU_GROUP;  /* what stands there instead */
    int64_t *place = (int64_t *)(other + (cube->times + 4) * LCU_GROUP); /* of its values in the strip */
    uint16_t lower[LCU_GROUP], upper[LCU_GROUP];
    uint16_t *values = cube->values + y * cube->width + strip->first + x;
    lcu_group number = lcu_count_group(cube, strip, y, x), odd = (lcu_group)((number & 1) != 0), turn = {0};

    for (long time = 0; time < strip->count; ++time) {
        lcu_group missing = lcu_read_group(strip->missing + time * LCU_STRIP + x);
        if (lcu_all_missing(missing)) continue;
        lcu_write_group(keep + count * LCU_GROUP, ~missing);
        place[count++] = time * cube->bands * LCU_STRIP + x;
    }
    if (count == 0) {
        for (long band = 0; band < cube->bands; ++band) memset(values + band * plane, 0, 2 * width);
        return;
    }
    for (long all = lcu_rows(count); count < all; ++count) {
        memset(keep + count * LCU_GROUP, 0, 2 * LCU_GROUP);
        place[count] = place[0];
    }
    for (long row = 0; row < count; ++row) {
        lcu_group missing = ~lcu_read_group(keep + row * LCU_GROUP);
        turn ^= missing;
        lcu_write_group(other + row * LCU_GROUP, missing & turn);
    }
    for (long band = 0; band < cube->bands; ++band) {
        for (long row = 0; row < count; ++row) {
            lcu_group own = lcu_read_group(strip->values + place[row] + band * LCU_STRIP);
            lcu_group masked = own & lcu_read_group(keep + row * LCU_GROUP);
            lcu_write_group(rows + row * LCU_GROUP, masked | lcu_read_group(other + row * LCU_GROUP));
        }
        lcu_fetch(cube, band, y, strip->first + LCU_STRIP + x);
        lcu_middle(rows, lower, upper, count);
        lcu_group one = lcu_read_group(lower), two = lcu_read_group(upper);
        two ^= (one ^ two) & odd;
        /* Half the sum, rounded up, without the bit that the sum has too many. */
        lcu_group half = (one | two) - ((one ^ two) >> 1);
        lcu_write_part(values + band * plane, half & (lcu_group)(number != 0), width);
    }
}

LCU_CLONES
void lcu_median_row(const lcu_cube *cube, long y, char *scratch) {
    lcu_strip strip;
    for (long first = 0; first < cube->width; first += LCU_STRIP) {
        lcu_load_strip(cube, y, first, scratch, &strip);
        for (long x = 0; x < strip.width; x += LCU_GROUP) lcu_median_group(cube, &strip, y, x);
    }
}

/* --- observations as vectors of all bands ---------------------------------------------------------- */

typedef float lcu_lanes __attribute__((vector_size(4 * LCU_LANES), aligned(4), may_alias));
typedef int32_t lcu_whole __attribute__((vector_size(4 * LCU_LANES), aligned(4), may_alias));

LCU_INLINE lcu_lanes lcu_all(float value) { return (lcu_lanes){0} + value; }

LCU_INLINE lcu_lanes lcu_where(lcu_whole mask, lcu_lanes yes, lcu_lanes no) {
    return (lcu_lanes)(((lcu_whole)yes & mask) | ((lcu_whole)no & ~mask));
}

/* All bits set where one is above the other: the sign of the difference, spread. (Comparisons of vectors
   of floats make GCC 12 fail for processors with mask registers.) */
LCU_INLINE lcu_whole lcu_above(lcu_lanes one, lcu_lanes other) { return (lcu_whole)(other - one) >> 31; }

/* 1 / sqrt(x) with a relative error below 8e-7, finite for 0: half the exponent, then Newton's iteration, whose first
   step is fitted to the error of that start. It takes a fraction of the time of a root and a division, and
   is the same everywhere. */
LCU_INLINE lcu_lanes lcu_inverse_root(lcu_lanes x) {
    lcu_lanes root = (lcu_lanes)(0x5f202000 - ((lcu_whole)x >> 1));
    root *= 1.68081531f - 0.70257363f * x * root * root;
    return root * (1.5f - 0.5f * x * root * root);
}

/* The observations of some pixels side by side, without the times that count for none of them. */
typedef struct {
    long count;          /* times that count for some pixel */
    lcu_lanes *vectors;  /* [count][band], reflectance 0..6.5535 */
    lcu_whole *used;     /* [count], all bits set where it counts, else 0 */
    lcu_lanes *sum;      /* [count], room for the distances to all others */
    int32_t *place;      /* [count], of the first band in the values of the strip */
} lcu_vectors;

static long lcu_vectors_scratch(long times, long bands) {
    return lcu_strip_bytes(times, bands) + times * (4 * LCU_LANES * (bands + 2) + 4);
}

LCU_INLINE void lcu_load_vectors(const lcu_cube *cube, const lcu_strip *strip, long x, lcu_vectors *all) {
    all->count = 0;
    all->vectors = (lcu_lanes *)strip->rest;
    all->used = (lcu_whole *)(all->vectors + cube->times * cube->bands);
    all->sum = (lcu_lanes *)(all->used + cube->times);
    all->place = (int32_t *)(all->sum + cube->times);
    for (long time = 0; time < strip->count; ++time) {
        const uint16_t *missing = strip->missing + time * LCU_STRIP + x;
        const uint16_t *values = strip->values + time * cube->bands * LCU_STRIP + x;
        int32_t *used = (int32_t *)(all->used + all->count), any = 0;
        for (int p = 0; p < LCU_LANES; ++p) {
            used[p] = missing[p] ? 0 : -1;
            any |= used[p];
        }
        if (!any) continue;
        for (long band = 0; band < cube->bands; ++band) {
            float *vector = (float *)(all->vectors + all->count * cube->bands + band);
            for (int p = 0; p < LCU_LANES; ++p) vector[p] = values[band * LCU_STRIP + p] * 1e-4f;
        }
        all->place[all->count++] = (int32_t)(values - strip->values);
    }
}

/* --- geometric median ------------------------------------------------------------------------------ */

/* The search for the geometric medians of LCU_LANES pixels at once. Some need many more iterations than
   others, so each lane that has ended takes the next pixel. */
typedef struct {
    const lcu_cube *cube;
    lcu_strip strip;            /* where the next pixel is taken from, */
    lcu_vectors next;           /* it and its neighbours, */
    lcu_lanes *mean;            /* [band], the means of these */
    char *scratch;
    long y, end, x;             /* its row, the end of the rows, its place in the strip */
    long most;                  /* most observations that a pixel in a lane has had */
    lcu_lanes *vectors;         /* [observation][band], reflectance 0..6.5535 */
    lcu_lanes *point, *step;    /* [band] */
    int32_t number[LCU_LANES];  /* observations of the pixel; 0 = the lane is empty */
    int32_t turns[LCU_LANES];   /* iterations that are left */
    long pixel[LCU_LANES];      /* y * width + x */
} lcu_search;

static long lcu_search_scratch(long times, long bands) {
    return lcu_vectors_scratch(times, bands) + 4 * LCU_LANES * (times + 3) * bands;
}

/* The means of the observations that count. */
LCU_INLINE void lcu_means(const lcu_vectors *all, lcu_lanes *mean, long bands) {
    lcu_lanes none = lcu_all(0), number = none;
    for (long time = 0; time < all->count; ++time) number += lcu_where(all->used[time], lcu_all(1), none);
    number = lcu_where(lcu_above(number, none), number, lcu_all(1));
    for (long band = 0; band < bands; ++band) {
        lcu_lanes sum = none;
        for (long time = 0; time < all->count; ++time)
            sum += lcu_where(all->used[time], all->vectors[time * bands + band], none);
        mean[band] = sum / number;
    }
}

/* Step to the next pixel; false after the last. */
LCU_INLINE int lcu_next_pixel(lcu_search *search) {
    if (++search->x >= search->strip.width) {
        long first = search->strip.first + search->strip.width;
        if (first >= search->cube->width) {
            ++search->y;
            first = 0;
        }
        if (search->y == search->end) return 0;
        lcu_load_strip(search->cube, search->y, first, search->scratch, &search->strip);
        search->x = 0;
    }
    if (search->x % LCU_LANES == 0) {
        lcu_load_vectors(search->cube, &search->strip, search->x, &search->next);
        lcu_means(&search->next, search->mean, search->cube->bands);
    }
    return 1;
}

/* Put the observations of the pixel and their mean into a lane; return how many they are. */
LCU_INLINE int32_t lcu_load_lane(lcu_search *search, int lane) {
    long bands = search->cube->bands, from = search->x % LCU_LANES;
    float *vector = (float *)search->vectors + lane;
    int32_t number = 0;
    for (long time = 0; time < search->next.count; ++time) {
        const float *own = (float *)(search->next.vectors + time * bands) + from;
        if (!((int32_t *)(search->next.used + time))[from]) continue;
        for (long band = 0; band < bands; ++band) vector[band * LCU_LANES] = own[band * LCU_LANES];
        vector += bands * LCU_LANES;
        ++number;
    }
    for (long band = 0; band < bands; ++band)
        ((float *)search->point)[band * LCU_LANES + lane] = ((float *)search->mean)[band * LCU_LANES + from];
    return number;
}

/* Write the point of a lane, x 10000 and rounded half up; 0 without any observation. */
LCU_INLINE void lcu_write_lane(const lcu_search *search, int lane, long pixel, int32_t number) {
    long plane = search->cube->height * search->cube->width;
    for (long band = 0; band < search->cube->bands; ++band) {
        int32_t value = (int32_t)(((float *)search->point)[band * LCU_LANES + lane] * 10000 + 0.5f);
        value = value < 1 ? 1 : value > 65535 ? 65535 : value;
        search->cube->values[band * plane + pixel] = number ? (uint16_t)value : 0;
    }
}

/* Take the next pixel that needs a search. Of one observation the mean is itself, and of two it is as good
   as any point between them: these are written at once. */
LCU_INLINE void lcu_fill_lane(lcu_search *search, int lane, long limit) {
    search->number[lane] = 0;
    while (search->y < search->end && lcu_next_pixel(search)) {
        long pixel = search->y * search->cube->width + search->strip.first + search->x;
        int32_t number = lcu_load_lane(search, lane);
        search->cube->counts[pixel] = number < 255 ? number : 255;
        if (number > 2) {
            search->number[lane] = number;
            search->turns[lane] = limit;
            search->pixel[lane] = pixel;
            search->most = number > search->most ? number : search->most;
            return;
        }
        lcu_write_lane(search, lane, pixel, number);
    }
}

/* What the observations do to a point, besides pulling it: the sum of 1 / distance, and how many lie on it. */
typedef struct {
    lcu_lanes weight, atop;
} lcu_forces;

/* Sum the differences of all observations to `point` [band], each divided by its length, to `pull` [band]. */
LCU_INLINE lcu_forces lcu_pull(const lcu_search *search, const lcu_lanes *restrict point, lcu_lanes *restrict pull,
                               long bands) {
    lcu_forces forces = {lcu_all(0), lcu_all(0)};
    lcu_whole number = *(const lcu_whole *)search->number;
    #pragma GCC unroll 16
    for (long band = 0; band < bands; ++band) pull[band] = lcu_all(0);
    for (long time = 0; time < search->most; ++time) {
        const lcu_lanes *restrict own = search->vectors + time * bands;
        lcu_whole used = ((int32_t)time - number) >> 31;
        lcu_lanes square = lcu_all(0), odd = square; /* two sums: neither has to wait for the other */
        #pragma GCC unroll 16
        for (long band = 0; band < bands; ++band) {
            lcu_lanes part = (own[band] - point[band]) * (own[band] - point[band]);
            if (band % 2) odd += part; else square += part;
        }
        square += odd;
        lcu_whole far = lcu_above(square, lcu_all(1e-14f)) & used;
        lcu_lanes weight = lcu_where(far, lcu_inverse_root(square), lcu_all(0));
        forces.weight += weight;
        forces.atop += lcu_where(used & ~far, lcu_all(1), lcu_all(0));
        #pragma GCC unroll 16
        for (long band = 0; band < bands; ++band) pull[band] += weight * (own[band] - point[band]);
    }
    return forces;
}

/* The same; for usual numbers of bands there is code that keeps them in registers. */
LCU_INLINE lcu_forces lcu_pull_of_bands(const lcu_search *search) {
#define LCU_CASE(n) \
    case n: { \
        lcu_lanes at[n], to[n]; \
        memcpy(at, search->point, sizeof at); \
        lcu_forces forces = lcu_pull(search, at, to, n); \
        memcpy(search->step, to, sizeof to); \
        return forces; \
    }
    switch (search->cube->bands) { LCU_CASE(4) LCU_CASE(6) LCU_CASE(10) LCU_CASE(12) }
#undef LCU_CASE
    return lcu_pull(search, search->point, search->step, search->cube->bands);
}

/* One iteration of Weiszfeld with the step of Vardi and Zhang (PNAS 97, 2000): to the mean of the observations,
   weighted by 1 / distance, held back by those that lie on the point itself. Returns the length of the step. */
LCU_INLINE lcu_lanes lcu_iterate(lcu_search *search) {
    lcu_forces forces = lcu_pull_of_bands(search);
    lcu_lanes none = lcu_all(0), square = none;
    lcu_whole pulled = lcu_above(forces.weight, none);
    lcu_lanes inverse = lcu_where(pulled, 1 / lcu_where(pulled, forces.weight, lcu_all(1)), none);
    for (long band = 0; band < search->cube->bands; ++band) {
        search->step[band] *= inverse;
        square += search->step[band] * search->step[band];
    }
    lcu_lanes inverse_length = lcu_inverse_root(square);
    lcu_lanes part = 1 - lcu_where(lcu_above(square, none), forces.atop * inverse * inverse_length, none);
    part = lcu_where(lcu_above(part, none), part, none);
    for (long band = 0; band < search->cube->bands; ++band) search->point[band] += part * search->step[band];
    return part * square * inverse_length;
}

/* Geometric medians of the rows from y to end. */
LCU_CLONES
void lcu_geometric_median_rows(const lcu_cube *cube, long y, long end, float tolerance, long limit, char *scratch) {
    lcu_search search = {.cube = cube, .scratch = scratch, .y = y - 1, .end = end, .most = 0};
    search.strip.first = cube->width; /* as if at the end of the row before */
    search.mean = (lcu_lanes *)(scratch + lcu_vectors_scratch(cube->times, cube->bands));
    search.vectors = search.mean + cube->bands;
    search.point = search.vectors + cube->times * cube->bands;
    search.step = search.point + cube->bands;
    memset(search.vectors, 0, 4 * LCU_LANES * cube->times * cube->bands);
    long busy = 0;
    for (int lane = 0; lane < LCU_LANES; ++lane) {
        lcu_fill_lane(&search, lane, limit);
        busy += search.number[lane] > 0;
    }
    while (busy > 0) {
        lcu_lanes length = lcu_iterate(&search);
        for (int lane = 0; lane < LCU_LANES; ++lane) {
            if (search.number[lane] == 0) continue;
            if (((float *)&length)[lane] >= tolerance && --search.turns[lane] > 0) continue;
            lcu_write_lane(&search, lane, search.pixel[lane], search.number[lane]);
            lcu_fill_lane(&search, lane, limit);
            busy -= search.number[lane] == 0;
        }
    }
}

/* --- medoid ---------------------------------------------------------------------------------------- */

/* Write for each pixel the observation that begins at `place` in the values of the strip; 0 where that is negative. */
LCU_INLINE void lcu_write_chosen(const lcu_cube *cube, const lcu_strip *strip, long y, long x, const int32_t *place,
                                 long pixels) {
    long plane = cube->height * cube->width, width = lcu_least(pixels, strip->width - x);
    uint16_t *values = cube->values + y * cube->width + strip->first + x;
    for (long band = 0; band < cube->bands; ++band)
        for (long p = 0; p < width; ++p)
            values[band * plane + p] = place[p] < 0 ? 0 : strip->values[place[p] + band * LCU_STRIP + p];
}

/* Medoid of LCU_LANES pixels. Every distance is computed once; the sum of an observation grows in the order of
   the times. */
LCU_INLINE void lcu_medoid_lanes(const lcu_cube *cube, const lcu_strip *strip, long y, long x) {
    lcu_vectors all;
    lcu_load_vectors(cube, strip, x, &all);
    lcu_lanes *sum = all.sum, least = lcu_all(1e30f);
    lcu_whole best = (lcu_whole){0} - 1;
    for (long time = 0; time < all.count; ++time) sum[time] = lcu_all(0);
    for (long one = 0; one < all.count; ++one) {
        const lcu_lanes *own = all.vectors + one * cube->bands;
        for (long time = one + 1; time < all.count; ++time) {
            const lcu_lanes *other = all.vectors + time * cube->bands;
            lcu_lanes square = lcu_all(0);
            for (long band = 0; band < cube->bands; ++band)
                square += (own[band] - other[band]) * (own[band] - other[band]);
            lcu_lanes distance = square * lcu_inverse_root(square);
            sum[one] += lcu_where(all.used[time], distance, lcu_all(0));
            sum[time] += lcu_where(all.used[one], distance, lcu_all(0));
        }
        lcu_whole better = lcu_above(least, sum[one]) & all.used[one];
        least = lcu_where(better, sum[one], least);
        best = (best & ~better) | (all.place[one] & better);
    }
    lcu_write_chosen(cube, strip, y, x, (int32_t *)&best, LCU_LANES);
}

LCU_CLONES
void lcu_medoid_row(const lcu_cube *cube, long y, char *scratch) {
    lcu_strip strip;
    for (long first = 0; first < cube->width; first += LCU_STRIP) {
        lcu_load_strip(cube, y, first, scratch, &strip);
        for (long x = 0; x < strip.width; x += LCU_GROUP) lcu_count_group(cube, &strip, y, x);
        for (long x = 0; x < strip.width; x += LCU_LANES) lcu_medoid_lanes(cube, &strip, y, x);
    }
}

/* --- largest NDVI ---------------------------------------------------------------------------------- */

/* (nir - red) / (nir + red) grows with nir / red, and two such fractions are compared by their cross
   products: whole numbers, so that ties are ties. */
LCU_INLINE void lcu_max_ndvi_group(const lcu_cube *cube, const lcu_strip *strip, long y, long x, long red, long nir) {
    uint32_t best_red[LCU_GROUP], best_nir[LCU_GROUP];
    int32_t best[LCU_GROUP];
    for (int p = 0; p < LCU_GROUP; ++p) {
        best_red[p] = 1;
        best_nir[p] = 0;
        best[p] = -1;
    }
    for (long time = 0; time < strip->count; ++time) {
        int32_t place = (int32_t)(time * cube->bands * LCU_STRIP + x);
        const uint16_t *own_red = strip->values + place + red * LCU_STRIP;
        const uint16_t *own_nir = strip->values + place + nir * LCU_STRIP;
        const uint16_t *missing = strip->missing + time * LCU_STRIP + x;
        for (int p = 0; p < LCU_GROUP; ++p) {
            int better = (missing[p] == 0) & (own_nir[p] * best_red[p] > best_nir[p] * own_red[p]);
            best_red[p] = better ? own_red[p] : best_red[p];
            best_nir[p] = better ? own_nir[p] : best_nir[p];
            best[p] = better ? place : best[p];
        }
    }
    lcu_write_chosen(cube, strip, y, x, best, LCU_GROUP);
}

LCU_CLONES
void lcu_max_ndvi_row(const lcu_cube *cube, long y, long red, long nir, char *scratch) {
    lcu_strip strip;
    for (long first = 0; first < cube->width; first += LCU_STRIP) {
        lcu_load_strip(cube, y, first, scratch, &strip);
        for (long x = 0; x < strip.width; x += LCU_GROUP) {
            lcu_count_group(cube, &strip, y, x);
            lcu_max_ndvi_group(cube, &strip, y, x, red, nir);
        }
    }
}

/* --- gaps and masks -------------------------------------------------------------------------------- */

/* Bytes of scratch of lcu_fill_row: for every time the next known value and its day. */
static long lcu_fill_scratch(long times) { return times * LCU_STRIP * 8; }

/* Linear in time between known values, rounded half up; between two of the same day the first. The whole numbers
   below are exact in double precision, and so is the quotient rounded down: it is either whole or further from
   the next whole number than the rounding of a quotient reaches. */
LCU_INLINE void lcu_between(const int32_t *before, const int32_t *after, const int32_t *day_before,
                            const int32_t *day_after, int32_t day, int32_t *between, long width) {
    for (long x = 0; x < width; ++x) {
        double since = (double)day - day_before[x], left = (double)day_after[x] - day, span = since + left;
        double twice = 2 * (before[x] * left + after[x] * since) + span;
        between[x] = (int32_t)(twice / (span > 0 ? 2 * span : 1));
    }
    for (long x = 0; x < width; ++x) between[x] = day_after[x] > day_before[x] ? between[x] : before[x];
}

/* Fill the gaps of a strip of one row of one band; `stride` lies between two times. Beyond the ends the known
   value is thought to stay: then what lies between is that value too. */
LCU_INLINE void lcu_fill_strip(const uint16_t *restrict reflectance, const int32_t *days, uint16_t *restrict filled,
                               uint8_t *restrict flags, long times, long stride, long width,
                               int32_t *restrict scratch) {
    int32_t *restrict next = scratch;                          /* [time][LCU_STRIP], 0 = none */
    int32_t *restrict next_day = scratch + times * LCU_STRIP;  /* [time][LCU_STRIP] */
    int32_t last[LCU_STRIP], last_day[LCU_STRIP], before[LCU_STRIP], after[LCU_STRIP], between[LCU_STRIP];
    for (long x = 0; x < LCU_STRIP; ++x) {
        last[x] = 0;
        last_day[x] = days[times - 1] + 1;
    }
    for (long time = times - 1; time >= 0; --time) {
        const uint16_t *restrict own = reflectance + time * stride;
        for (long x = 0; x < width; ++x) {
            int32_t value = own[x];
            last[x] = value > 0 ? value : last[x];
            last_day[x] = value > 0 ? days[time] : last_day[x];
        }
        memcpy(next + time * LCU_STRIP, last, sizeof last);
        memcpy(next_day + time * LCU_STRIP, last_day, sizeof last_day);
    }
    for (long x = 0; x < width; ++x) {
        last[x] = 0;
        last_day[x] = days[0] - 1;
    }
    for (long time = 0; time < times; ++time) {
        const uint16_t *restrict own = reflectance + time * stride;
        for (long x = 0; x < width; ++x) {
            int32_t value = own[x], coming = next[time * LCU_STRIP + x];
            last[x] = value > 0 ? value : last[x];
            last_day[x] = value > 0 ? days[time] : last_day[x];
            before[x] = last[x] > 0 ? last[x] : coming;
            after[x] = coming > 0 ? coming : last[x];
        }
        lcu_between(before, after, last_day, next_day + time * LCU_STRIP, days[time], between, width);
        for (long x = 0; x < width; ++x) filled[time * stride + x] = (uint16_t)between[x];
        for (long x = 0; x < width; ++x) flags[time * stride + x] = own[x] == 0;
    }
}

LCU_CLONES
void lcu_fill_row(const uint16_t *reflectance, const int32_t *days, uint16_t *filled, uint8_t *flags,
                  long times, long stride, long width, char *scratch) {
    for (long x = 0; x < width; x += LCU_STRIP)
        lcu_fill_strip(reflectance + x, days, filled + x, flags + x, times, stride,
                       lcu_least(LCU_STRIP, width - x), (int32_t *)scratch);
}

/* Bytes of scratch of lcu_resample_row: for every wanted day the observations on both sides, and their days. */
static long lcu_resample_scratch(long wanted) { return wanted * LCU_STRIP * 16; }

/* Where the neighbours in time of every wanted day are, for a strip of one row: slots, -1 = none. Where a pixel has
   none on one side, both are the one on the other side. */
static void lcu_neighbours(const int32_t *days, const int32_t *at, long times, long wanted, long stride, long width,
                           int32_t *before, int32_t *after, int32_t *day_before, int32_t *day_after) {
    for (long x = 0; x < width; ++x) {
        long last = -1, next = 0;
        for (long want = 0; want < wanted; ++want) {
            for (; next < times && (days[next * stride + x] == 0 || days[next * stride + x] <= at[want]); ++next)
                if (days[next * stride + x] > 0) last = next;
            long first = last >= 0 ? last : next < times ? next : -1;
            long second = next < times ? next : last, place = want * LCU_STRIP + x;
            before[place] = (int32_t)first;
            after[place] = (int32_t)second;
            day_before[place] = first < 0 ? 0 : days[first * stride + x];
            day_after[place] = second < 0 ? 0 : days[second * stride + x];
        }
    }
}

/* Read the series of one row at wanted days; `days` [time][y][x], 0 = none, ascend in every pixel. `stride` lies between
   two rasters of one band, so between two days of a pixel as well. */
LCU_CLONES
void lcu_resample_row(const uint16_t *reflectance, const int32_t *days, const int32_t *at, uint16_t *found,
                      long times, long wanted, long bands, long stride, long width, char *scratch) {
    int32_t *before = (int32_t *)scratch, *after = before + wanted * LCU_STRIP;
    int32_t *day_before = after + wanted * LCU_STRIP, *day_after = day_before + wanted * LCU_STRIP;
    int32_t first[LCU_STRIP], second[LCU_STRIP], between[LCU_STRIP];
    for (long start = 0; start < width; start += LCU_STRIP) {
        long strip = lcu_least(LCU_STRIP, width - start);
        lcu_neighbours(days + start, at, times, wanted, stride, strip, before, after, day_before, day_after);
        for (long want = 0; want < wanted; ++want) {
            long place = want * LCU_STRIP;
            for (long band = 0; band < bands; ++band) {
                const uint16_t *own = reflectance + band * stride + start;
                for (long x = 0; x < strip; ++x) {
                    first[x] = before[place + x] < 0 ? 0 : own[before[place + x] * bands * stride + x];
                    second[x] = after[place + x] < 0 ? 0 : own[after[place + x] * bands * stride + x];
                }
                lcu_between(first, second, day_before + place, day_after + place, at[want], between, strip);
                uint16_t *out = found + (want * bands + band) * stride + start;
                for (long x = 0; x < strip; ++x) out[x] = (uint16_t)between[x];
            }
        }
    }
}

/* Columns from each pixel to the nearest set one of its row; `far` where there is none. */
static void lcu_distance_in_row(const uint8_t *mask, int32_t *distance, long width, int32_t far) {
    int32_t steps = far;
    for (long x = 0; x < width; ++x) {
        steps = mask[x] ? 0 : steps < far ? steps + 1 : far;
        distance[x] = steps;
    }
    for (long x = width - 1; x >= 0; --x) {
        steps = steps < distance[x] ? steps + 1 : distance[x];
        distance[x] = steps = steps < distance[x] ? steps : distance[x];
    }
}

/* Set the pixels of a row that lie within `reach` columns of a set one in another row. */
LCU_CLONES
void lcu_spread_row(const int32_t *restrict distance, uint8_t *restrict grown, long width, int32_t reach) {
    for (long x = 0; x < width; ++x) grown[x] |= distance[x] <= reach;
}

#endif
