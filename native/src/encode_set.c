/* ce_encode_set_members: rows to IPSET_CMD_ADD or IPSET_CMD_DEL messages, many members in each. */
#include "ce_fastpath.h"

#include <errno.h>
#include <string.h>

#define ROW_SIZE 21
#define HEAD_MIN 20
#define MEMBER_MAX 52
#define ADT_MAX 65528
#define NOMATCH 0x80

/* include/uapi/linux/netlink.h, netfilter/ipset/ip_set.h */
enum { NESTED = 0x8000, NET_BYTEORDER = 0x4000 };
enum { ATTR_DATA = 7, ATTR_ADT = 8 };
enum { ATTR_IP = 1, ATTR_CIDR = 3, ATTR_PORT = 4, ATTR_PROTO = 7, ATTR_FLAGS = 8 };
enum { IPADDR_IPV4 = 1, IPADDR_IPV6 = 2, FLAG_NOMATCH = 4 };

/* Write an attribute's header; return where its value goes. */
static uint8_t *put_header(uint8_t *at, size_t length, unsigned type)
{
    const uint16_t header[2] = {(uint16_t)length, (uint16_t)type};

    memcpy(at, header, sizeof header);
    return at + sizeof header;
}

/* Write an attribute of one byte, and its padding. */
static uint8_t *put_byte(uint8_t *at, unsigned type, uint8_t value)
{
    const uint8_t padded[4] = {value};

    at = put_header(at, 5, type);
    memcpy(at, padded, sizeof padded);
    return at + sizeof padded;
}

/* Write a row as IPSET_ATTR_DATA into at least MEMBER_MAX bytes; return its size, 0 for no row. */
static size_t put_member(uint8_t *member, const uint8_t *row)
{
    const uint8_t nomatch[4] = {0, 0, 0, FLAG_NOMATCH};
    uint8_t family = row[0] & (uint8_t)~NOMATCH, prefix_bits = row[1], protocol = row[18];
    size_t address_size = family == 4 ? 4 : 16;
    uint8_t *at = member + 4;

    if ((family != 4 && family != 6) || prefix_bits == 0 || prefix_bits > address_size * 8 ||
        (protocol != 0 && prefix_bits != address_size * 8))
        return 0;
    if (row[0] & NOMATCH) {
        at = put_header(at, 8, ATTR_FLAGS | NET_BYTEORDER);
        memcpy(at, nomatch, sizeof nomatch);
        at += sizeof nomatch;
    }
    if (protocol)
        at = put_byte(at, ATTR_PROTO, protocol);
    else if (prefix_bits != address_size * 8)
        at = put_byte(at, ATTR_CIDR, prefix_bits);
    at = put_header(at, 8 + address_size, ATTR_IP | NESTED);
    at = put_header(at, 4 + address_size, (family == 4 ? IPADDR_IPV4 : IPADDR_IPV6) | NET_BYTEORDER);
    memcpy(at, row + 2, address_size);
    at += address_size;
    if (protocol) {
        at = put_header(at, 6, ATTR_PORT | NET_BYTEORDER);
        memcpy(at, row + 19, 2);
        memset(at + 2, 0, 2);
        at += 4;
    }
    put_header(member, (size_t)(at - member), ATTR_DATA | NESTED);
    return (size_t)(at - member);
}

/* Write the message of number: head, then the header of size bytes of members. */
static void put_head(uint8_t *message, const uint8_t *head, size_t head_size, uint32_t number,
                     size_t size)
{
    uint32_t length = (uint32_t)(head_size + 4 + size), sequence;

    memcpy(message, head, head_size);
    memcpy(message, &length, sizeof length);
    memcpy(&sequence, head + 8, sizeof sequence);
    sequence += number;
    memcpy(message + 8, &sequence, sizeof sequence);
    put_header(message + head_size, 4 + size, ATTR_ADT | NESTED);
}

int ce_encode_set_members(const uint8_t *head, size_t head_size, const uint8_t *rows, size_t n_rows,
                          size_t per_message, uint8_t *messages, size_t room, uint32_t *ends,
                          size_t n_ends, size_t *counts)
{
    size_t used = 0, n_messages = 0;

    if (head_size < HEAD_MIN || head_size % 4 != 0 || per_message == 0)
        return -EINVAL;
    if (n_rows > UINT32_MAX || ce_check_length(n_rows, MEMBER_MAX) != 0 ||
        head_size > UINT32_MAX - 4 - ADT_MAX)
        return -EOVERFLOW;
    for (size_t i = 0; i < n_rows; n_messages++) {
        size_t start = used, in_message = 0, size = 0;

        if (n_messages == n_ends || room - used < head_size + 4)
            return -ENOSPC;
        used += head_size + 4;
        while (i < n_rows && in_message < per_message) {
            uint8_t member[MEMBER_MAX];
            size_t member_size = put_member(member, rows + i * ROW_SIZE);

            if (member_size == 0)
                return -EINVAL;
            if (member_size > ADT_MAX - size)
                break;
            if (member_size > room - used)
                return -ENOSPC;
            memcpy(messages + used, member, member_size);
            used += member_size;
            size += member_size;
            in_message++;
            i++;
        }
        put_head(messages + start, head, head_size, (uint32_t)n_messages, size);
        ends[n_messages] = (uint32_t)i;
    }
    counts[0] = used;
    counts[1] = n_messages;
    return 0;
}
