/* ce_pack_set_members: members of kernel sets, as text, to rows. The text is a user's, and not trusted. */
#include "ce_fastpath.h"

#include <errno.h>
#include <string.h>

#define ROW_SIZE 21
#define NOMATCH 0x80
#define GROUPS 8

/* What is left of a line. */
struct line {
    const uint8_t *at, *end;
};

/* Take a byte off the line if it is the next one. */
static int take(struct line *line, uint8_t byte)
{
    if (line->at == line->end || *line->at != byte)
        return 0;
    line->at++;
    return 1;
}

/* Take one to five decimal digits: their number, or -1. */
static int32_t take_number(struct line *line)
{
    const uint8_t *start = line->at;
    int32_t value = 0;

    while (line->at < line->end && line->at - start < 5 && *line->at >= '0' && *line->at <= '9')
        value = value * 10 + (*line->at++ - '0');
    return line->at == start ? -1 : value;
}

/* Take an IPv4 address. No part begins with a zero but 0 itself. */
static int take_v4(struct line *line, uint8_t *address)
{
    const uint8_t *at = line->at, *end = line->end;

    for (int part = 0; part < 4; part++) {
        const uint8_t *start;
        unsigned value = 0;

        if (part > 0 && (at == end || *at++ != '.'))
            return 0;
        for (start = at; at < end && (unsigned)(*at - '0') < 10 && at - start < 3; at++)
            value = value * 10 + (unsigned)(*at - '0');
        if (at == start || value > 255 || (*start == '0' && at - start > 1))
            return 0;
        address[part] = (uint8_t)value;
    }
    line->at = at;
    return 1;
}

/* The value of a hexadecimal digit, or -1. Digits and letters mix at random: no branch between them. */
static int hex_value(uint8_t byte)
{
    int known = ((unsigned)(byte - '0') < 10) | ((unsigned)((byte | 0x20) - 'a') < 6);

    return known ? (byte & 0xf) + (byte >> 6) * 9 : -1;
}

/* Take one to four hexadecimal digits as a group. */
static int take_group(struct line *line, uint8_t *group)
{
    const uint8_t *start = line->at;
    unsigned value = 0;

    while (line->at < line->end && line->at - start < 4) {
        int digit = hex_value(*line->at);

        if (digit < 0)
            break;
        value = value << 4 | (unsigned)digit;
        line->at++;
    }
    group[0] = (uint8_t)(value >> 8);
    group[1] = (uint8_t)value;
    return line->at > start;
}

/* Take an IPv6 address, which ends where the line does. */
static int take_v6(struct line *line, uint8_t *address, int has_dot)
{
    uint8_t groups[2 * GROUPS] = {0};
    int n = 0, gap = -1;

    if (take(line, ':')) {
        if (!take(line, ':'))
            return 0;
        gap = 0;
    }
    while (line->at < line->end) {
        struct line embedded = *line;

        if (n == GROUPS)
            return 0;
        if (has_dot && n <= GROUPS - 2 && take_v4(&embedded, groups + 2 * n) && embedded.at == embedded.end) {
            *line = embedded;
            n += 2;
            break;
        }
        if (!take_group(line, groups + 2 * n))
            return 0;
        n++;
        if (line->at == line->end)
            break;
        if (!take(line, ':'))
            return 0;
        if (take(line, ':')) {
            if (gap >= 0)
                return 0;
            gap = n;
        } else if (line->at == line->end) {
            return 0;
        }
    }
    if (gap < 0 ? n != GROUPS : n == GROUPS)
        return 0;
    gap = gap < 0 ? n : gap;
    memset(address, 0, 2 * GROUPS);
    memcpy(address, groups, 2 * (size_t)gap);
    memcpy(address + 2 * (size_t)(GROUPS - n + gap), groups + 2 * (size_t)gap, 2 * (size_t)(n - gap));
    return 1;
}

