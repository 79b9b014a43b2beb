/* C tests, run under ASan and UBSan: edges and random rows against a quadratic model.
 * Every buffer is malloc'ed to its exact length, so one byte too far is an error.
 * Equality with the Python twin is tested in tests/property/fastpath. */
#include "ce_fastpath.h"
#include "check.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state = 1;

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* Few values, so keys collide often. */
static uint8_t *new_random_rows(size_t n_rows, size_t row_size)
{
    uint8_t *rows = new_bytes(n_rows * row_size);

    for (size_t i = 0; i < n_rows * row_size; i++)
        rows[i] = (uint8_t)(next_random() % 5 * 63);
    return rows;
}

static void sort(uint8_t *rows, size_t n_rows, size_t row_size)
{
    uint8_t *scratch = new_bytes(n_rows * row_size);

    CHECK(ce_sort_rows(rows, scratch, n_rows, row_size) == 0);
    free(scratch);
}

static unsigned long sum_of(const uint8_t *rows, size_t length)
{
    unsigned long sum = 0;

    for (size_t i = 0; i < length; i++)
        sum += rows[i];
    return sum;
}

static void test_sort_orders_and_keeps_every_byte(void)
{
    for (size_t row_size = 1; row_size < 28; row_size += 3) {
        for (size_t n_rows = 0; n_rows < 700; n_rows += n_rows < 150 ? 1 : 53) {
            uint8_t *rows = new_random_rows(n_rows, row_size);
            unsigned long before = n_rows ? sum_of(rows, n_rows * row_size) : 0;

            sort(rows, n_rows, row_size);
            for (size_t i = 1; i < n_rows; i++)
                CHECK(memcmp(rows + (i - 1) * row_size, rows + i * row_size, row_size) <= 0);
            CHECK(n_rows == 0 || sum_of(rows, n_rows * row_size) == before);
            free(rows);
        }
    }
}

static void test_sort_refuses_what_it_cannot_do(void)
{
    uint8_t row[1] = {0};

    CHECK(ce_sort_rows(row, row, 1, 0) == -EINVAL);
    CHECK(ce_sort_rows(row, row, SIZE_MAX, 2) == -EOVERFLOW);
}

/* Sorted rows with each key once: returns how many are left. */
static size_t drop_equal_keys(uint8_t *rows, size_t n_rows, size_t key_size, size_t row_size)
{
    size_t kept = 0;

    for (size_t i = 0; i < n_rows; i++) {
        if (kept && memcmp(rows + (kept - 1) * row_size, rows + i * row_size, key_size) == 0)
            continue;
        memmove(rows + kept++ * row_size, rows + i * row_size, row_size);
    }
    return kept;
}

/* The row of rows with this key, or NULL. */
static const uint8_t *find_key(const uint8_t *rows, size_t n_rows, const uint8_t *key,
                               size_t key_size, size_t row_size)
{
    for (size_t i = 0; i < n_rows; i++)
        if (memcmp(rows + i * row_size, key, key_size) == 0)
            return rows + i * row_size;
    return NULL;
}

static void check_diff(const uint8_t *want, size_t n_want, const uint8_t *have, size_t n_have,
                       size_t key_size, size_t row_size)
{
    uint32_t *added = (uint32_t *)new_bytes(n_want * sizeof *added);
    uint32_t *changed = (uint32_t *)new_bytes(n_want * sizeof *changed);
    uint32_t *removed = (uint32_t *)new_bytes(n_have * sizeof *removed);
    size_t counts[3], a = 0, c = 0, r = 0;

    CHECK(ce_diff_rows(want, n_want, have, n_have, key_size, row_size, added, changed, removed,
                       counts) == 0);
    for (size_t i = 0; i < n_want; i++) {
        const uint8_t *row = want + i * row_size;
        const uint8_t *other = find_key(have, n_have, row, key_size, row_size);

        if (other == NULL)
            CHECK(a < counts[0] && added[a++] == i);
        else if (memcmp(other, row, row_size) != 0)
            CHECK(c < counts[1] && changed[c++] == i);
    }
    for (size_t i = 0; i < n_have; i++)
        if (find_key(want, n_want, have + i * row_size, key_size, row_size) == NULL)
            CHECK(r < counts[2] && removed[r++] == i);
    CHECK(a == counts[0] && c == counts[1] && r == counts[2]);
    free(added);
    free(changed);
    free(removed);
}

