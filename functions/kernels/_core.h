/* The arithmetic of native kernels, without Python: dtypes, scalars, and the drivers of a fold
 * and a finish. _isa.h is included once per instruction set and does the work.
 *
 * No contraction to fused multiply-add anywhere: each product and each addition is rounded once,
 * so that every CPU, and the NumPy reference, gives the same bits.
 */
#ifndef LIFL_CORE_H
#define LIFL_CORE_H

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#else
#error "these kernels need the vector extensions of GCC or clang"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "updates are little-endian"
#endif

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* As in contract.Code. */
enum code { F64, F32, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, BOOL, CODES };

static const uint8_t code_bytes[CODES] = {8, 4, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1};

/* Each dtype with the one that its sums have: a constant code in each call of a switch lets the
 * loops be compiled for it. */
#define EACH_CODE(CASE)                                                                            \
    CASE(F64, f64)                                                                                 \
    CASE(F32, f32)                                                                                 \
    CASE(F16, f32)                                                                                 \
    CASE(BF16, f32)                                                                                \
    CASE(I8, f64)                                                                                  \
    CASE(I16, f64)                                                                                 \
    CASE(I32, f64)                                                                                 \
    CASE(I64, f64)                                                                                 \
    CASE(U8, f64)                                                                                  \
    CASE(U16, f64)                                                                                 \
    CASE(U32, f64)                                                                                 \
    CASE(U64, f64)                                                                                 \
    CASE(BOOL, f64)

INLINE bool sums_in_f32(unsigned code) { return code == F32 || code == F16 || code == BF16; }

INLINE size_t sum_bytes_of(unsigned code) { return sums_in_f32(code) ? 4 : 8; }

/* Callers may hand in buffers at any address. */
typedef float f32u __attribute__((aligned(1), may_alias));
typedef double f64u __attribute__((aligned(1), may_alias));
typedef int16_t i16u __attribute__((aligned(1), may_alias));
typedef int32_t i32u __attribute__((aligned(1), may_alias));
typedef int64_t i64u __attribute__((aligned(1), may_alias));
typedef uint16_t u16u __attribute__((aligned(1), may_alias));
typedef uint32_t u32u __attribute__((aligned(1), may_alias));
typedef uint64_t u64u __attribute__((aligned(1), may_alias));

/* One queued input, at the start of the section being folded. The weight of a sum is 1: where its
 * elements are those of updates, it is folded as one of them, which changes no bit but a NaN's. */
struct term {
    const char *data;
    double weight;
    float weight_f32;
    bool is_sum;
};

struct section {
    int64_t code, count, update_offset, sum_offset;
};

struct finish {
    double total_weight, learning_rate, momentum;
    bool with_momentum;
};

INLINE float f32_of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
INLINE uint32_t bits_of_f32(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

/* Moving the 15 low bits into place and scaling by 2^112 is exact, subnormals included; only
 * infinities and NaN need their exponent filled. */
INLINE float f32_of_f16(uint16_t half)
{
    uint32_t low = (uint32_t)(half & 0x7fff) << 13;
    uint32_t bits = bits_of_f32(f32_of_bits(low) * 0x1p112f);
    bits |= low >= 0x7c00u << 13 ? 0x7f800000u : 0;
    return f32_of_bits(bits | (uint32_t)(half & 0x8000) << 16);
}

INLINE float f32_of_bf16(uint16_t half) { return f32_of_bits((uint32_t)half << 16); }

/* To nearest, ties to even. Three cases computed and one selected, so that loops vectorise:
 * 65536 and more; results below 2^-14, where adding 0.5 rounds at the subnormals' last bit; the
 * others, where 65520 and more carry into infinity by themselves. */
INLINE uint16_t f16_of_f32(float x)
{
    uint32_t bits = bits_of_f32(x), sign = bits & 0x80000000u, low = bits ^ sign;
    uint32_t big = low > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t small = bits_of_f32(f32_of_bits(low) + 0.5f) - bits_of_f32(0.5f);
    uint32_t normal = (low - (112u << 23) + 0xfffu + (low >> 13 & 1)) >> 13;
    uint32_t half = low >= 0x47800000u ? big : low < 0x38800000u ? small : normal;
    return (uint16_t)(half | sign >> 16);
}

INLINE uint16_t bf16_of_f32(float x)
{
    uint32_t bits = bits_of_f32(x);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded);
}

