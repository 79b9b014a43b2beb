/* ce_diff_rows: one pass over two sorted row buffers. */
#include "ce_fastpath.h"

#include <errno.h>
#include <string.h>

/* True when row i's key does not come after the key before it. */
static int out_of_order(const uint8_t *rows, size_t i, size_t key_size, size_t row_size)
{
    return i > 0 && memcmp(rows + (i - 1) * row_size, rows + i * row_size, key_size) >= 0;
}

int ce_diff_rows(const uint8_t *desired, size_t n_desired, const uint8_t *actual, size_t n_actual,
                 size_t key_size, size_t row_size, uint32_t *added, uint32_t *changed,
                 uint32_t *removed, size_t *counts)
{
    size_t d = 0, a = 0, n_added = 0, n_changed = 0, n_removed = 0;

    if (key_size == 0 || key_size > row_size)
        return -EINVAL;
    if (ce_check_length(n_desired, row_size) != 0 || ce_check_length(n_actual, row_size) != 0 ||
        n_desired > UINT32_MAX || n_actual > UINT32_MAX)
        return -EOVERFLOW;
    while (d < n_desired || a < n_actual) {
        /* A buffer of no rows may be NULL, to which nothing may be added, not even 0. */
        const uint8_t *want = d < n_desired ? desired + d * row_size : NULL;
        const uint8_t *have = a < n_actual ? actual + a * row_size : NULL;
        int order;

        if ((d < n_desired && out_of_order(desired, d, key_size, row_size)) ||
            (a < n_actual && out_of_order(actual, a, key_size, row_size)))
            return -EINVAL;
        if (want == NULL)
            order = 1;
        else if (have == NULL)
            order = -1;
        else
            order = memcmp(want, have, key_size);
        if (order < 0) {
            added[n_added++] = (uint32_t)d++;
        } else if (order > 0) {
            removed[n_removed++] = (uint32_t)a++;
        } else {
            if (memcmp(want + key_size, have + key_size, row_size - key_size) != 0)
                changed[n_changed++] = (uint32_t)d;
            d++;
            a++;
        }
    }
    counts[0] = n_added;
    counts[1] = n_changed;
    counts[2] = n_removed;
    return 0;
}