/* Take a protocol: its number, 0 for none. */
static int take_protocol(struct line *line)
{
    static const struct {
        const char *name;
        size_t length;
        int number;
    } known[] = {{"tcp:", 4, 6},      {"udp:", 4, 17},  {"sctp:", 5, 132},
                 {"udplite:", 8, 136}, {"icmp:", 5, 1}, {"icmpv6:", 7, 58}};
    int32_t number;

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if ((size_t)(line->end - line->at) >= known[i].length &&
            memcmp(line->at, known[i].name, known[i].length) == 0) {
            line->at += known[i].length;
            return known[i].number;
        }
    }
    number = take_number(line);
    return number > 0 && number < 256 && take(line, ':') ? (int)number : 0;
}

/* Set the bits after the prefix to zero, as the kernel does. */
static void mask(uint8_t *address, unsigned prefix_bits, unsigned whole_bits)
{
    for (unsigned i = prefix_bits / 8; i < whole_bits / 8; i++)
        address[i] &= (uint8_t)(i == prefix_bits / 8 ? 0xff00 >> prefix_bits % 8 : 0);
}

/* Take the address before a prefix, a port, or what is said of the member: its bits, or 0 for none. */
static unsigned take_address(struct line *line, uint8_t *address)
{
    struct line head = *line;
    int has_colon = 0, has_dot = 0;

    /* Most members are an IPv4 address. Whatever else begins like one has a colon next. */
    if (take_v4(&head, address) && (head.at == head.end || *head.at == '/' || *head.at == ',' || *head.at == ' ')) {
        line->at = head.at;
        return 32;
    }
    for (head.end = line->at; head.end < line->end; head.end++) {
        if (*head.end == '/' || *head.end == ',' || *head.end == ' ')
            break;
        has_colon |= *head.end == ':';
        has_dot |= *head.end == '.';
    }
    head.at = line->at;
    if (!has_colon || !take_v6(&head, address, has_dot) || head.at != head.end)
        return 0;
    line->at = head.at;
    return 128;
}

static int pack_member(struct line line, uint8_t *row)
{
    static const uint8_t nomatch[] = "nomatch";
    unsigned whole_bits;
    int32_t prefix_bits, port = 0;
    int protocol = 0;

    memset(row, 0, ROW_SIZE);
    whole_bits = take_address(&line, row + 2);
    if (whole_bits == 0)
        return 0;
    row[0] = whole_bits == 32 ? 4 : 6;
    row[1] = (uint8_t)whole_bits;
    if (line.at == line.end)
        return 1;
    prefix_bits = (int32_t)whole_bits;
    if (take(&line, '/'))
        prefix_bits = take_number(&line);
    if (prefix_bits < 1 || prefix_bits > (int32_t)whole_bits)
        return 0;
    row[1] = (uint8_t)prefix_bits;
    mask(row + 2, (unsigned)prefix_bits, whole_bits);
    if (take(&line, ',')) {
        protocol = take_protocol(&line);
        port = take_number(&line);
        if (protocol == 0 || port < 0 || port > 65535 || prefix_bits != (int32_t)whole_bits)
            return 0;
    }
    row[18] = (uint8_t)protocol;
    row[19] = (uint8_t)(port >> 8);
    row[20] = (uint8_t)port;
    if (take(&line, ' ')) {
        if ((size_t)(line.end - line.at) != sizeof nomatch - 1 ||
            memcmp(line.at, nomatch, sizeof nomatch - 1) != 0)
            return 0;
        line.at = line.end;
        row[0] |= NOMATCH;
    }
    return line.at == line.end;
}

int ce_pack_set_members(const uint8_t *text, size_t length, uint8_t *rows, size_t n_rows_max, size_t *counts)
{
    size_t start = 0;

    counts[0] = counts[1] = 0;
    if (ce_check_length(n_rows_max, ROW_SIZE) != 0)
        return -EOVERFLOW;
    while (length > 0 && start <= length) {
        const uint8_t *newline = start < length ? memchr(text + start, '\n', length - start) : NULL;
        const struct line line = {text + start, newline ? newline : text + length};

        counts[1] = start;
        if (counts[0] == n_rows_max)
            return -ENOSPC;
        if (!pack_member(line, rows + counts[0] * ROW_SIZE))
            return -EINVAL;
        counts[0]++;
        start = (size_t)(line.end - text) + 1;
    }
    return 0;
}
