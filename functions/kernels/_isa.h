/* A fold and a finish for one instruction set. Included once for each by _core.h, which defines
 *
 *   ISA           suffix of the functions
 *   VECTOR_BYTES  width of a vector
 *   TARGET        attribute of the functions
 *   LOAD_F16      optional: binary16 at p -> a vector of float32
 *   STREAM_F32, STREAM_F64  optional: store a vector at an aligned p past the caches
 *   LOW_F64, HIGH_F64, JOIN_F32  optional: the halves of a vector of float32 as float64, and back
 *
 * and which are undefined again at the end.
 */
#define VECTOR_OF(type, bytes) typedef type __attribute__((vector_size(bytes), aligned(1), may_alias))
#define LANES_F64 (VECTOR_BYTES / 8)
VECTOR_OF(float, VECTOR_BYTES) FN(vec_f32);
VECTOR_OF(double, VECTOR_BYTES) FN(vec_f64);
VECTOR_OF(uint32_t, VECTOR_BYTES) FN(vec_u32);
VECTOR_OF(uint16_t, VECTOR_BYTES / 2) FN(half_u16);
VECTOR_OF(int8_t, LANES_F64) FN(few_i8);
VECTOR_OF(int16_t, LANES_F64 * 2) FN(few_i16);
VECTOR_OF(int32_t, LANES_F64 * 4) FN(few_i32);
VECTOR_OF(int64_t, LANES_F64 * 8) FN(few_i64);
VECTOR_OF(uint8_t, LANES_F64) FN(few_u8);
VECTOR_OF(uint16_t, LANES_F64 * 2) FN(few_u16);
VECTOR_OF(uint32_t, LANES_F64 * 4) FN(few_u32);
VECTOR_OF(uint64_t, LANES_F64 * 8) FN(few_u64);

TARGET INLINE FN(vec_f32) FN(load_f32)(const char *data, size_t i, unsigned code)
{
    typedef FN(vec_f32) vec;
    typedef FN(vec_u32) bits;
    if (code == F32)
        return *(const vec *)(data + i * 4);
#ifdef LOAD_F16
    if (code == F16)
        return (vec)LOAD_F16(data + i * 2);
#endif
    bits half = __builtin_convertvector(*(const FN(half_u16) *)(data + i * 2), bits);
    if (code == BF16)
        return (vec)(half << 16);
    bits low = (half & 0x7fff) << 13; /* as f32_of_f16 */
    bits scaled = (bits)((vec)low * 0x1p112f);
    return (vec)(scaled | ((bits)(low >= 0x7c00u << 13) & 0x7f800000u) | (half & 0x8000) << 16);
}

TARGET INLINE FN(vec_f64) FN(load_f64)(const char *data, size_t i, unsigned code)
{
#define LOAD(few, bytes) __builtin_convertvector(*(const FN(few) *)(data + i * (bytes)), FN(vec_f64))
    switch (code) {
    case I8: return LOAD(few_i8, 1);
    case I16: return LOAD(few_i16, 2);
    case I32: return LOAD(few_i32, 4);
    case I64: return LOAD(few_i64, 8);
    case U8: return LOAD(few_u8, 1);
    case U16: return LOAD(few_u16, 2);
    case U32: return LOAD(few_u32, 4);
    case U64: return LOAD(few_u64, 8);
    case BOOL: {
        FN(few_i8) one = -(FN(few_i8))(*(const FN(few_i8) *)(data + i) != 0);
        return __builtin_convertvector(one, FN(vec_f64));
    }
    default: return *(const FN(vec_f64) *)(data + i * 8);
    }
#undef LOAD
}

/* (float)((double)x / weight), lane by lane. */
TARGET INLINE FN(vec_f32) FN(mean_f32)(FN(vec_f32) x, double weight)
{
#ifdef JOIN_F32
    FN(vec_f64) low = (FN(vec_f64))LOW_F64(x) / weight, high = (FN(vec_f64))HIGH_F64(x) / weight;
    return (FN(vec_f32))JOIN_F32(low, high);
#else
    for (size_t i = 0; i < VECTOR_BYTES / 4; i++)
        x[i] = (float)((double)x[i] / weight);
    return x;
#endif
}

