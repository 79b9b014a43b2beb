/* Any bytes to ce_parse_element_dump, ce_parse_rule_dump and ce_number_messages. Rows must point into the input, and
 * keys that are read must come back when they are encoded; what is refused is refused with -EINVAL. */
#include "ce_fastpath.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_SIZE 20
#define RULE_ROW 32
#define KEY_MAX 64

static const uint16_t NEWRULE = 10 << 8 | 6, NEWSETELEM = 10 << 8 | 12;
static const size_t KEY_SIZES[] = {4, 1, 2, 8, 12, 16, 24, 64};

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

/* Read every byte that a row says is there. */
static uint32_t touch(const uint8_t *bytes, size_t size, const uint8_t *places, size_t n_places)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < n_places; i++) {
        uint32_t place[2];

        memcpy(place, places + i * sizeof place, sizeof place);
        demand(place[0] <= size && place[1] <= size - place[0]);
        for (uint32_t j = 0; j < place[1]; j++)
            sum += bytes[place[0] + j];
    }
    return sum;
}

static void encode_and_read_again(const uint8_t *parsed, size_t n_rows, size_t key_size)
{
    const uint32_t ends[1] = {0};
    size_t packed = (key_size + 3) & ~(size_t)3, parsed_size = 2 * key_size + 20, n_again, n_keys = 0, written;
    size_t room = n_rows * (12 + packed) + (n_rows + 1) * (HEAD_SIZE + 4);
    uint8_t head[HEAD_SIZE] = {0}, *rows = allocate(n_rows * (packed + 4)), *messages = allocate(room);
    uint8_t *again = allocate(n_rows * parsed_size);

    for (size_t i = 0; i < n_rows; i++) {
        uint32_t flags;

        memcpy(&flags, parsed + i * parsed_size + 2 * key_size, sizeof flags);
        if (flags & 2)
            continue;
        memset(rows + n_keys * (packed + 4), 0, packed + 4);
        memcpy(rows + n_keys++ * (packed + 4), parsed + i * parsed_size, key_size);
    }
    memcpy(head + 4, &NEWSETELEM, sizeof NEWSETELEM);
    demand(ce_encode_set_elements(head, HEAD_SIZE, rows, n_keys, packed, key_size, 5, rows, ends, 1, messages, room,
                                  &written) == 0);
    demand(ce_parse_element_dump(messages, written, key_size, 5, again, n_rows, &n_again) == 0);
    demand(n_again == n_keys);
    for (size_t i = 0; i < n_keys; i++)
        demand(memcmp(again + i * parsed_size, rows + i * (packed + 4), key_size) == 0);
    free(again);
    free(messages);
    free(rows);
}

static void parse_elements(const uint8_t *bytes, size_t size, size_t key_size)
{
    size_t row_size = 2 * key_size + 20, n_rows_max = size / 12, n_rows;
    uint8_t *rows = allocate(n_rows_max * row_size);
    int code = ce_parse_element_dump(bytes, size, key_size, 5, rows, n_rows_max, &n_rows);

    demand(code == 0 || code == -EINVAL);
    demand(n_rows <= n_rows_max);
    for (size_t i = 0; code == 0 && i < n_rows; i++)
        touch(bytes, size, rows + i * row_size + 2 * key_size + 4, 2);
    if (code == 0)
        encode_and_read_again(rows, n_rows, key_size);
    free(rows);
}

static void parse_rules(const uint8_t *bytes, size_t size)
{
    size_t n_rows_max = size / 20, n_rows;
    uint8_t *rows = allocate(n_rows_max * RULE_ROW);
    int code = ce_parse_rule_dump(bytes, size, rows, n_rows_max, &n_rows);

    demand(code == 0 || code == -EINVAL);
    demand(n_rows <= n_rows_max);
    for (size_t i = 0; code == 0 && i < n_rows; i++)
        touch(bytes, size, rows + i * RULE_ROW + 8, 3);
    free(rows);
}

static void number(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = allocate(size);
    size_t counts[2];
    int code;

    if (size > 0)
        memcpy(copy, bytes, size);
    code = ce_number_messages(copy, size, 1, counts);
    demand(code == 0 || code == -EINVAL);
    demand(code != 0 || counts[1] + 16 <= size);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < sizeof KEY_SIZES / sizeof *KEY_SIZES; i++)
        parse_elements(bytes, size, KEY_SIZES[i]);
    parse_rules(bytes, size);
    number(bytes, size);
    return 0;
}

static size_t make_elements(uint32_t number_, uint8_t *bytes, size_t room)
{
    /* A value and a comment; flags of a catch-all that has a key is what damage makes of the third. */
    const uint8_t tails[] = {12, 0, 2, 0, 8, 0, 1, 0, 0, 0, 0, 7, 8, 0, 6, 0, 0, 2, 'x', 0, 8, 0, 3, 0, 0, 0, 0, 1};
    const uint32_t ends[] = {0, 12, 20, 28};
    size_t key_size = KEY_SIZES[number_ % 8], packed = (key_size + 3) & ~(size_t)3, written;
    uint8_t head[HEAD_SIZE] = {0}, rows[8 * (KEY_MAX + 4)];

    memset(rows, (int)(number_ >> 8), sizeof rows);
    for (size_t i = 0; i < 8; i++) {
        const uint32_t tail = number_ >> (8 + 2 * i) & 3;

        memcpy(rows + i * (packed + 4) + packed, &tail, sizeof tail);
    }
    memcpy(head + 4, &NEWSETELEM, sizeof NEWSETELEM);
    demand(ce_encode_set_elements(head, HEAD_SIZE, rows, number_ >> 3 & 7, packed, key_size, 0, tails, ends, 4,
                                  bytes, room, &written) == 0);
    return written;
}

size_t make_good_input(uint32_t number_, uint8_t *bytes, size_t room)
{
    /* Table, chain and handle, as attributes. */
    const uint8_t more[] = {6, 0, 1, 0, 't', 0, 0, 0, 6, 0, 2, 0, 'c', 0, 0, 0,
                            12, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 9};
    const uint8_t bodies[] = {8, 0, 1, 0, 1, 2, 3, 4}, notes[] = {0, 4, 'w', 'h', 'y', 0};
    const uint32_t body_ends[] = {8, 8, 8}, note_ends[] = {0, 6, 6};
    uint8_t head[HEAD_SIZE + sizeof more] = {0};
    size_t written;

    if (number_ & 0x80)
        return make_elements(number_, bytes, room);
    memcpy(head + 4, &NEWRULE, sizeof NEWRULE);
    memcpy(head + HEAD_SIZE, more, sizeof more);
    demand(ce_assemble_rules(head, sizeof head, bodies, body_ends, notes, note_ends, number_ % 4, bytes, room,
                             &written) == 0);
    return written;
}
