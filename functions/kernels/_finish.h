/* The division and the server optimiser, in plain C that compilers vectorise. Inlined by _isa.h
 * into a function per instruction set. Included by _core.h alone.
 *
 *   mean = total / W
 *   fedavg:   model = mean                                   (McMahan et al. 2017)
 *   fedavgm:  v <- beta v + (base - mean); model <- base - eta v   (Hsu, Qi, Brown 2019)
 *
 * Each right-hand side is computed in float64 and rounded once to the accumulator's dtype.
 */
#ifndef LIFL_FINISH_H
#define LIFL_FINISH_H

enum { FINISH_BLOCK = 512 };

/* A finished block to where the model lies; `stream`: past the caches, since nothing of what is
 * overwritten is read and the model is longer than they are. */
INLINE void put_block(char *out, const void *block, size_t bytes, bool stream)
{
#if defined(__x86_64__)
    if (stream && (uintptr_t)out % 16 == 0) {
        size_t i = 0;
        for (; i + 16 <= bytes; i += 16)
            _mm_stream_si128((__m128i *)(out + i),
                             _mm_loadu_si128((const __m128i *)((const char *)block + i)));
        memcpy(out + i, (const char *)block + i, bytes - i);
        return;
    }
#else
    (void)stream;
#endif
    memcpy(out, block, bytes);
}

/* Half to even, then clipped; NaN, which only a corrupt sum holds, becomes 0. LEAST is the
 * least value and ABOVE the greatest plus one: both are exact in float64. */
#define STORE_INTEGER(TYPE, LEAST, GREATEST, ABOVE)                                                \
    for (size_t i = 0; i < n; i++) {                                                               \
        double r = rint(model[i]);                                                                 \
        ((TYPE *)out)[i] = r >= (ABOVE) ? (GREATEST)                                               \
                           : r <= (double)(LEAST) ? (LEAST)                                        \
                           : r == r ? (TYPE)r                                                      \
                                    : 0;                                                           \
    }                                                                                              \
    return

INLINE void store_f64(char *out, const double *model, size_t n, unsigned code, bool stream)
{
    switch (code) {
    case I8: STORE_INTEGER(int8_t, INT8_MIN, INT8_MAX, 0x1p7);
    case I16: STORE_INTEGER(i16u, INT16_MIN, INT16_MAX, 0x1p15);
    case I32: STORE_INTEGER(i32u, INT32_MIN, INT32_MAX, 0x1p31);
    case I64: STORE_INTEGER(i64u, INT64_MIN, INT64_MAX, 0x1p63);
    case U8: STORE_INTEGER(uint8_t, 0, UINT8_MAX, 0x1p8);
    case U16: STORE_INTEGER(u16u, 0, UINT16_MAX, 0x1p16);
    case U32: STORE_INTEGER(u32u, 0, UINT32_MAX, 0x1p32);
    case U64: STORE_INTEGER(u64u, 0, UINT64_MAX, 0x1p64);
    case BOOL:
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)out)[i] = model[i] >= 0.5;
        return;
    default: put_block(out, model, n * 8, stream); return;
    }
}
#undef STORE_INTEGER

INLINE void store_f32(char *out, const float *model, size_t n, unsigned code, bool stream)
{
    switch (code) {
    case F16:
        for (size_t i = 0; i < n; i++)
            ((u16u *)out)[i] = f16_of_f32(model[i]);
        return;
    case BF16:
        for (size_t i = 0; i < n; i++)
            ((u16u *)out)[i] = bf16_of_f32(model[i]);
        return;
    default: put_block(out, model, n * 4, stream); return;
    }
}

#define DEFINE_FINISH(NAME, SCALAR, UNALIGNED, ELEMENT, STORE)                                     \
    INLINE void NAME(const struct finish *how, char *out, const char *total, const char *base,     \
                     const char *velocity_in, char *velocity_out, size_t n, unsigned code,         \
                     bool stream)                                                                  \
    {                                                                                              \
        double weight = how->total_weight, rate = how->learning_rate, beta = how->momentum;        \
        for (size_t at = 0; at < n; at += FINISH_BLOCK) {                                          \
            size_t m = n - at < FINISH_BLOCK ? n - at : FINISH_BLOCK;                              \
            SCALAR model[FINISH_BLOCK];                                                            \
            const UNALIGNED *sum = (const UNALIGNED *)total + at;                                  \
            for (size_t i = 0; i < m; i++)                                                         \
                model[i] = (SCALAR)((double)sum[i] / weight);                                      \
            if (how->with_momentum && code <= BF16) {                                              \
                for (size_t i = 0; i < m; i++) {                                                   \
                    double from = (double)ELEMENT(base, at + i, code);                             \
                    double old = velocity_in ? (double)((const UNALIGNED *)velocity_in)[at + i]    \
                                             : 0.0;                                                \
                    SCALAR v = (SCALAR)(beta * old + (from - (double)model[i]));                   \
                    ((UNALIGNED *)velocity_out)[at + i] = v;                                       \
                    model[i] = (SCALAR)(from - rate * (double)v);                                  \
                }                                                                                  \
            }                                                                                      \
            STORE(out + at * code_bytes[code], model, m, code, stream);                            \
        }                                                                                          \
    }

DEFINE_FINISH(finish_f32, float, f32u, element_f32, store_f32)
DEFINE_FINISH(finish_f64, double, f64u, element_f64, store_f64)
#undef DEFINE_FINISH

INLINE void finish_section(const struct finish *how, char *out, const char *total,
                           const char *base, const char *velocity_in, char *velocity_out, size_t n,
                           unsigned code, bool stream)
{
    switch (code) {
#define CASE(CODE, SUM)                                                                            \
    case CODE:                                                                                     \
        finish_##SUM(how, out, total, base, velocity_in, velocity_out, n, CODE, stream);           \
        return;
        EACH_CODE(CASE)
#undef CASE
    }
}
#endif
