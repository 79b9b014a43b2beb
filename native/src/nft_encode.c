/* ce_number_messages, ce_encode_set_elements, ce_assemble_rules: nftables' messages by the thousand. */
#include "ce_fastpath.h"
#include "nft_wire.h"

#define HEAD_MAX (1u << 20)
#define ELEMENTS_MAX 60000
#define ELEMENT_OVERHEAD 12

/* include/uapi/linux/netfilter/nf_tables.h */
enum { LIST_ELEMENT = 1, DATA_VALUE = 1, SET_ELEMENTS = 3, ELEMENT_KEY = 1 };
enum { RULE_EXPRESSIONS = 4, RULE_USERDATA = 7 };

int ce_number_messages(uint8_t *messages, size_t length, uint32_t first, size_t *counts)
{
    struct part rest = {0, length}, message;
    size_t n_messages = 0, previous = 0, last = 0;

    while (rest.begin < rest.end) {
        const uint32_t sequence = first + (uint32_t)n_messages;

        if (take_message(messages, &rest, &message) < 0)
            return -EINVAL;
        memcpy(messages + message.begin + 8, &sequence, sizeof sequence);
        previous = last;
        last = message.begin;
        n_messages++;
    }
    if (n_messages < 3)
        return -EINVAL;
    counts[0] = n_messages;
    counts[1] = previous;
    return 0;
}

/* Finish a message of elements that begins at start. */
static void close_elements(uint8_t *messages, size_t start, size_t used, const uint8_t *head, size_t head_size)
{
    put_head(messages + start, head, head_size, used - start);
    put_header(messages + start + head_size, used - start - head_size, SET_ELEMENTS | NESTED);
}

int ce_encode_set_elements(const uint8_t *head, size_t head_size, const uint8_t *rows, size_t n_rows,
                           size_t packed_size, size_t key_size, uint32_t swaps, const uint8_t *tails,
                           const uint32_t *tail_ends, size_t n_tails, uint8_t *messages, size_t room,
                           size_t *written)
{
    size_t used = 0, start = 0, size = 0, key_room = padded(key_size);

    if (head_size < BODY_OFFSET || head_size % 4 != 0 || head_size > HEAD_MAX || key_size == 0 ||
        key_size > KEY_MAX || packed_size < key_size)
        return -EINVAL;
    if (packed_size > SIZE_MAX - 4 || ce_check_length(n_rows, packed_size + 4) != 0)
        return -EOVERFLOW;
    for (size_t i = 0; i < n_rows; i++) {
        const uint8_t *row = rows + i * (packed_size + 4);
        size_t tail_begin, tail_size, length;
        uint32_t number;
        uint8_t *at;

        memcpy(&number, row + packed_size, sizeof number);
        if (number >= n_tails)
            return -EINVAL;
        tail_begin = number == 0 ? 0 : tail_ends[number - 1];
        tail_size = tail_ends[number] - tail_begin;
        length = ELEMENT_OVERHEAD + key_room + tail_size;
        if (tail_size % 4 != 0 || length > ELEMENTS_MAX)
            return -EINVAL;
        if (size > 0 && size + length > ELEMENTS_MAX) {
            close_elements(messages, start, used, head, head_size);
            start = used;
            size = 0;
        }
        if (room - used < length + (size == 0 ? head_size + 4 : 0))
            return -ENOSPC;
        if (size == 0)
            used += head_size + 4;
        at = put_header(messages + used, length, LIST_ELEMENT | NESTED);
        at = put_header(at, 8 + key_room, ELEMENT_KEY | NESTED);
        at = put_header(at, 4 + key_size, DATA_VALUE);
        put_value(at, row, key_size);
        swap_words(at, key_size, swaps);
        put_value(at + key_room, tails + tail_begin, tail_size);
        used += length;
        size += length;
    }
    if (size > 0)
        close_elements(messages, start, used, head, head_size);
    *written = used;
    return 0;
}

int ce_assemble_rules(const uint8_t *head, size_t head_size, const uint8_t *expressions,
                      const uint32_t *expression_ends, const uint8_t *user_data,
                      const uint32_t *user_data_ends, size_t n_rules, uint8_t *messages, size_t room,
                      size_t *written)
{
    size_t used = 0, body_begin = 0, note_begin = 0;

    if (head_size < BODY_OFFSET || head_size % 4 != 0 || head_size > HEAD_MAX)
        return -EINVAL;
    for (size_t i = 0; i < n_rules; i++) {
        size_t body_size = expression_ends[i] - body_begin, note_size = user_data_ends[i] - note_begin;
        size_t length;
        uint8_t *at;

        if (body_size > ATTRIBUTE_MAX - 4 || note_size > ATTRIBUTE_MAX - 4)
            return -EINVAL;
        length = head_size + 4 + padded(body_size) + (note_size > 0 ? 4 + padded(note_size) : 0);
        if (room - used < length)
            return -ENOSPC;
        put_head(messages + used, head, head_size, length);
        at = put_header(messages + used + head_size, 4 + body_size, RULE_EXPRESSIONS | NESTED);
        at = put_value(at, expressions + body_begin, body_size);
        if (note_size > 0) {
            at = put_header(at, 4 + note_size, RULE_USERDATA);
            put_value(at, user_data + note_begin, note_size);
        }
        used += length;
        body_begin = expression_ends[i];
        note_begin = user_data_ends[i];
    }
    *written = used;
    return 0;
}
