/* ce_sort_rows: where few of the rows' bytes differ from row to row, a stable pass by each of these; else insertion sort
 * of short runs, then a bottom-up merge between rows and scratch. */
#include "ce_fastpath.h"

#include <errno.h>
#include <string.h>

#define RUN 16
/* Passes by a byte: below so many rows a merge is as quick, beyond so many bytes too. */
#define PASSES_MIN_ROWS 256
#define PASSES_MAX 16

int ce_check_length(size_t n, size_t size)
{
    return size != 0 && n > SIZE_MAX / size ? -EOVERFLOW : 0;
}

/* The first 8 bytes as a number that sorts as they do. */
static uint64_t load_first8(const uint8_t *row)
{
    uint64_t value;

    memcpy(&value, row, sizeof value);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

/* memcmp, but the first 8 bytes decide most comparisons without a call. */
static int compare_rows(const uint8_t *a, const uint8_t *b, size_t row_size)
{
    if (row_size >= 8) {
        uint64_t x = load_first8(a), y = load_first8(b);

        if (x != y)
            return x < y ? -1 : 1;
    }
    return memcmp(a, b, row_size);
}

/* Sort rows [begin, end) by insertion; spare holds one row. */
static void sort_run(uint8_t *rows, size_t begin, size_t end, size_t row_size, uint8_t *spare)
{
    for (size_t i = begin + 1; i < end; i++) {
        size_t place = i;

        while (place > begin &&
               compare_rows(rows + (place - 1) * row_size, rows + i * row_size, row_size) > 0)
            place--;
        if (place == i)
            continue;
        memcpy(spare, rows + i * row_size, row_size);
        memmove(rows + (place + 1) * row_size, rows + place * row_size, (i - place) * row_size);
        memcpy(rows + place * row_size, spare, row_size);
    }
}

/* Merge from[begin, middle) and from[middle, end), both sorted, into to[begin, end). */
static void merge_runs(const uint8_t *from, uint8_t *to, size_t begin, size_t middle, size_t end,
                       size_t row_size)
{
    size_t left = begin, right = middle;
    uint8_t *out = to + begin * row_size;

    while (left < middle && right < end) {
        const uint8_t *a = from + left * row_size, *b = from + right * row_size;

        if (compare_rows(a, b, row_size) <= 0) {
            memcpy(out, a, row_size);
            left++;
        } else {
            memcpy(out, b, row_size);
            right++;
        }
        out += row_size;
    }
    memcpy(out, from + left * row_size, (middle - left) * row_size);
    out += (middle - left) * row_size;
    memcpy(out, from + right * row_size, (end - right) * row_size);
}

/* memcpy, without a call for rows of 16 to 32 bytes. */
static inline void copy_row(uint8_t *to, const uint8_t *from, size_t row_size)
{
    if (row_size < 16 || row_size > 32) {
        memcpy(to, from, row_size);
        return;
    }
    memcpy(to, from, 16);
    memcpy(to + row_size - 16, from + row_size - 16, 16);
}

/* Order rows by the byte at column, stably, from one buffer into the other. */
static void sort_by_byte(const uint8_t *from, uint8_t *to, size_t n_rows, size_t row_size, size_t column)
{
    size_t places[256] = {0}, place = 0;

    for (size_t i = 0; i < n_rows; i++)
        places[from[i * row_size + column]]++;
    for (size_t value = 0; value < 256; value++) {
        size_t n = places[value];

        places[value] = place;
        place += n;
    }
    for (size_t i = 0; i < n_rows; i++) {
        const uint8_t *row = from + i * row_size;

        copy_row(to + places[row[column]]++ * row_size, row, row_size);
    }
}

/* The bytes in which the rows' size bytes at column are not all the same, as a number with those bytes not zero. */
static uint64_t differing_bytes(const uint8_t *rows, size_t n_rows, size_t row_size, size_t column, size_t size)
{
    uint64_t first = 0, different = 0, value = 0;

    memcpy(&first, rows + column, size);
    if (size == sizeof value) {
        for (size_t i = 1; i < n_rows; i++) {
            memcpy(&value, rows + i * row_size + column, sizeof value);
            different |= value ^ first;
        }
        return different;
    }
    for (size_t i = 1; i < n_rows; i++) {
        memcpy(&value, rows + i * row_size + column, size);
        different |= value ^ first;
    }
    return different;
}

/* Find the columns in which not all rows agree, at most PASSES_MAX: how many, or PASSES_MAX + 1 for more. */
static size_t find_columns(const uint8_t *rows, size_t n_rows, size_t row_size, size_t *columns)
{
    size_t n = 0;

    for (size_t start = 0; start < row_size; start += sizeof(uint64_t)) {
        size_t size = row_size - start < sizeof(uint64_t) ? row_size - start : sizeof(uint64_t);
        uint64_t different = differing_bytes(rows, n_rows, row_size, start, size);
        uint8_t bytes[sizeof different];

        memcpy(bytes, &different, sizeof different);
        for (size_t i = 0; i < size; i++) {
            if (bytes[i] == 0)
                continue;
            if (n == PASSES_MAX)
                return PASSES_MAX + 1;
            columns[n++] = start + i;
        }
    }
    return n;
}

int ce_sort_rows(uint8_t *rows, uint8_t *scratch, size_t n_rows, size_t row_size)
{
    uint8_t *from = rows, *to = scratch, *other;
    size_t columns[PASSES_MAX], n_columns, n_merges = 0;

    if (row_size == 0)
        return -EINVAL;
    if (ce_check_length(n_rows, row_size) != 0)
        return -EOVERFLOW;
    /* Two rows are enough to need a swap; fewer also means scratch may be empty. */
    if (n_rows < 2)
        return 0;
    for (size_t width = RUN; width < n_rows && width <= SIZE_MAX / 2; width *= 2)
        n_merges++;
    if (n_rows >= PASSES_MIN_ROWS &&
        (n_columns = find_columns(rows, n_rows, row_size, columns)) <= n_merges && n_columns <= PASSES_MAX) {
        while (n_columns > 0) {
            sort_by_byte(from, to, n_rows, row_size, columns[--n_columns]);
            other = from;
            from = to;
            to = other;
        }
        if (from != rows)
            memcpy(rows, from, n_rows * row_size);
        return 0;
    }
    for (size_t begin = 0; begin < n_rows; begin += RUN)
        sort_run(rows, begin, n_rows - begin < RUN ? n_rows : begin + RUN, row_size, scratch);
    for (size_t width = RUN; width < n_rows; width = width > n_rows / 2 ? n_rows : width * 2) {
        for (size_t begin = 0; begin < n_rows;) {
            size_t left = n_rows - begin;
            size_t middle = left < width ? n_rows : begin + width;
            size_t end = n_rows - middle < width ? n_rows : middle + width;

            merge_runs(from, to, begin, middle, end, row_size);
            begin = end;
        }
        other = from;
        from = to;
        to = other;
    }
    if (from != rows)
        memcpy(rows, from, n_rows * row_size);
    return 0;
}
