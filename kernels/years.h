/* The inner loops of the choice over years, compiled once for each kind of processor.

   Pixels are worked on in strips of LCU_STRIP, side by side in every loop, so that the compiler makes vectors of
   them. What a strip needs (years x classes numbers a pixel) stays in the cache, and every probability is read from
   memory once. Products are used and no logarithms: after each year they are divided by the largest of the pixel, so
   that none vanishes but those that are more than 10^37 times less likely. Sums are taken in a fixed order: no result
   depends on the processor or on the neighbours.

   What a class that stays is multiplied with may depend on the year since which it has stayed. Then the way to a class
   is kept for each such year, its start: a row [start][class] of numbers for every year and pixel, where there is one
   of [class] otherwise. */

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
    const float *stay;        /* [step (step + 1) / 2 + start][pixel]: what this is multiplied with; NULL = 1 */
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

/* How many starts are told apart in a year, and in all years before it. */
static inline long lcu_starts(const lcu_years *in, long year) { return in->stay ? year + 1 : 1; }
static inline long lcu_starts_before(const lcu_years *in, long year) { return in->stay ? year * (year + 1) / 2 : year; }

/* Scratch of one thread, in floats: rows [class][LCU_STRIP], the most of which the posterior takes. */
static inline long lcu_years_scratch(const lcu_years *in) {
    long rows = lcu_starts_before(in, in->years) + lcu_starts(in, in->years - 1) + 2 * in->years + 2;
    return rows * in->classes * LCU_STRIP;
}

/* The step from one year to the next. */
typedef struct {
    const float *transition, *reverse, *diagonal;
} lcu_step;

LCU_INLINE lcu_step lcu_step_after(const lcu_years *in, long year) {
    long first = year * in->classes;
    lcu_step step = {in->transition + first * in->classes, in->reverse + first * in->classes, in->diagonal + first};
    return step;
}