/* Element i of an update, exact in float32. */
INLINE float element_f32(const char *data, size_t i, unsigned code)
{
    switch (code) {
    case F16: return f32_of_f16(((const u16u *)data)[i]);
    case BF16: return f32_of_bf16(((const u16u *)data)[i]);
    default: return ((const f32u *)data)[i];
    }
}

/* Element i of an update in float64; 64-bit integers are rounded to nearest. */
INLINE double element_f64(const char *data, size_t i, unsigned code)
{
    switch (code) {
    case I8: return (double)((const int8_t *)data)[i];
    case I16: return (double)((const i16u *)data)[i];
    case I32: return (double)((const i32u *)data)[i];
    case I64: return (double)((const i64u *)data)[i];
    case U8: return (double)((const uint8_t *)data)[i];
    case U16: return (double)((const u16u *)data)[i];
    case U32: return (double)((const u32u *)data)[i];
    case U64: return (double)((const u64u *)data)[i];
    case BOOL: return ((const uint8_t *)data)[i] != 0 ? 1.0 : 0.0;
    default: return ((const f64u *)data)[i];
    }
}

/* Streams read side by side: more than this defeat the CPU's prefetchers, so a longer queue is
 * folded block by block through a scratch that stays in the first-level cache. */
enum { GROUP = 8, SCRATCH_BYTES = 16384 };

/* Numbers of terms that a streamed fold of float32 is compiled for. */
#define EACH_FEW(CASE) CASE(1) CASE(2) CASE(3) CASE(4)

/* How far ahead such a fold asks for its streams: a page of the arena. */
enum { AHEAD_BYTES = 4096 };

/* Vectors of a sum that are in registers at once, while every term is added. */
enum { BURST = 8 };

/* Before a loop of at most 8 turns, GROUP or BURST: no loop is left of it. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* No access to memory is moved across this by the compiler. */
#define IN_ORDER __asm__ volatile("" ::: "memory")

#include "_finish.h"

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define FN(name) PASTE(name, ISA)

#define ISA scalar
#define VECTOR_BYTES 16
#define TARGET
#if defined(__x86_64__)
#define STREAM_F32(p, v) _mm_stream_ps((float *)(p), (__m128)(v))
#define STREAM_F64(p, v) _mm_stream_pd((double *)(p), (__m128d)(v))
#define LOW_F64(v) _mm_cvtps_pd((__m128)(v))
#define HIGH_F64(v) _mm_cvtps_pd(_mm_movehl_ps((__m128)(v), (__m128)(v)))
#define JOIN_F32(l, h) _mm_movelh_ps(_mm_cvtpd_ps((__m128d)(l)), _mm_cvtpd_ps((__m128d)(h)))
#elif defined(__aarch64__)
#undef ISA
#define ISA neon
#define LOAD_F16(p) vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)(p))))
#define LOW_F64(v) vcvt_f64_f32(vget_low_f32((float32x4_t)(v)))
#define HIGH_F64(v) vcvt_high_f64_f32((float32x4_t)(v))
#define JOIN_F32(l, h) vcvt_high_f32_f64(vcvt_f32_f64((float64x2_t)(l)), (float64x2_t)(h))
#endif
#include "_isa.h"

#if defined(__x86_64__)
#define ISA avx2
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2,f16c")))
#define LOAD_F16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define STREAM_F32(p, v) _mm256_stream_ps((float *)(p), (__m256)(v))
#define STREAM_F64(p, v) _mm256_stream_pd((double *)(p), (__m256d)(v))
#define LOW_F64(v) _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)(v)))
#define HIGH_F64(v) _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)(v), 1))
#define JOIN_F32(l, h) _mm256_set_m128(_mm256_cvtpd_ps((__m256d)(h)), _mm256_cvtpd_ps((__m256d)(l)))
#include "_isa.h"

