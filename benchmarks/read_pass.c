/* Reading k inputs and doing nothing else: the reference of case_fold.py.
 *
 * The same inputs in the same order as a fold reads them, and as many streams side by side: four
 * vectors of the first input, four of the second, and so on, then the next four of each.  Compiled
 * for each k, with the addresses in registers and loads of its own for each input, in ascending
 * order: prefetchers that go by the address of the instruction then see one stream at each.  That
 * is the fastest of what docs/benchmarks.md says was tried.  Combined with "or", which no compiler
 * may leave out since the result is returned, and which costs less than waiting for memory.
 */
#include <stddef.h>
#include <stdint.h>

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

enum { GROUP = 8 };

typedef uint64_t vec __attribute__((vector_size(64), aligned(64), may_alias));

static inline __attribute__((always_inline)) uint64_t pass(const char *const *inputs, size_t k,
                                                          size_t size_bytes)
{
    const char *from[GROUP];
    for (size_t j = 0; j < k; j++)
        from[j] = inputs[j];
    vec a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t at = 0; at + 4 * sizeof(vec) <= size_bytes; at += 4 * sizeof(vec)) {
        UNROLL for (size_t j = 0; j < k; j++) {
            const vec *next = (const vec *)(from[j] + at);
            a |= next[0], b |= next[1], c |= next[2], d |= next[3];
            __asm__ volatile("" ::: "memory"); /* the next input's loads stay behind these */
        }
    }
    a |= b | c | d;
    uint64_t found = 0;
    for (size_t i = 0; i < sizeof(vec) / sizeof(uint64_t); i++)
        found |= a[i];
    return found;
}

/* At most GROUP inputs. */
uint64_t read_pass(const char *const *inputs, size_t k, size_t size_bytes)
{
    switch (k) {
    case 1: return pass(inputs, 1, size_bytes);
    case 2: return pass(inputs, 2, size_bytes);
    case 3: return pass(inputs, 3, size_bytes);
    case 4: return pass(inputs, 4, size_bytes);
    case 5: return pass(inputs, 5, size_bytes);
    case 6: return pass(inputs, 6, size_bytes);
    case 7: return pass(inputs, 7, size_bytes);
    default: return pass(inputs, GROUP, size_bytes);
    }
}