static void test_diff_equals_the_model(void)
{
    for (size_t round = 0; round < 400; round++) {
        size_t key_size = 1 + next_random() % 4, row_size = key_size + next_random() % 3;
        size_t n_want = next_random() % 30, n_have = next_random() % 30;
        uint8_t *want = new_random_rows(n_want, row_size);
        uint8_t *have = new_random_rows(n_have, row_size);

        sort(want, n_want, row_size);
        sort(have, n_have, row_size);
        n_want = drop_equal_keys(want, n_want, key_size, row_size);
        n_have = drop_equal_keys(have, n_have, key_size, row_size);
        check_diff(want, n_want, have, n_have, key_size, row_size);
        free(want);
        free(have);
    }
}

static void test_diff_refuses_what_it_cannot_do(void)
{
    const uint8_t descending[2] = {2, 1}, twice[2] = {1, 1};
    uint32_t added[2], changed[2], removed[2];
    size_t counts[3];

    CHECK(ce_diff_rows(descending, 2, NULL, 0, 1, 1, added, changed, removed, counts) == -EINVAL);
    CHECK(ce_diff_rows(NULL, 0, twice, 2, 1, 1, added, changed, removed, counts) == -EINVAL);
    CHECK(ce_diff_rows(NULL, 0, NULL, 0, 0, 1, added, changed, removed, counts) == -EINVAL);
    CHECK(ce_diff_rows(NULL, 0, NULL, 0, 2, 1, added, changed, removed, counts) == -EINVAL);
    CHECK(ce_diff_rows(NULL, SIZE_MAX, NULL, 0, 1, 2, added, changed, removed, counts) ==
          -EOVERFLOW);
}

static void test_subtract_leaves_what_the_other_has_not(void)
{
    for (size_t row_size = 1; row_size < 4; row_size++) {
        for (size_t n_rows = 0; n_rows < 60; n_rows++) {
            size_t n_others = n_rows * 7 % 40, n_left, place = 0;
            uint8_t *rows = new_random_rows(n_rows, row_size), *others = new_random_rows(n_others, row_size);
            uint8_t *left = new_bytes(n_rows * row_size);

            sort(rows, n_rows, row_size);
            sort(others, n_others, row_size);
            CHECK(ce_subtract_rows(rows, n_rows, others, n_others, row_size, left, &n_left) == 0);
            for (size_t i = 0; i < n_rows; i++) {
                const uint8_t *row = rows + i * row_size;

                if ((i > 0 && memcmp(row - row_size, row, row_size) == 0) ||
                    find_key(others, n_others, row, row_size, row_size) != NULL)
                    continue;
                CHECK(place < n_left && memcmp(left + place++ * row_size, row, row_size) == 0);
            }
            CHECK(place == n_left);
            CHECK(ce_unique_rows(rows, n_rows, row_size, &n_left) == 0 && n_left >= place && n_left <= n_rows);
            for (size_t i = 1; i < n_left; i++)
                CHECK(memcmp(rows + (i - 1) * row_size, rows + i * row_size, row_size) < 0);
            for (size_t i = 0; i < place; i++)
                CHECK(find_key(rows, n_left, left + i * row_size, row_size, row_size) != NULL);
            free(left);
            free(others);
            free(rows);
        }
    }
}

