/* Any bytes to ce_parse_set_dump. What it accepts as rows, the encoder must take, and the parser give
 * back again; what it refuses, it refuses with -EINVAL. */
#include "ce_fastpath.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROW_SIZE 21
#define HEAD_SIZE 28
#define MEMBER_MAX 52

static const uint16_t LIST = 6 << 8 | 7;

static void demand(int condition)
{
    if (!condition)
        abort();
}

static uint8_t *allocate(size_t size)
{
    uint8_t *bytes = malloc(size);

    demand(bytes != NULL || size == 0);
    return bytes;
}

static void encode_and_read_again(const uint8_t *rows, size_t n_rows)
{
    uint8_t head[HEAD_SIZE] = {0}, *again = allocate(n_rows * ROW_SIZE);
    size_t room = n_rows * (MEMBER_MAX + HEAD_SIZE + 4), counts[2], n_again;
    uint8_t *messages = allocate(room);
    uint32_t *ends = (uint32_t *)allocate(n_rows * sizeof *ends);

    memcpy(head + 4, &LIST, sizeof LIST);
    head[20] = 8;
    demand(ce_encode_set_members(head, HEAD_SIZE, rows, n_rows, 3, messages, room, ends, n_rows, counts) == 0);
    demand(ce_parse_set_dump(messages, counts[0], again, n_rows, &n_again) == 0);
    demand(n_again == n_rows);
    demand(n_rows == 0 || memcmp(rows, again, n_rows * ROW_SIZE) == 0);
    free(ends);
    free(messages);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    size_t n_rows, n_rows_max = size / 16;
    uint8_t *rows = allocate(n_rows_max * ROW_SIZE);
    int code = ce_parse_set_dump(bytes, size, rows, n_rows_max, &n_rows);

    demand(code == 0 || code == -EINVAL);
    demand(n_rows <= n_rows_max);
    if (code == 0)
        encode_and_read_again(rows, n_rows);
    free(rows);
    return 0;
}

size_t make_good_input(uint32_t number, uint8_t *bytes, size_t room)
{
    uint8_t head[HEAD_SIZE] = {0}, rows[8 * ROW_SIZE] = {0};
    uint32_t ends[8];
    size_t n_rows = number % 8, counts[2];

    memcpy(head + 4, &LIST, sizeof LIST);
    head[20] = 8;
    for (size_t i = 0; i < n_rows; i++) {
        uint8_t *row = rows + i * ROW_SIZE;
        uint32_t choice = number >> (8 + 3 * i);

        row[0] = choice & 1 ? 6 : 4;
        row[1] = choice & 1 ? 128 : 32;
        row[2 + choice % 4] = (uint8_t)choice;
        if (choice & 2)
            row[18] = 6;
        else
            row[1] = (uint8_t)(1 + choice % 32);
        if ((choice & 12) == 12)
            row[0] |= 0x80;
    }
    demand(ce_encode_set_members(head, HEAD_SIZE, rows, n_rows, 1 + number / 8 % 4, bytes, room, ends, 8,
                                 counts) == 0);
    return counts[0];
}
