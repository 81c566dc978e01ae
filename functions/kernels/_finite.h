/* Is every float of a section finite: NaN and infinity are the values whose exponent is all ones.
 * Included by _isa.h once for each instruction set.
 *
 * Adding the exponent's lowest bit to a number without its sign carries into the sign bit exactly
 * where the exponent is all ones, so that a block needs one mask, one addition and one OR each.
 */
#define DEFINE_FINITE(NAME, TYPE, BITS, LOWEST)                                                    \
    TARGET INLINE bool FN(NAME)(const char *data, size_t n)                                        \
    {                                                                                              \
        const TYPE *at = (const TYPE *)data;                                                       \
        const TYPE sign = (TYPE)((TYPE)1 << (BITS - 1)), rest = (TYPE)(sign - 1);                  \
        TYPE seen = 0;                                                                             \
        for (size_t i = 0; i < n; i++)                                                             \
            seen |= (TYPE)((at[i] & rest) + (TYPE)(LOWEST));                                       \
        return !(seen & sign);                                                                     \
    }

DEFINE_FINITE(finite_f64, u64u, 64, 1ull << 52)
DEFINE_FINITE(finite_f32, u32u, 32, 1u << 23)
DEFINE_FINITE(finite_f16, u16u, 16, 1u << 10)
DEFINE_FINITE(finite_bf16, u16u, 16, 1u << 7)

TARGET static bool FN(finite)(const char *data, size_t n, unsigned code)
{
    switch (code) {
    case F64: return FN(finite_f64)(data, n);
    case F32: return FN(finite_f32)(data, n);
    case F16: return FN(finite_f16)(data, n);
    case BF16: return FN(finite_bf16)(data, n);
    default: return true; /* integers */
    }
}

#undef DEFINE_FINITE
