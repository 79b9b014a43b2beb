/* C tests of the nftables encoders and dump parsers, run under ASan and UBSan.
 * Equality with the Python twin is tested in tests/property/fastpath, random bytes in fuzz/. */
#include "ce_fastpath.h"
#include "check.h"

#include <errno.h>
#include <string.h>

#define HEAD_SIZE 20
#define KEY_SIZE 4
#define ROW_SIZE (KEY_SIZE + 4)
#define PARSED_SIZE (2 * KEY_SIZE + 20)
#define NEWRULE (10 << 8 | 6)
#define NEWSETELEM (10 << 8 | 12)

static void make_head(uint8_t *head, uint16_t type)
{
    memset(head, 0, HEAD_SIZE);
    memcpy(head + 4, &type, sizeof type);
}

static void make_row(uint8_t *row, uint32_t key, uint32_t tail)
{
    memcpy(row, &key, sizeof key);
    memcpy(row + KEY_SIZE, &tail, sizeof tail);
}

static int encode(const uint8_t *rows, size_t n_rows, const uint8_t *tails, const uint32_t *ends, size_t n_tails,
                  uint8_t *messages, size_t room, size_t *written)
{
    uint8_t head[HEAD_SIZE];

    make_head(head, NEWSETELEM);
    return ce_encode_set_elements(head, HEAD_SIZE, rows, n_rows, KEY_SIZE, KEY_SIZE, 1, tails, ends, n_tails,
                                  messages, room, written);
}

static void test_what_is_encoded_is_read_back(void)
{
    const size_t n_rows = 5000, room = n_rows * 28 + 64 * (HEAD_SIZE + 4);
    const uint8_t tails[12] = {12, 0, 2, 0, 8, 0, 1, 0, 1, 2, 3, 4};
    const uint32_t ends[2] = {0, 12};
    uint8_t *rows = new_bytes(n_rows * ROW_SIZE), *parsed = new_bytes(n_rows * PARSED_SIZE);
    uint8_t *messages = new_bytes(room);
    size_t written, n_parsed;

    for (size_t i = 0; i < n_rows; i++)
        make_row(rows + i * ROW_SIZE, (uint32_t)(i * 2654435761u), (uint32_t)(i % 2));
    CHECK(encode(rows, n_rows, tails, ends, 2, messages, room, &written) == 0);
    CHECK(ce_parse_element_dump(messages, written, KEY_SIZE, 1, parsed, n_rows, &n_parsed) == 0);
    CHECK(n_parsed == n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        uint32_t tail[5];

        CHECK(memcmp(parsed + i * PARSED_SIZE, rows + i * ROW_SIZE, KEY_SIZE) == 0);
        memcpy(tail, parsed + i * PARSED_SIZE + 2 * KEY_SIZE, sizeof tail);
        CHECK(tail[2] == (i % 2 ? 8 : 0) && tail[4] == 0);
    }
    CHECK(ce_parse_element_dump(messages, written, KEY_SIZE, 1, parsed, n_rows - 1, &n_parsed) == -ENOSPC);
    CHECK(ce_parse_element_dump(messages, written, KEY_SIZE + 1, 1, parsed, n_rows - 1, &n_parsed) == -EINVAL);
    free(messages);
    free(parsed);
    free(rows);
}

static void test_encoder_refuses_what_it_cannot_do(void)
{
    const uint8_t tails[8] = {8, 0, 2, 0};
    const uint32_t ends[2] = {4, 8}, odd[2] = {3, 6};
    uint8_t row[ROW_SIZE], head[HEAD_SIZE], messages[64];
    size_t written;

    make_head(head, NEWSETELEM);
    make_row(row, 1, 1);
    CHECK(encode(row, 1, tails, ends, 1, messages, 64, &written) == -EINVAL);
    CHECK(encode(row, 1, tails, odd, 2, messages, 64, &written) == -EINVAL);
    CHECK(ce_encode_set_elements(head, 16, row, 1, 4, 4, 0, tails, ends, 2, messages, 64, &written) == -EINVAL);
    CHECK(ce_encode_set_elements(head, HEAD_SIZE, row, 1, 4, 5, 0, tails, ends, 2, messages, 64, &written) ==
          -EINVAL);
    CHECK(ce_encode_set_elements(head, HEAD_SIZE, row, 1, 4, 0, 0, tails, ends, 2, messages, 64, &written) ==
          -EINVAL);
    CHECK(ce_encode_set_elements(head, HEAD_SIZE, NULL, SIZE_MAX / 8, 64, 64, 0, tails, ends, 2, messages, 64,
                                 &written) == -EOVERFLOW);
    for (size_t room = 0; room < HEAD_SIZE + 4 + 20; room++) {
        uint8_t *exact = new_bytes(room);

        CHECK(encode(row, 1, tails, ends, 2, exact, room, &written) == -ENOSPC);
        free(exact);
    }
    CHECK(encode(row, 1, tails, ends, 2, messages, HEAD_SIZE + 4 + 20, &written) == 0);
    CHECK(written == HEAD_SIZE + 4 + 20);
}