#define ISA avx512f
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f")))
#define LOAD_F16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define STREAM_F32(p, v) _mm512_stream_ps((float *)(p), (__m512)(v))
#define STREAM_F64(p, v) _mm512_stream_pd((double *)(p), (__m512d)(v))
#define LOW_F64(v) _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)(v)))
#define HIGH_F64(v) _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)(v), 1)))
#define JOIN_F32(l, h)                                                                             \
    _mm512_insertf64x4(                                                                            \
        _mm512_castpd256_pd512(_mm256_castps_pd(_mm512_cvtpd_ps((__m512d)(l)))),                   \
        _mm256_castps_pd(_mm512_cvtpd_ps((__m512d)(h))), 1)
#include "_isa.h"
#endif

struct isa {
    const char *name;
    bool (*supported)(void);
    void (*fold)(char *out, const char *acc, const struct term *terms, size_t k, size_t at,
                 size_t n, unsigned code, bool stream, const struct finish *mean);
    void (*finish)(const struct finish *how, char *out, const char *total, const char *base,
                   const char *velocity_in, char *velocity_out, size_t n, unsigned code,
                   bool stream);
    bool (*finite)(const char *data, size_t n, unsigned code);
};

INLINE bool always(void) { return true; }

#if defined(__x86_64__)
static bool has_avx2(void)
{
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx512f(void) { return __builtin_cpu_supports("avx512f") != 0; }
#endif

/* Best first. */
static const struct isa isas[] = {
#if defined(__x86_64__)
    {"avx512f", has_avx512f, fold_avx512f, finish_avx512f, finite_avx512f},
    {"avx2", has_avx2, fold_avx2, finish_avx2, finite_avx2},
#endif
#if defined(__aarch64__)
    {"neon", always, fold_neon, finish_neon, finite_neon},
#else
    {"scalar", always, fold_scalar, finish_scalar, finite_scalar},
#endif
};
enum { ISAS = sizeof isas / sizeof isas[0] };

/* Sums at least this long bypass the caches when they are written: they are out of place, so what
 * is overwritten need not be read first. That saves a tenth of a fold of 8 and a sixth of a fold of
 * 2, also when the parent reads the sum at once. Shorter ones are better kept for that. */
enum { STREAM_BYTES = 4 << 20 };

INLINE void fold_section(const struct isa *isa, char *out, const char *acc,
                         const struct term *terms, size_t k, size_t n, unsigned code, bool stream)
{
    if (k <= GROUP) {
        isa->fold(out, acc, terms, k, 0, n, code, stream, NULL);
        return;
    }
    char scratch[SCRATCH_BYTES] __attribute__((aligned(64)));
    size_t size = sum_bytes_of(code), block = SCRATCH_BYTES / size;
    for (size_t at = 0; at < n; at += block) {
        size_t m = n - at < block ? n - at : block;
        const char *from = acc ? acc + at * size : NULL;
        for (size_t g = 0; g < k; g += GROUP) {
            bool last = k - g <= GROUP;
            isa->fold(last ? out + at * size : scratch, from, terms + g, last ? k - g : GROUP, at,
                      m, code, last && stream, NULL);
            from = scratch;
        }
    }
}

/* terms <- inputs, with their data at an element of a section. */
INLINE void point_at(struct term *terms, const struct term *inputs, size_t k,
                     const struct section *section, size_t element)
{
    unsigned code = (unsigned)section->code;
    for (size_t j = 0; j < k; j++) {
        terms[j] = inputs[j];
        terms[j].data += inputs[j].is_sum
                             ? (size_t)section->sum_offset + element * sum_bytes_of(code)
                             : (size_t)section->update_offset + element * code_bytes[code];
    }
}

/* out <- (acc or 0) + sum of terms, over all sections. `terms` has room for k, and is rewritten
 * for each section from `inputs`, whose data point at the start of their buffers. */
static void core_fold(const struct isa *isa, char *out, const char *acc, const struct term *inputs,
                      struct term *terms, size_t k, const struct section *sections, size_t count)
{
    int64_t written = 0;
    for (size_t s = 0; s < count; s++)
        written += sections[s].count * (int64_t)sum_bytes_of((unsigned)sections[s].code);
    bool stream = written >= STREAM_BYTES;
    for (size_t s = 0; s < count; s++) {
        const struct section *at = &sections[s];
        point_at(terms, inputs, k, at, 0);
        fold_section(isa, out + at->sum_offset, acc ? acc + at->sum_offset : NULL, terms, k,
                     (size_t)at->count, (unsigned)at->code, stream);
    }
#if defined(__x86_64__)
    if (stream)
        _mm_sfence(); /* streamed stores are ordered before whatever seals the slot */
#endif
}

/* out <- the next model from (total or 0) + sum of terms, over all sections. The complete sum is
 * never written to memory: where a model's elements are those of the sum, the mean is taken in the
 * registers of the fold, which costs nothing beside its reads; else block by block, through a
 * scratch that stays in the first-level cache. */
static void core_finish(const struct isa *isa, const struct finish *how, char *out,
                        const char *total, const struct term *inputs, struct term *terms, size_t k,
                        const char *base, const char *velocity_in, char *velocity_out,
                        const struct section *sections, size_t count)
{
    char scratch[SCRATCH_BYTES] __attribute__((aligned(64)));
    int64_t written = 0;
    for (size_t s = 0; s < count; s++)
        written += sections[s].count * (int64_t)code_bytes[sections[s].code];
    bool stream = written >= STREAM_BYTES;
    for (size_t s = 0; s < count; s++) {
        const struct section *at = &sections[s];
        unsigned code = (unsigned)at->code;
        size_t n = (size_t)at->count, size = sum_bytes_of(code), wide = code_bytes[code];
        size_t block = k ? SCRATCH_BYTES / size : n;
        const char *sums = total ? total + at->sum_offset : NULL;
        if (!how->with_momentum && (code == F32 || code == F64) && k <= GROUP) {
            point_at(terms, inputs, k, at, 0);
            isa->fold(out + at->update_offset, sums, terms, k, 0, n, code, stream, how);
            continue;
        }
        for (size_t from = 0; from < n; from += block) {
            size_t m = n - from < block ? n - from : block;
            point_at(terms, inputs, k, at, from);
            if (k)
                fold_section(isa, scratch, sums ? sums + from * size : NULL, terms, k, m, code,
                             false);
            isa->finish(how, out + at->update_offset + from * wide,
                        k ? scratch : sums + from * size,
                        base ? base + at->update_offset + from * wide : NULL,
                        velocity_in ? velocity_in + at->sum_offset + from * size : NULL,
                        velocity_out ? velocity_out + at->sum_offset + from * size : NULL, m, code,
                        stream);
        }
    }
#if defined(__x86_64__)
    if (stream)
        _mm_sfence(); /* as in core_fold */
#endif
}

/* The first float of an update, of those that lie whole in its bytes [start, start + length), that
 * is not finite: bytes from the start of the update, or -1. */
static int64_t core_finite(const struct isa *isa, const char *data, int64_t start, int64_t length,
                           const struct section *sections, size_t count)
{
    enum { BLOCK = 4096 }; /* elements: what is searched again when one of them is not finite */
    for (size_t s = 0; s < count; s++) {
        unsigned code = (unsigned)sections[s].code;
        if (code > BF16)
            continue;
        int64_t size = code_bytes[code], offset = sections[s].update_offset;
        int64_t first = start > offset ? (start - offset + size - 1) / size : 0;
        int64_t past = start + length > offset ? (start + length - offset) / size : 0;
        if (past > sections[s].count)
            past = sections[s].count;
        for (; first < past; first += BLOCK) {
            int64_t n = past - first < BLOCK ? past - first : BLOCK;
            const char *block = data + (offset + first * size - start);
            if (isa->finite(block, (size_t)n, code))
                continue;
            for (int64_t i = 0; i < n; i++)
                if (!isa->finite(block + i * size, 1, code))
                    return offset + (first + i) * size;
        }
    }
    return -1;
}
#endif
