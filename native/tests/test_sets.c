/* C tests of the set encoder, the dump parser and the parser of members as text, run under ASan and UBSan.
 * Equality with the Python twin is tested in tests/property/fastpath, random bytes in fuzz/. */
#include "ce_fastpath.h"
#include "check.h"

#include <errno.h>
#include <string.h>

#define ROW_SIZE 21
#define HEAD_SIZE 20
#define LIST (6 << 8 | 7)

static void make_head(uint8_t *head, uint16_t type)
{
    memset(head, 0, HEAD_SIZE);
    memcpy(head + 4, &type, sizeof type);
}

static void make_row(uint8_t *row, uint8_t family, uint8_t prefix_bits, uint8_t last, uint8_t protocol)
{
    memset(row, 0, ROW_SIZE);
    row[0] = family;
    row[1] = prefix_bits;
    row[2] = 10;
    row[5] = last;
    row[18] = protocol;
    row[20] = protocol ? 80 : 0;
}

/* Encode into exactly the room that is needed, or as many bytes less. */
static int encode(const uint8_t *rows, size_t n_rows, size_t per_message, size_t size, size_t n_ends,
                  uint8_t *messages, size_t *counts)
{
    uint8_t head[HEAD_SIZE];
    uint32_t *ends = (uint32_t *)new_bytes(n_ends * sizeof *ends);
    int code;

    make_head(head, LIST);
    code = ce_encode_set_members(head, HEAD_SIZE, rows, n_rows, per_message, messages, size, ends,
                                 n_ends, counts);
    free(ends);
    return code;
}

static void test_member_is_as_the_kernel_wants_it(void)
{
    const uint8_t expected[] = {
        32, 0,    7, 0x80,              /* DATA, nested */
        8,  0,    8, 0x40, 0, 0, 0, 4, /* CADT_FLAGS: nomatch, network order */
        5,  0,    3, 0,    24, 0, 0, 0, /* CIDR */
        12, 0,    1, 0x80,             /* IP, nested */
        8,  0,    1, 0x40, 10, 0, 0, 0, /* IPADDR_IPV4, network order */
    };
    uint8_t row[ROW_SIZE], messages[HEAD_SIZE + 4 + 52];
    size_t counts[2];

    /* The bytes above are little-endian. */
    if (*(const uint8_t *)&(const uint16_t){1} == 0)
        return;
    make_row(row, 4 | 0x80, 24, 0, 0);
    CHECK(encode(row, 1, 1, sizeof messages, 1, messages, counts) == 0);
    CHECK(counts[0] == HEAD_SIZE + 4 + sizeof expected && counts[1] == 1);
    CHECK(memcmp(messages + HEAD_SIZE + 4, expected, sizeof expected) == 0);
}

static void test_what_is_encoded_is_read_back(void)
{
    const size_t n_rows = 5000;
    uint8_t *rows = new_bytes(n_rows * ROW_SIZE), *again = new_bytes(n_rows * ROW_SIZE);
    size_t room = n_rows * 52 + n_rows * (HEAD_SIZE + 4), counts[2], n_again;
    uint8_t *messages = new_bytes(room);

    for (size_t i = 0; i < n_rows; i++)
        make_row(rows + i * ROW_SIZE, i % 2 ? 6 : 4, i % 2 ? 128 : 32, (uint8_t)i, i % 3 ? 0 : 6);
    for (size_t per_message = 1; per_message < 100000; per_message *= 7) {
        CHECK(encode(rows, n_rows, per_message, room, n_rows, messages, counts) == 0);
        CHECK(ce_parse_set_dump(messages, counts[0], again, n_rows, &n_again) == 0);
        CHECK(n_again == n_rows && memcmp(rows, again, n_rows * ROW_SIZE) == 0);
        CHECK(ce_parse_set_dump(messages, counts[0], again, n_rows - 1, &n_again) == -ENOSPC);
    }
    free(messages);
    free(again);
    free(rows);
}

static void test_encoder_refuses_what_it_cannot_do(void)
{
    uint8_t row[ROW_SIZE], head[HEAD_SIZE], messages[256];
    uint32_t ends[1];
    size_t counts[2];

    make_head(head, LIST);
    make_row(row, 4, 32, 1, 0);
    CHECK(ce_encode_set_members(head, 16, row, 1, 1, messages, 256, ends, 1, counts) == -EINVAL);
    CHECK(ce_encode_set_members(head, HEAD_SIZE, row, 1, 0, messages, 256, ends, 1, counts) == -EINVAL);
    CHECK(ce_encode_set_members(head, HEAD_SIZE, NULL, SIZE_MAX / 8, 1, messages, 256, ends, 1,
                                counts) == -EOVERFLOW);
    CHECK(encode(row, 1, 1, 256, 0, messages, counts) == -ENOSPC);
    /* 24 bytes of head and header, 16 of the member: the whole prefix length goes without saying. */
    for (size_t room = 0; room < 40; room++) {
        uint8_t *exact = new_bytes(room);

        CHECK(encode(row, 1, 1, room, 1, exact, counts) == -ENOSPC);
        free(exact);
    }
    CHECK(encode(row, 1, 1, 40, 1, messages, counts) == 0 && counts[0] == 40);
    for (unsigned family = 0; family < 256; family++) {
        row[0] = (uint8_t)family;
        CHECK((encode(row, 1, 1, 256, 1, messages, counts) == 0) ==
              ((family & 0x7f) == 4 || (family & 0x7f) == 6));
    }
    make_row(row, 4, 0, 1, 0);
    CHECK(encode(row, 1, 1, 256, 1, messages, counts) == -EINVAL);
    make_row(row, 4, 33, 1, 0);
    CHECK(encode(row, 1, 1, 256, 1, messages, counts) == -EINVAL);
    make_row(row, 6, 64, 1, 6);
    CHECK(encode(row, 1, 1, 256, 1, messages, counts) == -EINVAL);
}

