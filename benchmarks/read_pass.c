/* Reading k inputs and doing nothing else: the reference of case_fold.py.
 *
 * The same inputs in the same order as a fold reads them, and as many streams side by side: four
 * vectors of the first input, four of the second, and so on, then the next four of each.  Combined
 * with "or", which no compiler may leave out since the result is returned, and which costs less
 * than waiting for memory.
 */
#include <stddef.h>
#include <stdint.h>

typedef uint64_t vec __attribute__((vector_size(64), aligned(64), may_alias));

uint64_t read_pass(const char *const *inputs, size_t k, size_t size_bytes)
{
    vec a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t at = 0; at + 4 * sizeof(vec) <= size_bytes; at += 4 * sizeof(vec)) {
        for (size_t j = 0; j < k; j++) {
            const vec *from = (const vec *)(inputs[j] + at);
            a |= from[0], b |= from[1], c |= from[2], d |= from[3];
        }
    }
    a |= b | c | d;
    uint64_t found = 0;
    for (size_t i = 0; i < sizeof(vec) / sizeof(uint64_t); i++)
        found |= a[i];
    return found;
}