static void test_subtract_refuses_what_it_cannot_do(void)
{
    const uint8_t unsorted[2] = {2, 1};
    uint8_t left[2] = {2, 1};
    size_t n_left;

    CHECK(ce_unique_rows(left, 2, 1, &n_left) == -EINVAL);
    CHECK(ce_unique_rows(left, 2, 0, &n_left) == -EINVAL);
    CHECK(ce_unique_rows(left, SIZE_MAX, 2, &n_left) == -EOVERFLOW);
    CHECK(ce_subtract_rows(unsorted, 2, NULL, 0, 1, left, &n_left) == -EINVAL);
    CHECK(ce_subtract_rows(NULL, 0, unsorted, 2, 1, left, &n_left) == -EINVAL);
    CHECK(ce_subtract_rows(unsorted, 1, NULL, 0, 0, left, &n_left) == -EINVAL);
    CHECK(ce_subtract_rows(unsorted, SIZE_MAX, NULL, 0, 2, left, &n_left) == -EOVERFLOW);
    CHECK(ce_subtract_rows(NULL, 0, unsorted, SIZE_MAX, 2, left, &n_left) == -EOVERFLOW);
}

static void test_longest_prefix_finds_the_longest(void)
{
    const uint8_t prefixes[] = {
        0, 0, 0, 0, 0, /* row 0: 0.0.0.0/0 */
        10, 0, 0, 0, 8, 10, 65, 0, 0, 24, 10, 65, 0, 64, 26, 10, 65, 0, 65, 32,
    };
    const uint8_t addresses[] = {
        10, 65, 0, 65, 10, 65, 0, 66, 10, 65, 0, 1, 10, 66, 0, 1, 192, 0, 2, 1,
    };
    const int32_t expected[] = {4, 3, 2, 1, 0};
    int32_t rows[5];

    CHECK(ce_longest_prefix(prefixes, 5, addresses, 5, 4, rows) == 0);
    CHECK(memcmp(rows, expected, sizeof rows) == 0);
    CHECK(ce_longest_prefix(prefixes + 5, 4, addresses, 5, 4, rows) == 0);
    CHECK(rows[4] == -1 && rows[0] == 3);
    CHECK(ce_longest_prefix(NULL, 0, addresses, 5, 4, rows) == 0);
    CHECK(rows[0] == -1);
}

static void test_longest_prefix_handles_v6_edges(void)
{
    uint8_t prefixes[2 * 17] = {0}, address[16];
    int32_t row;

    memset(prefixes + 17, 0xff, 16);
    prefixes[17 + 16] = 128;
    memset(address, 0xff, 16);
    CHECK(ce_longest_prefix(prefixes, 2, address, 1, 16, &row) == 0 && row == 1);
    address[15] = 0xfe;
    CHECK(ce_longest_prefix(prefixes, 2, address, 1, 16, &row) == 0 && row == 0);
}

static void test_longest_prefix_refuses_what_it_cannot_do(void)
{
    const uint8_t too_long[5] = {10, 0, 0, 0, 33}, host_bits[5] = {10, 0, 0, 1, 24};
    const uint8_t twice[10] = {10, 0, 0, 0, 8, 10, 0, 0, 0, 8};
    int32_t row;

    CHECK(ce_longest_prefix(too_long, 1, NULL, 0, 4, &row) == -EINVAL);
    CHECK(ce_longest_prefix(host_bits, 1, NULL, 0, 4, &row) == -EINVAL);
    CHECK(ce_longest_prefix(twice, 2, NULL, 0, 4, &row) == -EINVAL);
    CHECK(ce_longest_prefix(NULL, 0, NULL, 0, 6, &row) == -EINVAL);
    CHECK(ce_longest_prefix(NULL, SIZE_MAX / 2, NULL, 0, 4, &row) == -EOVERFLOW);
}

int main(void)
{
    test_sort_orders_and_keeps_every_byte();
    test_sort_refuses_what_it_cannot_do();
    test_diff_equals_the_model();
    test_diff_refuses_what_it_cannot_do();
    test_subtract_leaves_what_the_other_has_not();
    test_subtract_refuses_what_it_cannot_do();
    test_longest_prefix_finds_the_longest();
    test_longest_prefix_handles_v6_edges();
    test_longest_prefix_refuses_what_it_cannot_do();
    puts("fast path C tests: 9 passed under ASan and UBSan");
    return 0;
}
