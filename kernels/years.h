/* The inner loops of the choice over years, compiled once for each kind of processor.

   Pixels are worked on in strips of LCU_STRIP, side by side in every loop, so that the compiler makes vectors of
   them. What a strip needs (years x classes numbers a pixel) stays in the cache, and every probability is read from
   memory once. Products are used and no logarithms: after each year they are divided by the largest of the pixel, so
   that none vanishes but those that are more than 10^37 times less likely. Sums are taken in the order of the classes:
   no result depends on the processor or on the neighbours. */

#ifndef LCU_YEARS_H
#define LCU_YEARS_H

#include <stdint.h>
#include <string.h>

#include "clones.h"

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed to inlined functions only */

#define LCU_STRIP 64    /* pixels that are worked on at once */
#define LCU_LANES 16    /* pixels of a vector: the widest there are */
#define LCU_TOGETHER 4  /* classes whose best step is sought at once */
#define LCU_LEAST 1e-37f /* what is less likely than this is impossible: its reciprocal would not be a number */
#define LCU_MISSING 255 /* the class of a pixel without any year */

/* What is decoded. */
typedef struct {
    const float *probability; /* [year][class][pixel], NaN = missing */
    const float *transition;  /* [year - 1][from][to]; 0 where a class stays */
    const float *reverse;     /* [year - 1][to][from], the same */
    const float *diagonal;    /* [year - 1][class]: of a class that stays */
    const float *stay;        /* [year - 1][pixel]: what this is multiplied with */
    long years, classes, pixels;
} lcu_years;

typedef float lcu_lanes __attribute__((vector_size(4 * LCU_LANES), aligned(4), may_alias));

/* The larger of two vectors, element by element: the compiler makes one instruction of it. */
LCU_INLINE lcu_lanes lcu_most(lcu_lanes one, lcu_lanes other) {
    lcu_lanes most;
    for (int i = 0; i < LCU_LANES; ++i) most[i] = one[i] > other[i] ? one[i] : other[i];
    return most;
}

LCU_INLINE float lcu_larger(float one, float other) { return one > other ? one : other; }

/* Scratch of one thread, in floats: two arrays [year][class][LCU_STRIP] and two [class][LCU_STRIP]. */
static inline long lcu_years_scratch(long years, long classes) {
    return (2 * years + 2) * classes * LCU_STRIP;
}

/* One step of the years, for a strip. */
typedef struct {
    const float *transition, *reverse, *diagonal;
    float stay[LCU_STRIP];
} lcu_step;

/* Take the step that follows `year`; 1 beyond the last pixel. */
LCU_INLINE void lcu_take_step(const lcu_years *in, long year, long first, long width, lcu_step *step) {
    step->transition = in->transition + year * in->classes * in->classes;
    step->reverse = in->reverse + year * in->classes * in->classes;
    step->diagonal = in->diagonal + year * in->classes;
    for (int x = 0; x < LCU_STRIP; ++x) step->stay[x] = x < width ? in->stay[year * in->pixels + first + x] : 1;
}

/* Copy one year of a strip to [class][LCU_STRIP]: 1 for all classes where it is missing (NaN in any class, or
   nothing above 0) and beyond the last pixel. Returns in `seen` [LCU_STRIP] whether it is there. */
LCU_INLINE void lcu_take(const lcu_years *in, long year, long first, long width, float *values, int32_t *seen) {
    float sum[LCU_STRIP];
    int32_t all = 1;
    for (int x = 0; x < LCU_STRIP; ++x) sum[x] = 0;
    for (long c = 0; c < in->classes; ++c) {
        const float *from = in->probability + (year * in->classes + c) * in->pixels + first;
        float *row = values + c * LCU_STRIP;
        if (width < LCU_STRIP) {
            memset(row, 0, LCU_STRIP * sizeof *row);
            memcpy(row, from, width * sizeof *row);
            from = row;
        }
        for (int x = 0; x < LCU_STRIP; ++x) sum[x] += row[x] = from[x];
    }
    for (int x = 0; x < LCU_STRIP; ++x) all &= seen[x] = sum[x] > 0;
    if (all) return;
    for (long c = 0; c < in->classes; ++c)
        for (int x = 0; x < LCU_STRIP; ++x)
            values[c * LCU_STRIP + x] = seen[x] ? values[c * LCU_STRIP + x] : 1;
}

/* Multiply this year's values with what the year before left, and divide by the largest. Where that leaves nothing the
   years contradict each other (zeros in the transitions): the sequence begins anew with this year. */
