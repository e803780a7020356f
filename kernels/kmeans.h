/* The inner loops of k-means for one floating type, LCU_REAL; kmeans.pyx includes this file twice.

   LCU_NAME(x) names the function of this type, LCU_FMA is its fused multiplication and addition, which is
   written out: the compiler forms none of its own (-ffp-contract=off), so that every processor computes the
   same bits, those without such an instruction by a slow call of the C library. */

#define LCU_LANES (32 / (int)sizeof(LCU_REAL))
#define LCU_VECTOR LCU_NAME(lcu_vector)
#define LCU_INTEGERS LCU_NAME(lcu_integers)

typedef LCU_REAL LCU_VECTOR __attribute__((vector_size(32)));
typedef LCU_REAL LCU_NAME(lcu_anywhere) __attribute__((vector_size(32), aligned(sizeof(LCU_REAL)), may_alias));
typedef LCU_INTEGER LCU_INTEGERS __attribute__((vector_size(32)));
typedef int32_t LCU_NAME(lcu_labels) __attribute__((vector_size(4 * LCU_LANES), aligned(4), may_alias));

/* Of each of these three the compiler makes one instruction. a * b + c is rounded once. */
LCU_INLINE LCU_VECTOR LCU_NAME(lcu_fma)(LCU_VECTOR a, LCU_VECTOR b, LCU_VECTOR c) {
    LCU_VECTOR sum;
    for (int l = 0; l < LCU_LANES; ++l) sum[l] = LCU_FMA(a[l], b[l], c[l]);
    return sum;
}

LCU_INLINE LCU_VECTOR LCU_NAME(lcu_smaller)(LCU_VECTOR a, LCU_VECTOR b) {
    LCU_VECTOR one;
    for (int l = 0; l < LCU_LANES; ++l) one[l] = a[l] < b[l] ? a[l] : b[l];
    return one;
}

LCU_INLINE LCU_VECTOR LCU_NAME(lcu_larger)(LCU_VECTOR a, LCU_VECTOR b) {
    LCU_VECTOR one;
    for (int l = 0; l < LCU_LANES; ++l) one[l] = a[l] > b[l] ? a[l] : b[l];
    return one;
}

/* Transpose LCU_LANES rows: as many times as halving takes, row i and row i + LCU_LANES / 2 are laced into
   the rows 2 i and 2 i + 1. */
LCU_INLINE void LCU_NAME(lcu_transpose)(LCU_VECTOR *rows) {
    const LCU_INTEGERS lower = LCU_LACE_LOWER, upper = LCU_LACE_UPPER;
    LCU_UNROLL for (int round = 1; round < LCU_LANES; round *= 2) {
        LCU_VECTOR laced[LCU_LANES];
        LCU_UNROLL for (int i = 0; i < LCU_LANES / 2; ++i) {
            laced[2 * i] = __builtin_shuffle(rows[i], rows[i + LCU_LANES / 2], lower);
            laced[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + LCU_LANES / 2], upper);
        }
        LCU_UNROLL for (int i = 0; i < LCU_LANES; ++i) rows[i] = laced[i];
    }
}

/* Squared distances of 8 samples from LCU_LANES centres, centres [feature][LCU_LANES]. Each is the sum over
   the features in their order, (x - c)^2 added by one rounding: its relative error is below
   (features + 2) / 2^24 (double: 2^53), however far the samples lie from 0. */
LCU_INLINE void LCU_NAME(lcu_tile)(const LCU_REAL *const *rows, const LCU_REAL *restrict centres,
                                   long features, LCU_VECTOR *squared) {
    LCU_VECTOR sum[8];
    LCU_UNROLL for (int r = 0; r < 8; ++r) sum[r] = (LCU_VECTOR){0};
    for (long j = 0; j < features; ++j) {
        LCU_VECTOR centre = *(const LCU_NAME(lcu_anywhere) *)(centres + j * LCU_LANES);
        LCU_UNROLL for (int r = 0; r < 8; ++r) {
            LCU_VECTOR difference = centre - rows[r][j];
            sum[r] = LCU_NAME(lcu_fma)(difference, difference, sum[r]);
        }
    }
    LCU_UNROLL for (int r = 0; r < 8; ++r) squared[r] = sum[r];
}

/* For LCU_BATCH samples the nearest centre, the squared distance from it and from the second nearest;
   all three go on from what they hold. packed [group][feature][LCU_LANES]; centres are numbered from `first`.
   Of equally near centres the first counts. The rows after those of this batch are the next one's: with `fetch`
   they are brought into the second-level cache meanwhile, a part with every group of centres. */
