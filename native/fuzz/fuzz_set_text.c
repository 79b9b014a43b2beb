/* Any bytes to ce_pack_set_members. The rows it makes of them, the encoder must take, and a dump give back; what it
 * refuses, it refuses with -EINVAL, and says where. */
#include "ce_fastpath.h"
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW_SIZE 21
#define HEAD_SIZE 20
#define MEMBER_MAX 52

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

static void send_and_read(const uint8_t *rows, size_t n_rows)
{
    const uint16_t list = 6 << 8 | 7;
    size_t room = n_rows * (MEMBER_MAX + HEAD_SIZE + 4), counts[2], n_again;
    uint8_t head[HEAD_SIZE] = {0}, *again = allocate(n_rows * ROW_SIZE), *messages = allocate(room);
    uint32_t *ends = (uint32_t *)allocate(n_rows * sizeof *ends);

    memcpy(head + 4, &list, sizeof list);
    demand(ce_encode_set_members(head, HEAD_SIZE, rows, n_rows, 3, messages, room, ends, n_rows, counts) == 0);
    demand(ce_parse_set_dump(messages, counts[0], again, n_rows, &n_again) == 0);
    demand(n_again == n_rows && (n_rows == 0 || memcmp(rows, again, n_rows * ROW_SIZE) == 0));
    free(ends);
    free(messages);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    size_t n_rows_max = 1, counts[2];
    uint8_t *rows;
    int code;

    for (size_t i = 0; i < size; i++)
        n_rows_max += bytes[i] == '\n';
    rows = allocate(n_rows_max * ROW_SIZE);
    code = ce_pack_set_members(bytes, size, rows, n_rows_max, counts);
    demand(code == 0 || code == -EINVAL);
    demand(counts[0] <= n_rows_max && counts[1] <= size);
    if (code == 0)
        send_and_read(rows, counts[0]);
    free(rows);
    return 0;
}

size_t make_good_input(uint32_t number, uint8_t *bytes, size_t room)
{
    static const char *const lines[] = {
        "10.0.0.1",       "255.255.255.255/31", "fd00::1",           "::/1",     "::ffff:1.2.3.4",   "1:2:3:4:5:6:7:8",
        "10.0.0.1,tcp:80", "fd00::1,icmpv6:65535", "10.0.0.1,99:7", "1::/128", "10.0.0.0/8 nomatch", "1:2:3:4:5:6:1.2.3.4",
    };
    size_t size = 0;

    for (uint32_t i = 0, n = number % 6; i < n; i++)
        size += (size_t)snprintf((char *)bytes + size, room - size, "%s%s", i > 0 ? "\n" : "",
                                 lines[(number >> (3 + 4 * i)) % (sizeof lines / sizeof *lines)]);
    return size;
}