LCU_INLINE void lcu_join(const float *own, float *values, long classes) {
    float most[LCU_STRIP];
    int32_t all = 1;
    for (int x = 0; x < LCU_STRIP; ++x) most[x] = 0;
    for (long c = 0; c < classes; ++c)
        for (int x = 0; x < LCU_STRIP; ++x) {
            float value = values[c * LCU_STRIP + x] * own[c * LCU_STRIP + x];
            values[c * LCU_STRIP + x] = value;
            most[x] = lcu_larger(value, most[x]);
        }
    for (int x = 0; x < LCU_STRIP; ++x) all &= most[x] > LCU_LEAST;
    if (!all)
        for (int x = 0; x < LCU_STRIP; ++x)
            if (!(most[x] > LCU_LEAST)) {
                most[x] = 0;
                for (long c = 0; c < classes; ++c) {
                    values[c * LCU_STRIP + x] = own[c * LCU_STRIP + x];
                    most[x] = lcu_larger(own[c * LCU_STRIP + x], most[x]);
                }
            }
    for (int x = 0; x < LCU_STRIP; ++x) most[x] = 1 / most[x];
    for (long c = 0; c < classes; ++c)
        for (int x = 0; x < LCU_STRIP; ++x) values[c * LCU_STRIP + x] *= most[x];
}

/* Largest product over the classes of the year before: next[to] = max before[from] transition[from][to], of the same
   class times `stay`. LCU_TOGETHER classes for each load, so that the running values stay in registers. */
LCU_INLINE void lcu_best_step(const float *before, const lcu_step *step, float *next, long classes) {
    for (long to = 0; to < classes; to += LCU_TOGETHER) {
        const float *weight[LCU_TOGETHER]; /* beyond the last class the last one again */
        for (int k = 0; k < LCU_TOGETHER; ++k)
            weight[k] = step->reverse + (to + k < classes ? to + k : classes - 1) * classes;
        for (int x = 0; x < LCU_STRIP; x += LCU_LANES) {
            lcu_lanes best[LCU_TOGETHER] = {{0}}, stay = *(const lcu_lanes *)(step->stay + x);
            for (long from = 0; from < classes; ++from) {
                lcu_lanes value = *(const lcu_lanes *)(before + from * LCU_STRIP + x);
                #pragma GCC unroll 4
                for (int k = 0; k < LCU_TOGETHER; ++k) best[k] = lcu_most(value * weight[k][from], best[k]);
            }
            for (int k = 0; k < LCU_TOGETHER && to + k < classes; ++k) {
                lcu_lanes same = *(const lcu_lanes *)(before + (to + k) * LCU_STRIP + x);
                *(lcu_lanes *)(next + (to + k) * LCU_STRIP + x) =
                    lcu_most(same * step->diagonal[to + k] * stay, best[k]);
            }
        }
    }
}

/* Sum of the products: next[to] = sum before[from] weights[to][from], and of the same class, times `stay`. */
LCU_INLINE void lcu_sum_step(
    const float *before, const float *weights, const lcu_step *step, float *next, long classes
) {
    for (long to = 0; to < classes; ++to) {
        float sum[LCU_STRIP];
        const float *weight = weights + to * classes;
        for (int x = 0; x < LCU_STRIP; ++x) sum[x] = 0;
        for (long from = 0; from < classes; ++from)
            for (int x = 0; x < LCU_STRIP; ++x) sum[x] += before[from * LCU_STRIP + x] * weight[from];
        for (int x = 0; x < LCU_STRIP; ++x)
            next[to * LCU_STRIP + x] = sum[x] + before[to * LCU_STRIP + x] * step->diagonal[to] * step->stay[x];
    }
}

/* The class from which a step to `after` [LCU_STRIP] is best, the first among equals; where no step is possible the
   best class of this year alone. */
LCU_INLINE void lcu_step_back(const float *values, const lcu_step *step, int32_t *after, long classes) {
    float best[LCU_STRIP], alone[LCU_STRIP];
    int32_t from_best[LCU_STRIP], from_alone[LCU_STRIP];
    for (int x = 0; x < LCU_STRIP; ++x) best[x] = alone[x] = 0, from_best[x] = from_alone[x] = 0;
    for (long from = 0; from < classes; ++from) {
        const float *weight = step->transition + from * classes; /* 0 where the class stays: that comes below */
        for (int x = 0; x < LCU_STRIP; ++x) {
            float value = values[from * LCU_STRIP + x], taken = value * weight[after[x]];
            from_best[x] = taken > best[x] ? (int32_t)from : from_best[x];
            best[x] = lcu_larger(taken, best[x]);
            from_alone[x] = value > alone[x] ? (int32_t)from : from_alone[x];
            alone[x] = lcu_larger(value, alone[x]);
        }
    }
    for (int x = 0; x < LCU_STRIP; ++x) {
        float same = values[after[x] * LCU_STRIP + x] * step->diagonal[after[x]] * step->stay[x];
        int stays = same > best[x] || (same == best[x] && after[x] < from_best[x]);
        from_best[x] = stays ? after[x] : from_best[x];
        best[x] = lcu_larger(same, best[x]);
    }
    for (int x = 0; x < LCU_STRIP; ++x) after[x] = best[x] > 0 ? from_best[x] : from_alone[x];
}