static void test_parser_refuses_what_is_cut_off(void)
{
    uint8_t row[ROW_SIZE], messages[128], rows[8 * ROW_SIZE];
    size_t counts[2], n_rows;

    make_row(row, 6, 128, 1, 17);
    CHECK(encode(row, 1, 1, sizeof messages, 1, messages, counts) == 0);
    for (size_t length = 1; length < counts[0]; length++) {
        uint8_t *exact = new_bytes(length);

        memcpy(exact, messages, length);
        CHECK(ce_parse_set_dump(exact, length, rows, 8, &n_rows) == -EINVAL);
        free(exact);
    }
    CHECK(ce_parse_set_dump(NULL, 0, NULL, 0, &n_rows) == 0 && n_rows == 0);
    CHECK(ce_parse_set_dump(NULL, 0, NULL, SIZE_MAX / 20, &n_rows) == -EOVERFLOW);
}

static void test_parser_passes_other_messages_over(void)
{
    uint8_t row[ROW_SIZE], messages[128], rows[ROW_SIZE];
    const uint16_t done = 3;
    size_t counts[2], n_rows;

    make_row(row, 4, 32, 1, 0);
    CHECK(encode(row, 1, 1, sizeof messages, 1, messages, counts) == 0);
    memcpy(messages + 4, &done, sizeof done);
    CHECK(ce_parse_set_dump(messages, counts[0], rows, 1, &n_rows) == 0 && n_rows == 0);
}

static int pack(const char *text, uint8_t *rows, size_t n_rows_max, size_t *counts)
{
    size_t length = strlen(text);
    uint8_t *exact = new_bytes(length), *room = new_bytes(n_rows_max * ROW_SIZE);
    int code;

    memcpy(exact, text, length);
    code = ce_pack_set_members(exact, length, room, n_rows_max, counts);
    memcpy(rows, room, counts[0] * ROW_SIZE);
    free(room);
    free(exact);
    return code;
}

static void test_text_becomes_rows(void)
{
    uint8_t rows[4 * ROW_SIZE], expected[2 * ROW_SIZE];
    size_t counts[2];

    make_row(expected, 4, 32, 1, 0);
    make_row(expected + ROW_SIZE, 4 | 0x80, 12, 0, 0);
    expected[ROW_SIZE + 3] = 0xf0;
    CHECK(pack("10.0.0.1\n10.255.255.255/12 nomatch", rows, 3, counts) == 0 && counts[0] == 2);
    CHECK(memcmp(rows, expected, sizeof expected) == 0);
    make_row(expected, 4, 32, 1, 6);
    CHECK(pack("10.0.0.1,tcp:80", rows, 1, counts) == 0 && memcmp(rows, expected, ROW_SIZE) == 0);
    CHECK(pack("10.0.0.1\n", rows, 2, counts) == -EINVAL && counts[1] == 9);
    CHECK(pack("", rows, 0, counts) == 0 && counts[0] == 0);
    CHECK(pack("10.0.0.1\n10.0.0.2", rows, 1, counts) == -ENOSPC);
    CHECK(pack("10.0.0.1\n10.0.0\n10.0.0.3", rows, 4, counts) == -EINVAL && counts[0] == 1 && counts[1] == 9);
    CHECK(ce_pack_set_members(NULL, 0, NULL, SIZE_MAX / 20, counts) == -EOVERFLOW);
}

static void test_text_that_is_cut_off_is_no_member_or_another(void)
{
    static const char *const members[] = {"fd00:0:ffff::1.2.3.4/128", "1:2:3:4:5:6:7:8,udplite:65535", "10.0.0.0/8 nomatch"};
    uint8_t rows[ROW_SIZE];
    char text[40];
    size_t counts[2];

    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        for (size_t length = 0; length <= strlen(members[i]); length++) {
            int code;

            memcpy(text, members[i], length);
            text[length] = 0;
            code = pack(text, rows, 1, counts);
            CHECK(code == 0 || code == -EINVAL);
            CHECK(length < strlen(members[i]) || code == 0);
        }
    }
}

int main(void)
{
    test_text_becomes_rows();
    test_text_that_is_cut_off_is_no_member_or_another();
    test_member_is_as_the_kernel_wants_it();
    test_what_is_encoded_is_read_back();
    test_encoder_refuses_what_it_cannot_do();
    test_parser_refuses_what_is_cut_off();
    test_parser_passes_other_messages_over();
    puts("set messages C tests: 7 passed under ASan and UBSan");
    return 0;
}