LCU_CLONES
void LCU_NAME(lcu_nearest)(const LCU_REAL *const *rows, const LCU_REAL *restrict packed, long centres,
                           long features, int32_t first, LCU_REAL *restrict best,
                           LCU_REAL *restrict second, int32_t *restrict nearest, int fetch) {
    const long bytes = features * (long)sizeof(LCU_REAL);
    for (long start = 0; start < centres; start += LCU_LANES) {
        const long begin = bytes * start / centres, end = bytes * (start + LCU_LANES) / centres;
        int count = centres - start < LCU_LANES ? (int)(centres - start) : LCU_LANES;
        for (int s = 0; s < LCU_BATCH; s += 8) {
            LCU_VECTOR squared[8];
            for (int r = 0; r < 8; ++r)
                for (long byte = begin; byte < end && fetch; byte += 64)
                    __builtin_prefetch((const char *)rows[LCU_BATCH + s + r] + byte, 0, 2);
            LCU_NAME(lcu_tile)(rows + s, packed + start * features, features, squared);
            LCU_UNROLL for (int part = 0; part < 8; part += LCU_LANES) {
                LCU_NAME(lcu_anywhere) *own = (LCU_NAME(lcu_anywhere) *)(best + s + part);
                LCU_NAME(lcu_anywhere) *other = (LCU_NAME(lcu_anywhere) *)(second + s + part);
                LCU_NAME(lcu_labels) *label = (LCU_NAME(lcu_labels) *)(nearest + s + part);
                LCU_VECTOR near = *own, far = *other;
                LCU_INTEGERS number = __builtin_convertvector(*label, LCU_INTEGERS);
                LCU_NAME(lcu_transpose)(squared + part);
                for (int c = 0; c < count; ++c) {
                    LCU_VECTOR d = squared[part + c];
                    LCU_INTEGERS closer = d < near;
                    number = (closer & ((LCU_INTEGER)(first + start) + c)) | (~closer & number);
                    far = LCU_NAME(lcu_smaller)(far, LCU_NAME(lcu_larger)(near, d));
                    near = LCU_NAME(lcu_smaller)(near, d);
                }
                *own = near;
                *other = far;
                *label = __builtin_convertvector(number, LCU_NAME(lcu_labels));
            }
        }
    }
}

/* Squared distance of two points, for a bound: in LCU_LANES sums and more. */
LCU_CLONES
LCU_REAL LCU_NAME(lcu_apart)(const LCU_REAL *restrict x, const LCU_REAL *restrict c, long features) {
    LCU_VECTOR sum = {0}, more = {0};
    LCU_REAL total = 0;
    long j = 0;
    for (; j + 2 * LCU_LANES <= features; j += 2 * LCU_LANES) {
        const LCU_NAME(lcu_anywhere) *own = (const LCU_NAME(lcu_anywhere) *)(x + j);
        const LCU_NAME(lcu_anywhere) *other = (const LCU_NAME(lcu_anywhere) *)(c + j);
        sum += (own[0] - other[0]) * (own[0] - other[0]);
        more += (own[1] - other[1]) * (own[1] - other[1]);
    }
    for (; j < features; ++j) total += (x[j] - c[j]) * (x[j] - c[j]);
    sum += more;
    for (int l = 0; l < LCU_LANES; ++l) total += sum[l];
    return total;
}

/* Add a sample to sums [2][features + 1], integers: x * scale * share, of at most 2^28, rounded, and what that
   left in units of 2^-28. The last column is share. Adding 1.5 * 2^52 rounds a double to an integer and leaves
   it in the low bits; a negative share takes away what the positive one added. */
LCU_CLONES
void LCU_NAME(lcu_add)(const LCU_REAL *restrict x, long features, const double *restrict scale, double share,
                       int64_t *restrict sums) {
    for (long j = 0; j < features; ++j)
        lcu_split((double)x[j] * scale[j] * share, sums + j, sums + features + 1 + j);
    lcu_split(share, sums + features, sums + 2 * features + 1);
}

/* The same, and take it away from the sums of another cluster. */
LCU_CLONES
void LCU_NAME(lcu_move)(const LCU_REAL *restrict x, long features, const double *restrict scale, double share,
                        int64_t *restrict from, int64_t *restrict to) {
    for (long j = 0; j <= features; ++j) {
        int64_t high = 0, low = 0;
        lcu_split(j < features ? (double)x[j] * scale[j] * share : share, &high, &low);
        to[j] += high;
        to[features + 1 + j] += low;
        from[j] -= high;
        from[features + 1 + j] -= low;
    }
}

/* Make distances of squared distances, those from the nearest centres longer and the others shorter by what
   rounding may have done to them. */
LCU_CLONES
void LCU_NAME(lcu_bounds)(LCU_REAL *restrict best, LCU_REAL *restrict second, LCU_REAL slack, LCU_REAL tiny) {
    for (int s = 0; s < LCU_BATCH; ++s) {
        best[s] = LCU_SQRT(best[s]) * (1 + slack) + tiny;
        second[s] = LCU_SQRT(second[s]) * (1 - slack) - tiny;
    }
}

/* Raise largest [feature] to the absolute values of a sample; infinity for what is no number. */
LCU_CLONES
void LCU_NAME(lcu_largest)(const LCU_REAL *restrict x, long features, LCU_REAL *restrict largest) {
    for (long j = 0; j < features; ++j) {
        LCU_REAL size = x[j] < 0 ? -x[j] : x[j];
        size = size <= LCU_MOST ? size : (LCU_REAL)INFINITY;
        largest[j] = size > largest[j] ? size : largest[j];
    }
}

/* Squared distance of two points in double precision: eight sums, the features dealt out in turn. */
LCU_CLONES
double LCU_NAME(lcu_squared)(const LCU_REAL *restrict x, const LCU_REAL *restrict c, long features) {
    double sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    long j = 0;
    for (; j + 8 <= features; j += 8)
        for (int l = 0; l < 8; ++l) {
            double d = (double)x[j + l] - (double)c[j + l];
            sum[l] += d * d;
        }
    for (int l = 0; j < features; ++j, ++l) {
        double d = (double)x[j] - (double)c[j];
        sum[l] += d * d;
    }
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

#undef LCU_LANES
#undef LCU_VECTOR
#undef LCU_INTEGERS
