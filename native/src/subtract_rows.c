/* ce_subtract_rows: the rows of one sorted buffer that another does not have. ce_unique_rows: each of its rows once. */
#include "ce_fastpath.h"

#include <errno.h>
#include <string.h>

int ce_subtract_rows(const uint8_t *rows, size_t n_rows, const uint8_t *others, size_t n_others, size_t row_size,
                     uint8_t *left, size_t *n_left)
{
    size_t other = 0;

    *n_left = 0;
    if (row_size == 0)
        return -EINVAL;
    if (ce_check_length(n_rows, row_size) != 0 || ce_check_length(n_others, row_size) != 0)
        return -EOVERFLOW;
    for (size_t i = 1; i < n_others; i++)
        if (memcmp(others + (i - 1) * row_size, others + i * row_size, row_size) > 0)
            return -EINVAL;
    for (size_t i = 0; i < n_rows; i++) {
        const uint8_t *row = rows + i * row_size;
        int order = i > 0 ? memcmp(row - row_size, row, row_size) : -1;

        if (order > 0)
            return -EINVAL;
        if (order == 0)
            continue;
        while (other < n_others && memcmp(others + other * row_size, row, row_size) < 0)
            other++;
        if (other < n_others && memcmp(others + other * row_size, row, row_size) == 0)
            continue;
        memcpy(left + *n_left * row_size, row, row_size);
        ++*n_left;
    }
    return 0;
}

int ce_unique_rows(uint8_t *rows, size_t n_rows, size_t row_size, size_t *n_left)
{
    *n_left = 0;
    if (row_size == 0)
        return -EINVAL;
    if (ce_check_length(n_rows, row_size) != 0)
        return -EOVERFLOW;
    for (size_t i = 0; i < n_rows; i++) {
        const uint8_t *row = rows + i * row_size;
        uint8_t *last = *n_left > 0 ? rows + (*n_left - 1) * row_size : NULL;
        int order = last != NULL ? memcmp(last, row, row_size) : -1;

        if (order > 0)
            return -EINVAL;
        if (order == 0)
            continue;
        if (*n_left != i)
            memcpy(rows + *n_left * row_size, row, row_size);
        ++*n_left;
    }
    return 0;
}
