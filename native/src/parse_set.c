/* ce_parse_set_dump: the kernel's dump of one set to rows. The bytes are not trusted. */
#include "ce_fastpath.h"

#include <errno.h>
#include <string.h>

#define ROW_SIZE 21
#define HEADER_SIZE 16
#define BODY_OFFSET 20
#define NOMATCH 0x80

/* include/uapi/linux/netlink.h, netfilter/ipset/ip_set.h */
enum { TYPE_MASK = 0x3fff, MSG_LIST = 6 << 8 | 7, MSG_SAVE = 6 << 8 | 8 };
enum { ATTR_DATA = 7, ATTR_ADT = 8 };
enum { ATTR_IP = 1, ATTR_CIDR = 3, ATTR_PORT = 4, ATTR_PROTO = 7, ATTR_FLAGS = 8 };
enum { IPADDR_IPV4 = 1, IPADDR_IPV6 = 2, FLAG_NOMATCH = 4 };

struct span {
    const uint8_t *bytes;
    size_t size;
};

/* Cut n bytes, and the padding after them, off the front. */
static void skip(struct span *rest, size_t n)
{
    size_t padded = (n + 3) & ~(size_t)3;

    if (padded > rest->size)
        padded = rest->size;
    rest->bytes += padded;
    rest->size -= padded;
}

/* Take the next attribute off rest: its type, or -EINVAL when it is cut off. rest is not empty. */
static int take_attribute(struct span *rest, struct span *value)
{
    uint16_t header[2];

    if (rest->size < sizeof header)
        return -EINVAL;
    memcpy(header, rest->bytes, sizeof header);
    if (header[0] < sizeof header || header[0] > rest->size)
        return -EINVAL;
    value->bytes = rest->bytes + sizeof header;
    value->size = header[0] - sizeof header;
    skip(rest, header[0]);
    return header[1] & TYPE_MASK;
}

/* Read IPSET_ATTR_IP into a row: its family and address. */
static int read_address(struct span rest, uint8_t *row)
{
    while (rest.size > 0) {
        struct span value;
        int type = take_attribute(&rest, &value);

        if (type < 0)
            return type;
        if (type != IPADDR_IPV4 && type != IPADDR_IPV6)
            continue;
        if (value.size != (type == IPADDR_IPV4 ? 4 : 16))
            return -EINVAL;
        row[0] = type == IPADDR_IPV4 ? 4 : 6;
        memset(row + 2, 0, 16);
        memcpy(row + 2, value.bytes, value.size);
    }
    return 0;
}

/* Copy a value of exactly size bytes. */
static int read_value(struct span value, uint8_t *to, size_t size)
{
    if (value.size != size)
        return -EINVAL;
    memcpy(to, value.bytes, size);
    return 0;
}

/* Read one IPSET_ATTR_DATA into a row. */
static int read_member(struct span rest, uint8_t *row)
{
    uint8_t flags[4] = {0};
    int has_prefix = 0;

    memset(row, 0, ROW_SIZE);
    while (rest.size > 0) {
        struct span value;
        int code = 0;

        switch (take_attribute(&rest, &value)) {
        case -EINVAL:
            return -EINVAL;
        case ATTR_IP:
            code = read_address(value, row);
            break;
        case ATTR_CIDR:
            has_prefix = 1;
            code = read_value(value, row + 1, 1);
            break;
        case ATTR_PORT:
            code = read_value(value, row + 19, 2);
            break;
        case ATTR_PROTO:
            code = read_value(value, row + 18, 1);
            break;
        case ATTR_FLAGS:
            code = read_value(value, flags, sizeof flags);
            break;
        default:
            break;
        }
        if (code != 0)
            return code;
    }
    unsigned whole_bits = row[0] == 4 ? 32 : row[0] == 6 ? 128 : 0;

    if (!has_prefix)
        row[1] = (uint8_t)whole_bits;
    if (row[1] == 0 || row[1] > whole_bits || (row[18] != 0 && row[1] != whole_bits) ||
        (row[18] == 0 && (row[19] != 0 || row[20] != 0)))
        return -EINVAL;
    if (flags[3] & FLAG_NOMATCH)
        row[0] |= NOMATCH;
    return 0;
}

/* Read the members of one IPSET_ATTR_ADT. */
static int read_members(struct span rest, uint8_t *rows, size_t n_rows_max, size_t *n_rows)
{
    while (rest.size > 0) {
        struct span value;
        int type = take_attribute(&rest, &value), code;

        if (type < 0)
            return type;
        if (type != ATTR_DATA)
            continue;
        if (*n_rows == n_rows_max)
            return -ENOSPC;
        code = read_member(value, rows + *n_rows * ROW_SIZE);
        if (code != 0)
            return code;
        ++*n_rows;
    }
    return 0;
}

int ce_parse_set_dump(const uint8_t *dump, size_t length, uint8_t *rows, size_t n_rows_max,
                      size_t *n_rows)
{
    struct span rest = {dump, length};

    *n_rows = 0;
    if (ce_check_length(n_rows_max, ROW_SIZE) != 0)
        return -EOVERFLOW;
    while (rest.size > 0) {
        struct span body;
        uint32_t size;
        uint16_t type;

        if (rest.size < HEADER_SIZE)
            return -EINVAL;
        memcpy(&size, rest.bytes, sizeof size);
        memcpy(&type, rest.bytes + sizeof size, sizeof type);
        if (size < HEADER_SIZE || size > rest.size)
            return -EINVAL;
        body = rest;
        skip(&rest, size);
        if (type != MSG_LIST && type != MSG_SAVE)
            continue;
        if (size < BODY_OFFSET)
            return -EINVAL;
        body.bytes += BODY_OFFSET;
        body.size = size - BODY_OFFSET;
        while (body.size > 0) {
            struct span value;
            int code = take_attribute(&body, &value);

            if (code == ATTR_ADT)
                code = read_members(value, rows, n_rows_max, n_rows);
            if (code < 0)
                return code;
        }
    }
    return 0;
}