TARGET INLINE FN(vec_f64) FN(mean_f64)(FN(vec_f64) x, double weight) { return x / weight; }

/* n elements of one section, of at most GROUP terms. `out` and `acc` point at the first; the terms'
 * data are `at` elements before it. `mean`, if there is one: what is written is divided by its
 * total weight. `ahead`: once a page, the line one page on in each stream is asked for, so that its
 * translation and the prefetchers' start there are not waited for.
 *
 * The loop over terms is unrolled, so that each has loads of its own: a prefetcher that goes by the
 * address of the instruction sees one stream at each, where in a loop it would see all of them in
 * turn. And a term's loads stay together and ascend: mixed with those of others they are a tenth
 * slower. docs/benchmarks.md has what that is worth, and what else was tried. */
#define DEFINE_FOLD(NAME, SCALAR, VEC, CODE_OF_SUM, WEIGHT, LOAD, ELEMENT, STREAM, MEAN)           \
    TARGET INLINE void FN(NAME)(char *out, const char *acc, const struct term *terms, size_t k,    \
                                size_t at, size_t n, unsigned code, bool stream,                   \
                                const struct finish *mean, bool ahead)                             \
    {                                                                                              \
        typedef FN(VEC) vec;                                                                       \
        double total = mean ? mean->total_weight : 1;                                              \
        enum { LANES = VECTOR_BYTES / sizeof(SCALAR), STEP = BURST * LANES };                      \
        size_t i = 0;                                                                              \
        for (; i + STEP <= n; i += STEP) {                                                         \
            if (ahead && i % (AHEAD_BYTES / sizeof(SCALAR)) == 0) {                                \
                if (acc)                                                                           \
                    __builtin_prefetch(acc + i * sizeof(SCALAR) + AHEAD_BYTES);                    \
                UNROLL for (size_t j = 0; j < GROUP && j < k; j++)                                 \
                    __builtin_prefetch(terms[j].data + (at + i) * code_bytes[code] + AHEAD_BYTES); \
            }                                                                                      \
            vec sum[BURST] = {{0}};                                                                \
            if (acc) {                                                                             \
                const vec *from = (const vec *)(acc + i * sizeof(SCALAR));                         \
                UNROLL for (size_t v = 0; v < BURST; v++) {                                        \
                    sum[v] = from[v];                                                              \
                    IN_ORDER;                                                                      \
                }                                                                                  \
            }                                                                                      \
            UNROLL for (size_t j = 0; j < GROUP; j++) {                                            \
                if (j == k)                                                                        \
                    break;                                                                         \
                const struct term *t = &terms[j];                                                  \
                const char *data = t->data;                                                        \
                size_t e = at + i;                                                                 \
                if (t->is_sum && code != CODE_OF_SUM) {                                            \
                    UNROLL for (size_t v = 0; v < BURST; v++, e += LANES) {                        \
                        sum[v] += LOAD(data, e, CODE_OF_SUM);                                      \
                        IN_ORDER;                                                                  \
                    }                                                                              \
                } else {                                                                           \
                    SCALAR w = t->WEIGHT;                                                          \
                    UNROLL for (size_t v = 0; v < BURST; v++, e += LANES) {                        \
                        sum[v] += LOAD(data, e, code) * w;                                         \
                        IN_ORDER;                                                                  \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
            if (mean) {                                                                            \
                UNROLL for (size_t v = 0; v < BURST; v++) sum[v] = MEAN(sum[v], total);            \
            }                                                                                      \
            vec *to = (vec *)(out + i * sizeof(SCALAR));                                           \
            if (stream) {                                                                          \
                UNROLL for (size_t v = 0; v < BURST; v++) STREAM(to + v, sum[v]);                  \
            } else {                                                                               \
                UNROLL for (size_t v = 0; v < BURST; v++) to[v] = sum[v];                          \
            }                                                                                      \
        }                                                                                          \
        for (; i < n; i++) {                                                                       \
            SCALAR a = acc ? ELEMENT(acc, i, CODE_OF_SUM) : 0;                                     \
            for (const struct term *t = terms; t < terms + k; t++)                                 \
                a += t->is_sum ? ELEMENT(t->data, at + i, CODE_OF_SUM)                             \
                               : t->WEIGHT * ELEMENT(t->data, at + i, code);                       \
            if (mean)                                                                              \
                a = (SCALAR)((double)a / total);                                                   \
            memcpy(out + i * sizeof(SCALAR), &a, sizeof(SCALAR));                                  \
        }                                                                                          \
    }

#ifndef STREAM_F32
#define STREAM_F32(p, v) (*(p) = (v))
#define STREAM_F64(p, v) (*(p) = (v))
#endif
DEFINE_FOLD(fold_f32, float, vec_f32, F32, weight_f32, FN(load_f32), element_f32, STREAM_F32,
            FN(mean_f32))
DEFINE_FOLD(fold_f64, double, vec_f64, F64, weight, FN(load_f64), element_f64, STREAM_F64, FN(mean_f64))

/* Updates of float32, sums streamed. With few terms the number of them is a constant as well, and
 * the next page is asked for: 7 % of a later fold of 2 (docs/benchmarks.md). */
TARGET INLINE void FN(stream_f32)(char *out, const char *acc, const struct term *terms, size_t k,
                                  size_t at, size_t n)
{
    switch (k) {
#define CASE(K)                                                                                    \
    case K: FN(fold_f32)(out, acc, terms, K, at, n, F32, true, NULL, true); return;
        EACH_FEW(CASE)
#undef CASE
    default: FN(fold_f32)(out, acc, terms, k, at, n, F32, true, NULL, false);
    }
}

TARGET static void FN(fold)(char *out, const char *acc, const struct term *terms, size_t k,
                            size_t at, size_t n, unsigned code, bool stream,
                            const struct finish *mean)
{
    stream = stream && (uintptr_t)out % VECTOR_BYTES == 0;
    /* Constants, for the loops to be compiled for: which dtype, whether there is a mean, which
     * core_finish asks for with one of these two dtypes alone, and for updates of float32 also
     * that sums are streamed and whether there is one already, worth 3 % of 8 inputs and 9 % of 2. */
    if (mean && code == F32)
        FN(fold_f32)(out, acc, terms, k, at, n, F32, stream, mean, false);
    else if (mean && code == F64)
        FN(fold_f64)(out, acc, terms, k, at, n, F64, stream, mean, false);
    else if (code == F32 && stream && acc)
        FN(stream_f32)(out, acc, terms, k, at, n);
    else if (code == F32 && stream)
        FN(stream_f32)(out, NULL, terms, k, at, n);
    if (mean || (code == F32 && stream))
        return;
    switch (code) {
#define CASE(CODE, SUM)                                                                            \
    case CODE: FN(fold_##SUM)(out, acc, terms, k, at, n, CODE, stream, NULL, false); return;
        EACH_CODE(CASE)
#undef CASE
    }
}

TARGET static void FN(finish)(const struct finish *how, char *out, const char *total,
                              const char *base, const char *velocity_in, char *velocity_out,
                              size_t n, unsigned code, bool stream)
{
    finish_section(how, out, total, base, velocity_in, velocity_out, n, code, stream);
}

#include "_finite.h"

#undef VECTOR_OF
#undef LANES_F64
#undef DEFINE_FOLD
#undef ISA
#undef VECTOR_BYTES
#undef TARGET
#undef LOAD_F16
#undef STREAM_F32
#undef STREAM_F64
#undef LOW_F64
#undef HIGH_F64
#undef JOIN_F32