static void test_element_parser_refuses_what_is_cut_off(void)
{
    const uint8_t tails[8] = {8, 0, 3, 0};
    const uint32_t ends[1] = {8};
    uint8_t row[ROW_SIZE], messages[64], parsed[PARSED_SIZE];
    size_t written, n_parsed;

    make_row(row, 1, 0);
    CHECK(encode(row, 1, tails, ends, 1, messages, sizeof messages, &written) == 0);
    for (size_t length = 1; length < written; length++) {
        uint8_t *exact = new_bytes(length);

        memcpy(exact, messages, length);
        CHECK(ce_parse_element_dump(exact, length, KEY_SIZE, 0, parsed, 1, &n_parsed) == -EINVAL);
        free(exact);
    }
    CHECK(ce_parse_element_dump(NULL, 0, KEY_SIZE, 0, NULL, 0, &n_parsed) == 0 && n_parsed == 0);
    CHECK(ce_parse_element_dump(NULL, 0, KEY_SIZE, 0, NULL, SIZE_MAX / 20, &n_parsed) == -EOVERFLOW);
    CHECK(ce_parse_element_dump(NULL, 0, 0, 0, NULL, 0, &n_parsed) == -EINVAL);
    CHECK(ce_parse_element_dump(NULL, 0, 65, 0, NULL, 0, &n_parsed) == -EINVAL);
}

static void test_rules_are_assembled_and_read_back(void)
{
    const uint32_t body_ends[3] = {4, 4, 9}, note_ends[3] = {0, 6, 7};
    const uint8_t bodies[9] = {8, 0, 1, 0}, notes[7] = {0, 4, 'w', 'h', 'y', 0, 'x'};
    uint8_t head[HEAD_SIZE], messages[256], rows[3 * 32];
    size_t written, n_rows;
    uint32_t places[6];

    make_head(head, NEWRULE);
    CHECK(ce_assemble_rules(head, HEAD_SIZE, bodies, body_ends, notes, note_ends, 3, messages, sizeof messages,
                            &written) == 0);
    CHECK(ce_parse_rule_dump(messages, written, rows, 3, &n_rows) == 0 && n_rows == 3);
    memcpy(places, rows + 32 + 8, sizeof places);
    CHECK(places[5] == 6 && memcmp(messages + places[4], notes, 6) == 0);
    memcpy(places, rows + 8, sizeof places);
    CHECK(places[1] == 0 && places[3] == 0 && places[5] == 0);
    CHECK(ce_parse_rule_dump(messages, written, rows, 2, &n_rows) == -ENOSPC);
    for (size_t length = 1; length < written; length++) {
        uint8_t *exact = new_bytes(length), *room = new_bytes(length);
        size_t ignored;

        memcpy(exact, messages, length);
        /* Where a message ends, less is there, but nothing is cut off. */
        CHECK(ce_parse_rule_dump(exact, length, rows, 3, &n_rows) == (length == 28 || length == 64 ? 0 : -EINVAL));
        CHECK(ce_assemble_rules(head, HEAD_SIZE, bodies, body_ends, notes, note_ends, 3, room, length, &ignored) ==
              -ENOSPC);
        free(room);
        free(exact);
    }
    CHECK(ce_assemble_rules(head, 18, bodies, body_ends, notes, note_ends, 3, messages, 256, &written) == -EINVAL);
    CHECK(ce_parse_rule_dump(NULL, 0, NULL, SIZE_MAX / 20, &n_rows) == -EOVERFLOW);
}

static void test_messages_are_numbered(void)
{
    const uint32_t length = 16, long_one = 17;
    uint8_t messages[48] = {0};
    uint32_t sequence;
    size_t counts[2];

    for (size_t at = 0; at < sizeof messages; at += 16)
        memcpy(messages + at, &length, sizeof length);
    CHECK(ce_number_messages(messages, 48, UINT32_MAX, counts) == 0 && counts[0] == 3 && counts[1] == 16);
    memcpy(&sequence, messages + 40, sizeof sequence);
    CHECK(sequence == 1);
    CHECK(ce_number_messages(messages, 32, 1, counts) == -EINVAL);
    CHECK(ce_number_messages(NULL, 0, 1, counts) == -EINVAL);
    memcpy(messages + 32, &long_one, sizeof long_one);
    CHECK(ce_number_messages(messages, 48, 1, counts) == -EINVAL);
}

int main(void)
{
    test_what_is_encoded_is_read_back();
    test_encoder_refuses_what_it_cannot_do();
    test_element_parser_refuses_what_is_cut_off();
    test_rules_are_assembled_and_read_back();
    test_messages_are_numbered();
    puts("nftables messages C tests: 5 passed under ASan and UBSan");
    return 0;
}