/* The most likely sequence of classes of a strip (Viterbi), to labels [year][pixel]. */
LCU_CLONES static void lcu_decode_strip(const lcu_years *in, long first, uint8_t *labels, float *scratch) {
    long classes = in->classes, size = classes * LCU_STRIP;
    long width = in->pixels - first < LCU_STRIP ? in->pixels - first : LCU_STRIP;
    float *values = scratch, *own = scratch + in->years * size; /* [year][class][strip]; [class][strip] */
    int32_t seen[LCU_STRIP], any[LCU_STRIP], label[LCU_STRIP];
    lcu_step step;
    for (int x = 0; x < LCU_STRIP; ++x) any[x] = label[x] = 0;
    for (long year = 0; year < in->years; ++year) {
        float *now = values + year * size;
        lcu_take(in, year, first, width, own, seen);
        for (int x = 0; x < LCU_STRIP; ++x) any[x] |= seen[x];
        if (year > 0) {
            lcu_take_step(in, year - 1, first, width, &step);
            lcu_best_step(now - size, &step, now, classes);
        } else for (long i = 0; i < size; ++i) now[i] = 1;
        lcu_join(own, now, classes);
    }
    for (long year = in->years - 1; year >= 0; --year) {
        float *now = values + year * size;
        if (year < in->years - 1) {
            lcu_take_step(in, year, first, width, &step);
            lcu_step_back(now, &step, label, classes);
        } else { /* the last year alone: the best of its values */
            float most[LCU_STRIP];
            for (int x = 0; x < LCU_STRIP; ++x) most[x] = 0;
            for (long c = 0; c < classes; ++c)
                for (int x = 0; x < LCU_STRIP; ++x) {
                    label[x] = now[c * LCU_STRIP + x] > most[x] ? (int32_t)c : label[x];
                    most[x] = lcu_larger(now[c * LCU_STRIP + x], most[x]);
                }
        }
        for (long x = 0; x < width; ++x)
            labels[year * in->pixels + first + x] = any[x] ? (uint8_t)label[x] : LCU_MISSING;
    }
}

/* The probability of every class given all years, to posterior [year][class][pixel], and of a change between a year and
   the next, to change [year - 1][pixel] (forward-backward). */
LCU_CLONES static void lcu_posterior_strip(
    const lcu_years *in, long first, float *posterior, float *change, float *scratch
) {
    long classes = in->classes, size = classes * LCU_STRIP;
    long width = in->pixels - first < LCU_STRIP ? in->pixels - first : LCU_STRIP;
    float *forward = scratch, *own = forward + in->years * size; /* both [year][class][strip] */
    float *after = own + in->years * size, *before = after + size; /* both [class][strip] */
    int32_t seen[LCU_STRIP];
    lcu_step step;
    for (long year = 0; year < in->years; ++year) {
        float *now = forward + year * size;
        lcu_take(in, year, first, width, own + year * size, seen);
        if (year > 0) {
            lcu_take_step(in, year - 1, first, width, &step);
            lcu_sum_step(now - size, step.reverse, &step, now, classes);
        } else for (long i = 0; i < size; ++i) now[i] = 1;
        lcu_join(own + year * size, now, classes);
    }
    for (long i = 0; i < size; ++i) after[i] = 1; /* of what follows, given the class of this year */
    for (long year = in->years - 1; year >= 0; --year) {
        float *now = forward + year * size, sum[LCU_STRIP];
        if (year < in->years - 1) {
            float same[LCU_STRIP], all[LCU_STRIP];
            lcu_take_step(in, year, first, width, &step);
            /* `after` holds own x after of the next year: to this year's classes by the transitions. */
            lcu_sum_step(after, step.transition, &step, before, classes);
            for (int x = 0; x < LCU_STRIP; ++x) same[x] = all[x] = 0;
            for (long c = 0; c < classes; ++c)
                for (int x = 0; x < LCU_STRIP; ++x) {
                    float value = now[c * LCU_STRIP + x];
                    all[x] += value * before[c * LCU_STRIP + x];
                    same[x] += value * step.diagonal[c] * step.stay[x] * after[c * LCU_STRIP + x];
                }
            for (long x = 0; x < width; ++x) {
                float moved = all[x] > 0 ? (all[x] - same[x]) / all[x] : 1;
                change[year * in->pixels + first + x] = moved < 0 ? 0 : moved;
            }
            memcpy(after, before, size * sizeof *after);
            /* Contradictory years: what follows says nothing about this one. */
            for (long c = 0; c < classes; ++c)
                for (int x = 0; x < LCU_STRIP; ++x)
                    if (!(all[x] > 0)) after[c * LCU_STRIP + x] = 1;
        }
        for (int x = 0; x < LCU_STRIP; ++x) sum[x] = 0;
        for (long c = 0; c < classes; ++c)
            for (int x = 0; x < LCU_STRIP; ++x) sum[x] += now[c * LCU_STRIP + x] * after[c * LCU_STRIP + x];
        for (long c = 0; c < classes; ++c) {
            float *out = posterior + (year * classes + c) * in->pixels + first;
            for (long x = 0; x < width; ++x)
                out[x] = now[c * LCU_STRIP + x] * after[c * LCU_STRIP + x] / sum[x];
        }
        lcu_join(own + year * size, after, classes);
    }
}

#endif
