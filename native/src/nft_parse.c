/* ce_parse_element_dump, ce_parse_rule_dump: the kernel's dumps of nftables. The bytes are not trusted. */
#include "ce_fastpath.h"
#include "nft_wire.h"

#define ELEMENT_TAIL 20
#define RULE_ROW 32
#define CATCH_ALL 2

/* include/uapi/linux/netfilter/nf_tables.h */
enum { MSG_NEWRULE = 10 << 8 | 6, MSG_NEWSETELEM = 10 << 8 | 12 };
enum { SET_ELEMENTS = 3, DATA_VALUE = 1 };
enum { ELEMENT_KEY = 1, ELEMENT_DATA = 2, ELEMENT_FLAGS = 3, ELEMENT_USERDATA = 6, ELEMENT_KEY_END = 10 };
enum { RULE_TABLE = 1, RULE_CHAIN = 2, RULE_HANDLE = 3, RULE_USERDATA = 7 };

/* Note where a part is; offsets fit, as the length of the dump does. */
static void note(uint32_t *place, struct part part)
{
    place[0] = (uint32_t)part.begin;
    place[1] = (uint32_t)(part.end - part.begin);
}

/* Read a key: the value within NFTA_SET_ELEM_KEY or _KEY_END. */
static int read_key(const uint8_t *dump, struct part rest, uint8_t *key, size_t key_size)
{
    struct part value, found = {0, 0};

    while (rest.begin < rest.end) {
        int type = take_attribute(dump, &rest, &value);

        if (type < 0)
            return type;
        if (type == DATA_VALUE)
            found = value;
    }
    if (found.end - found.begin != key_size)
        return -EINVAL;
    memcpy(key, dump + found.begin, key_size);
    return 0;
}

/* Read one element into a row. */
static int read_element(const uint8_t *dump, struct part rest, size_t key_size, uint32_t swaps, uint8_t *row)
{
    uint32_t tail[5] = {0};
    int has_key = 0, has_last = 0;
    uint8_t *last = row + key_size;

    memset(row, 0, key_size);
    while (rest.begin < rest.end) {
        struct part value;
        uint8_t flags[4];
        int code = 0;

        switch (take_attribute(dump, &rest, &value)) {
        case -EINVAL:
            return -EINVAL;
        case ELEMENT_KEY:
            has_key = 1;
            code = read_key(dump, value, row, key_size);
            break;
        case ELEMENT_KEY_END:
            has_last = 1;
            code = read_key(dump, value, last, key_size);
            break;
        case ELEMENT_DATA:
            note(tail + 1, value);
            break;
        case ELEMENT_USERDATA:
            note(tail + 3, value);
            break;
        case ELEMENT_FLAGS:
            if (value.end - value.begin != sizeof flags)
                return -EINVAL;
            memcpy(flags, dump + value.begin, sizeof flags);
            tail[0] = (uint32_t)flags[0] << 24 | (uint32_t)flags[1] << 16 | (uint32_t)flags[2] << 8 | flags[3];
            break;
        default:
            break;
        }
        if (code != 0)
            return code;
    }
    if (has_key == ((tail[0] & CATCH_ALL) != 0))
        return -EINVAL;
    swap_words(row, key_size, swaps);
    if (has_last)
        swap_words(last, key_size, swaps);
    else
        memcpy(last, row, key_size);
    memcpy(row + 2 * key_size, tail, sizeof tail);
    return 0;
}

/* Read the elements of one message. */
static int read_elements(const uint8_t *dump, struct part rest, size_t key_size, uint32_t swaps, uint8_t *rows,
                         size_t n_rows_max, size_t *n_rows)
{
    while (rest.begin < rest.end) {
        struct part element;
        int code = take_attribute(dump, &rest, &element);

        if (code < 0)
            return code;
        if (*n_rows == n_rows_max)
            return -ENOSPC;
        code = read_element(dump, element, key_size, swaps, rows + *n_rows * (2 * key_size + ELEMENT_TAIL));
        if (code != 0)
            return code;
        ++*n_rows;
    }
    return 0;
}

int ce_parse_element_dump(const uint8_t *dump, size_t length, size_t key_size, uint32_t swaps, uint8_t *rows,
                          size_t n_rows_max, size_t *n_rows)
{
    struct part rest = {0, length}, message;

    *n_rows = 0;
    if (key_size == 0 || key_size > KEY_MAX)
        return -EINVAL;
    if (length > UINT32_MAX || ce_check_length(n_rows_max, 2 * key_size + ELEMENT_TAIL) != 0)
        return -EOVERFLOW;
    while (rest.begin < rest.end) {
        int type = take_message(dump, &rest, &message);

        if (type < 0)
            return type;
        if (type != MSG_NEWSETELEM)
            continue;
        if (message.end - message.begin < BODY_OFFSET)
            return -EINVAL;
        message.begin += BODY_OFFSET;
        while (message.begin < message.end) {
            struct part value;
            int code = take_attribute(dump, &message, &value);

            if (code == SET_ELEMENTS)
                code = read_elements(dump, value, key_size, swaps, rows, n_rows_max, n_rows);
            if (code < 0)
                return code;
        }
    }
    return 0;
}

/* Read the attributes of one rule into a row. */
static int read_rule(const uint8_t *dump, struct part rest, uint8_t *row)
{
    uint32_t places[6] = {0};
    uint64_t handle = 0;

    while (rest.begin < rest.end) {
        struct part value;

        switch (take_attribute(dump, &rest, &value)) {
        case -EINVAL:
            return -EINVAL;
        case RULE_TABLE:
            note(places, value);
            break;
        case RULE_CHAIN:
            note(places + 2, value);
            break;
        case RULE_USERDATA:
            note(places + 4, value);
            break;
        case RULE_HANDLE:
            if (value.end - value.begin != sizeof handle)
                return -EINVAL;
            handle = 0;
            for (size_t i = value.begin; i < value.end; i++)
                handle = handle << 8 | dump[i];
            break;
        default:
            break;
        }
    }
    memcpy(row, &handle, sizeof handle);
    memcpy(row + sizeof handle, places, sizeof places);
    return 0;
}

int ce_parse_rule_dump(const uint8_t *dump, size_t length, uint8_t *rows, size_t n_rows_max, size_t *n_rows)
{
    struct part rest = {0, length}, message;

    *n_rows = 0;
    if (length > UINT32_MAX || ce_check_length(n_rows_max, RULE_ROW) != 0)
        return -EOVERFLOW;
    while (rest.begin < rest.end) {
        int code = take_message(dump, &rest, &message);

        if (code < 0)
            return code;
        if (code != MSG_NEWRULE)
            continue;
        if (message.end - message.begin < BODY_OFFSET)
            return -EINVAL;
        if (*n_rows == n_rows_max)
            return -ENOSPC;
        message.begin += BODY_OFFSET;
        code = read_rule(dump, message, rows + *n_rows * RULE_ROW);
        if (code != 0)
            return code;
        ++*n_rows;
    }
    return 0;
}