/* What staying from `year` to the next is multiplied with, for a strip; 1 beyond the last pixel. */
LCU_INLINE void lcu_take_stay(const lcu_years *in, long year, long start, long first, long width, float *stay) {
    const float *from = in->stay ? in->stay + (lcu_starts_before(in, year) + start) * in->pixels + first : NULL;
    for (int x = 0; x < LCU_STRIP; ++x) stay[x] = from && x < width ? from[x] : 1;
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

/* Multiply rows [start][class] with what this year says [class], and divide by the largest. Where that leaves nothing
   the years contradict each other (zeros in the transitions): the sequence begins anew with this year, in the last
   start, or in `all` of them. */
LCU_INLINE void lcu_join(const float *own, float *values, long starts, long classes, int all_starts) {
    float most[LCU_STRIP];
    int32_t all = 1;
    for (int x = 0; x < LCU_STRIP; ++x) most[x] = 0;
    for (long s = 0; s < starts; ++s)
        for (long c = 0; c < classes; ++c)
            for (int x = 0; x < LCU_STRIP; ++x) {
                float value = values[(s * classes + c) * LCU_STRIP + x] * own[c * LCU_STRIP + x];
                values[(s * classes + c) * LCU_STRIP + x] = value;
                most[x] = lcu_larger(value, most[x]);
            }
    for (int x = 0; x < LCU_STRIP; ++x) all &= most[x] > LCU_LEAST;
    if (!all)
        for (int x = 0; x < LCU_STRIP; ++x)
            if (!(most[x] > LCU_LEAST)) {
                most[x] = 0;
                for (long s = 0; s < starts; ++s)
                    for (long c = 0; c < classes; ++c)
                        values[(s * classes + c) * LCU_STRIP + x] =
                            all_starts || s == starts - 1 ? own[c * LCU_STRIP + x] : 0;
                for (long c = 0; c < classes; ++c) most[x] = lcu_larger(own[c * LCU_STRIP + x], most[x]);
            }
    for (int x = 0; x < LCU_STRIP; ++x) most[x] = 1 / most[x];
    for (long row = 0; row < starts * classes; ++row)
        for (int x = 0; x < LCU_STRIP; ++x) values[row * LCU_STRIP + x] *= most[x];
}

/* Multiply rows [class] of a start with what staying in a class is worth. */
LCU_INLINE void lcu_hold(float *values, const float *diagonal, const float *stay, long classes) {
    for (long c = 0; c < classes; ++c)
        for (int x = 0; x < LCU_STRIP; ++x) values[c * LCU_STRIP + x] *= diagonal[c] * stay[x];
}

/* Largest product over the other classes of the year before: next[to] = max before[from] transition[from][to].
   LCU_TOGETHER classes for each load, so that the running values stay in registers. */
LCU_INLINE void lcu_best_move(const float *before, const lcu_step *step, float *next, long classes) {
    for (long to = 0; to < classes; to += LCU_TOGETHER) {
        const float *weight[LCU_TOGETHER]; /* beyond the last class the last one again */
        for (int k = 0; k < LCU_TOGETHER; ++k)
            weight[k] = step->reverse + (to + k < classes ? to + k : classes - 1) * classes;
        for (int x = 0; x < LCU_STRIP; x += LCU_LANES) {
            lcu_lanes best[LCU_TOGETHER] = {{0}};
            for (long from = 0; from < classes; ++from) {
                lcu_lanes value = *(const lcu_lanes *)(before + from * LCU_STRIP + x);
                #pragma GCC unroll 4
                for (int k = 0; k < LCU_TOGETHER; ++k) best[k] = lcu_most(value * weight[k][from], best[k]);
            }
            for (int k = 0; k < LCU_TOGETHER && to + k < classes; ++k)
                *(lcu_lanes *)(next + (to + k) * LCU_STRIP + x) = best[k];
        }
    }
}

/* Sum of the products over the other classes: next[to] = sum before[from] weights[to][from]. */
LCU_INLINE void lcu_sum_moves(const float *before, const float *weights, float *next, long classes) {
    for (long to = 0; to < classes; ++to) {
        float sum[LCU_STRIP];
        const float *weight = weights + to * classes;
        for (int x = 0; x < LCU_STRIP; ++x) sum[x] = 0;
        for (long from = 0; from < classes; ++from)
            for (int x = 0; x < LCU_STRIP; ++x) sum[x] += before[from * LCU_STRIP + x] * weight[from];
        memcpy(next + to * LCU_STRIP, sum, sizeof sum);
    }
}

/* The best of all starts, and the first of these: values [start][class] to best [class] and since [class]. */
LCU_INLINE void lcu_best_start(const float *values, long starts, long classes, float *best, uint8_t *since) {
    memcpy(best, values, classes * LCU_STRIP * sizeof *best);
    memset(since, 0, classes * LCU_STRIP);
    for (long s = 1; s < starts; ++s)
        for (long i = 0; i < classes * LCU_STRIP; ++i) {
            float value = values[s * classes * LCU_STRIP + i];
            since[i] = value > best[i] ? (uint8_t)s : since[i];
            best[i] = lcu_larger(value, best[i]);
        }
}

/* The class from which a step to `label` [LCU_STRIP] is best, the first among equals; where no step is possible the
   best class of this year alone. Where starts are told apart, `start` says whether the class stays: it does unless it
   began in the year after this one. */
LCU_INLINE void lcu_step_back(
    const float *values, const lcu_step *step, const uint8_t *since, int32_t next, int starts, int32_t *label,
    int32_t *start, long classes
) {
    float best[LCU_STRIP], alone[LCU_STRIP];
    int32_t from_best[LCU_STRIP], from_alone[LCU_STRIP];
    for (int x = 0; x < LCU_STRIP; ++x) best[x] = alone[x] = 0, from_best[x] = from_alone[x] = 0;
    for (long from = 0; from < classes; ++from) {
        const float *weight = step->transition + from * classes; /* 0 where the class stays: that comes below */
        for (int x = 0; x < LCU_STRIP; ++x) {
            float value = values[from * LCU_STRIP + x], taken = value * weight[label[x]];
            from_best[x] = taken > best[x] ? (int32_t)from : from_best[x];
            best[x] = lcu_larger(taken, best[x]);
            from_alone[x] = value > alone[x] ? (int32_t)from : from_alone[x];
            alone[x] = lcu_larger(value, alone[x]);
        }
    }
    for (int x = 0; x < LCU_STRIP; ++x) {
        float same = values[label[x] * LCU_STRIP + x] * step->diagonal[label[x]];
        int stays = same > best[x] || (same == best[x] && label[x] < from_best[x]);
        if (starts) stays = start[x] < next;
        from_best[x] = stays ? label[x] : from_best[x];
        best[x] = stays ? lcu_larger(same, starts ? 1 : 0) : best[x];
    }
    for (int x = 0; x < LCU_STRIP; ++x) {
        int moves = starts && start[x] == next;
        label[x] = best[x] > 0 ? from_best[x] : from_alone[x];
        start[x] = moves ? since[label[x] * LCU_STRIP + x] : start[x];
    }
}

/* The most likely sequence of classes of a strip (Viterbi), to labels [year][pixel]. */
LCU_CLONES static void lcu_decode_strip(const lcu_years *in, long first, uint8_t *labels, float *scratch) {
    long classes = in->classes, size = classes * LCU_STRIP;
    long width = in->pixels - first < LCU_STRIP ? in->pixels - first : LCU_STRIP;
    float *best = scratch, *values = best + in->years * size; /* [year][class][strip]; [start][class][strip] */
    float *own = values + lcu_starts(in, in->years - 1) * size, *moved = own + size; /* [class][strip] */
    uint8_t *since = (uint8_t *)(moved + size); /* [year][class][strip] */
    int32_t seen[LCU_STRIP], any[LCU_STRIP], label[LCU_STRIP], start[LCU_STRIP];
    float most[LCU_STRIP], stay[LCU_STRIP];
    for (int x = 0; x < LCU_STRIP; ++x) any[x] = label[x] = 0, most[x] = 0;
    for (long i = 0; i < size; ++i) values[i] = 1;
    for (long year = 0; year < in->years; ++year) {
        lcu_take(in, year, first, width, own, seen);
        for (int x = 0; x < LCU_STRIP; ++x) any[x] |= seen[x];
        if (year > 0) {
            lcu_step step = lcu_step_after(in, year - 1);
            lcu_best_move(best + (year - 1) * size, &step, moved, classes);
            for (long s = 0; s < lcu_starts(in, year - 1); ++s) {
                lcu_take_stay(in, year - 1, s, first, width, stay);
                lcu_hold(values + s * size, step.diagonal, stay, classes);
            }
            if (in->stay) memcpy(values + year * size, moved, size * sizeof *moved);
            else for (long i = 0; i < size; ++i) values[i] = lcu_larger(values[i], moved[i]);
        }
        lcu_join(own, values, lcu_starts(in, year), classes, 0);
        lcu_best_start(values, lcu_starts(in, year), classes, best + year * size, since + year * size);
    }
    for (long year = in->years - 1; year >= 0; --year) {
        float *now = best + year * size;
        if (year < in->years - 1) {
            lcu_step step = lcu_step_after(in, year);
            lcu_step_back(now, &step, since + year * size, (int32_t)year + 1, in->stay != NULL, label, start, classes);
        } else { /* the last year alone: the best of its values */
            for (long c = 0; c < classes; ++c)
                for (int x = 0; x < LCU_STRIP; ++x) {
                    label[x] = now[c * LCU_STRIP + x] > most[x] ? (int32_t)c : label[x];
                    most[x] = lcu_larger(now[c * LCU_STRIP + x], most[x]);
                }
            for (int x = 0; x < LCU_STRIP; ++x) start[x] = since[year * size + label[x] * LCU_STRIP + x];
        }
        for (long x = 0; x < width; ++x)
            labels[year * in->pixels + first + x] = any[x] ? (uint8_t)label[x] : LCU_MISSING;
    }
}

/* What precedes each year, to forward [year][start][class][strip], and what it says itself, to own [year][class][strip]. */
LCU_INLINE void lcu_forward(
    const lcu_years *in, long first, long width, float *forward, float *own, float *total, float *moved
) {
    long classes = in->classes, size = classes * LCU_STRIP;
    int32_t seen[LCU_STRIP];
    float stay[LCU_STRIP];
    for (long year = 0; year < in->years; ++year) {
        float *now = forward + lcu_starts_before(in, year) * size;
        lcu_take(in, year, first, width, own + year * size, seen);
        if (year == 0) for (long i = 0; i < size; ++i) now[i] = 1;
        else {
            long starts = lcu_starts(in, year - 1);
            const float *last = forward + lcu_starts_before(in, year - 1) * size;
            lcu_step step = lcu_step_after(in, year - 1);
            memcpy(total, last, size * sizeof *total);
            for (long s = 1; s < starts; ++s)
                for (long i = 0; i < size; ++i) total[i] += last[s * size + i];
            lcu_sum_moves(total, step.reverse, moved, classes);
            memcpy(now, last, starts * size * sizeof *now);
            for (long s = 0; s < starts; ++s) {
                lcu_take_stay(in, year - 1, s, first, width, stay);
                lcu_hold(now + s * size, step.diagonal, stay, classes);
            }
            if (in->stay) memcpy(now + starts * size, moved, size * sizeof *now);
            else for (long i = 0; i < size; ++i) now[i] += moved[i];
        }
        lcu_join(own + year * size, now, lcu_starts(in, year), classes, 0);
    }
}

/* The probability of every class given all years, to posterior [year][class][pixel], and of a change between a year and
   the next, to change [year - 1][pixel] (forward-backward). */
LCU_CLONES static void lcu_posterior_strip(
    const lcu_years *in, long first, float *posterior, float *change, float *scratch
) {
    long classes = in->classes, size = classes * LCU_STRIP;
    long width = in->pixels - first < LCU_STRIP ? in->pixels - first : LCU_STRIP;
    float *forward = scratch, *own = forward + lcu_starts_before(in, in->years) * size;
    float *after = own + in->years * size; /* [start][class][strip] */
    float *total = after + lcu_starts(in, in->years - 1) * size, *moved = total + size; /* both [class][strip] */
    lcu_forward(in, first, width, forward, own, total, moved);
    /* What follows, given the class of this year and its start. */
    for (long i = 0; i < lcu_starts(in, in->years - 1) * size; ++i) after[i] = 1;
    for (long year = in->years - 1; year >= 0; --year) {
        long starts = lcu_starts(in, year);
        const float *now = forward + lcu_starts_before(in, year) * size;
        float sum[LCU_STRIP], same[LCU_STRIP], all[LCU_STRIP], stay[LCU_STRIP];
        if (year < in->years - 1) {
            lcu_step step = lcu_step_after(in, year);
            /* `after` holds own x after of the next year: to this year's classes by the transitions. */
            lcu_sum_moves(after + (in->stay ? starts : 0) * size, step.transition, moved, classes);
            for (int x = 0; x < LCU_STRIP; ++x) same[x] = all[x] = 0;
            for (long s = 0; s < starts; ++s) {
                lcu_take_stay(in, year, s, first, width, stay);
                for (long c = 0; c < classes; ++c)
                    for (int x = 0; x < LCU_STRIP; ++x) {
                        long i = (s * classes + c) * LCU_STRIP + x;
                        float held = step.diagonal[c] * stay[x] * after[i];
                        after[i] = held + moved[c * LCU_STRIP + x];
                        all[x] += now[i] * after[i];
                        same[x] += now[i] * held;
                    }
            }
            for (long x = 0; x < width; ++x) {
                float other = all[x] > 0 ? (all[x] - same[x]) / all[x] : 1;
                change[year * in->pixels + first + x] = other < 0 ? 0 : other;
            }
            /* Contradictory years: what follows says nothing about this one. */
            for (long row = 0; row < starts * classes; ++row)
                for (int x = 0; x < LCU_STRIP; ++x)
                    if (!(all[x] > 0)) after[row * LCU_STRIP + x] = 1;
        }
        for (int x = 0; x < LCU_STRIP; ++x) sum[x] = 0;
        for (long i = 0; i < size; ++i) total[i] = 0;
        for (long s = 0; s < starts; ++s)
            for (long i = 0; i < size; ++i) total[i] += now[s * size + i] * after[s * size + i];
        for (long c = 0; c < classes; ++c)
            for (int x = 0; x < LCU_STRIP; ++x) sum[x] += total[c * LCU_STRIP + x];
        for (long c = 0; c < classes; ++c) {
            float *out = posterior + (year * classes + c) * in->pixels + first;
            for (long x = 0; x < width; ++x) out[x] = total[c * LCU_STRIP + x] / sum[x];
        }
        lcu_join(own + year * size, after, starts, classes, 1);
    }
}

#endif
