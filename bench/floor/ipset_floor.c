/* What the kernel's ipsets cost without anybody's machinery: raw netlink, packed addresses in, nothing kept or checked.
 *
 *   ipset_floor            commands on standard input, a line each; answers one line of nanoseconds for each
 *
 *   load NAME COUNT HASHSIZE   make a hash:net set of IPv4 and add 10.0.0.0 and up: build, send and acknowledgement
 *   change NAME TIMES          add a member that is not there (the median of so many), and take it away unmeasured
 *   swap NAME OTHER
 *   dump NAME                  receive all members, as the kernel's bytes
 *
 * Chosen by trying, in turns on one machine: 2000 members a message, a send and an acknowledgement for each. 500 to
 * 4000 a message, fifty messages a send, one acknowledgement for all of them: no faster. The whole prefix length left
 * out: a fifth faster. The hash with room for all members: no doubling of it waits for readers. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { PER_MESSAGE = 2000, LARGEST = 1 << 17, MAXELEM = 1 << 20, CHANGES_MAX = 1000 };

static int fd;
static uint32_t sequence;
static uint8_t buffer[LARGEST], answer[1 << 16];

static void die(const char *what)
{
    fprintf(stderr, "ipset_floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint8_t *put(uint8_t *at, unsigned type, const void *value, size_t size)
{
    const uint16_t header[2] = {(uint16_t)(4 + size), (uint16_t)type};

    memcpy(at, header, sizeof header);
    memcpy(at + 4, value, size);
    memset(at + 4 + size, 0, -size & 3);
    return at + 4 + size + (-size & 3);
}

static uint8_t *put_number(uint8_t *at, unsigned type, uint32_t value)
{
    value = htonl(value);
    return put(at, type | NLA_F_NET_BYTEORDER, &value, sizeof value);
}

/* Close an attribute, or a message, that began at start. */
static void set_length(uint8_t *start, const uint8_t *end, unsigned type)
{
    const uint16_t header[2] = {(uint16_t)(end - start), (uint16_t)type};

    memcpy(start, header, sizeof header);
}

static uint8_t *begin(unsigned command, unsigned flags, const char *name)
{
    const uint8_t protocol = IPSET_PROTOCOL;
    struct nlmsghdr head = {.nlmsg_type = (uint16_t)(NFNL_SUBSYS_IPSET << 8 | command),
                            .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags),
                            .nlmsg_seq = ++sequence};
    const struct nfgenmsg family = {.nfgen_family = AF_INET};
    uint8_t *at;

    memcpy(buffer, &head, sizeof head);
    memcpy(buffer + sizeof head, &family, sizeof family);
    at = put(buffer + sizeof head + sizeof family, IPSET_ATTR_PROTOCOL, &protocol, 1);
    return put(at, IPSET_ATTR_SETNAME, name, strlen(name) + 1);
}

static void send_until(const uint8_t *end)
{
    const uint32_t length = (uint32_t)(end - buffer);

    memcpy(buffer, &length, sizeof length);
    if (send(fd, buffer, length, 0) < 0)
        die("send");
}

static void commit(const uint8_t *end)
{
    const struct nlmsgerr *result = (const struct nlmsgerr *)(answer + sizeof(struct nlmsghdr));

    send_until(end);
    if (recv(fd, answer, sizeof answer, 0) < 0)
        die("recv");
    if (((const struct nlmsghdr *)answer)->nlmsg_type != NLMSG_ERROR || result->error != 0) {
        fprintf(stderr, "ipset_floor: the kernel says %d\n", result->error);
        exit(1);
    }
}

static void create(const char *name, uint32_t hashsize)
{
    const uint8_t revision = 2, family = AF_INET;
    uint8_t *at = begin(IPSET_CMD_CREATE, 0, name), *data;

    at = put(at, IPSET_ATTR_TYPENAME, "hash:net", sizeof "hash:net");
    at = put(at, IPSET_ATTR_REVISION, &revision, 1);
    data = put(at, IPSET_ATTR_FAMILY, &family, 1);
    at = put_number(data + 4, IPSET_ATTR_HASHSIZE, hashsize);
    at = put_number(at, IPSET_ATTR_MAXELEM, MAXELEM);
    set_length(data, at, IPSET_ATTR_DATA | NLA_F_NESTED);
    commit(at);
}

static uint8_t *put_member(uint8_t *at, uint32_t address)
{
    const struct {
        uint16_t headers[6];
        uint32_t address;
    } member = {{16, IPSET_ATTR_DATA | NLA_F_NESTED, 12, IPSET_ATTR_IP | NLA_F_NESTED, 8,
                 IPSET_ATTR_IPADDR_IPV4 | NLA_F_NET_BYTEORDER},
                address};

    memcpy(at, &member, sizeof member);
    return at + sizeof member;
}

static void add(const char *name, const uint32_t *addresses, size_t count)
{
    for (size_t i = 0; i < count;) {
        const uint32_t line = 0;
        uint8_t *adt = put(begin(IPSET_CMD_ADD, 0, name), IPSET_ATTR_LINENO, &line, sizeof line), *at = adt + 4;

        for (size_t end = count - i < PER_MESSAGE ? count : i + PER_MESSAGE; i < end; i++)
            at = put_member(at, addresses[i]);
        set_length(adt, at, IPSET_ATTR_ADT | NLA_F_NESTED);
        commit(at);
    }
}

static uint64_t load(const char *name, size_t count, uint32_t hashsize)
{
    uint32_t *addresses = malloc(count * sizeof *addresses);
    uint64_t started;

    if (addresses == NULL)
        die("malloc");
    for (size_t i = 0; i < count; i++)
        addresses[i] = htonl(10u << 24 | (uint32_t)i);
    started = now_ns();
    create(name, hashsize);
    add(name, addresses, count);
    started = now_ns() - started;
    free(addresses);
    return started;
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static uint64_t change(const char *name, size_t times)
{
    const uint32_t address = htonl(11u << 24 | 1);
    static uint64_t taken[CHANGES_MAX];

    if (times == 0 || times > CHANGES_MAX)
        exit(2);
    for (size_t i = 0; i < times; i++) {
        const uint64_t started = now_ns();

        commit(put_member(begin(IPSET_CMD_ADD, 0, name), address));
        taken[i] = now_ns() - started;
        commit(put_member(begin(IPSET_CMD_DEL, 0, name), address));
    }
    qsort(taken, times, sizeof *taken, compare);
    return taken[times / 2];
}

static uint64_t swap(const char *name, const char *other)
{
    const uint64_t started = now_ns();

    commit(put(begin(IPSET_CMD_SWAP, 0, name), IPSET_ATTR_SETNAME2, other, strlen(other) + 1));
    return now_ns() - started;
}

static uint64_t dump(const char *name)
{
    const uint64_t started = now_ns();

    send_until(begin(IPSET_CMD_LIST, NLM_F_DUMP, name));
    for (;;) {
        ssize_t left = recv(fd, answer, sizeof answer, 0);

        if (left < 0)
            die("recv");
        for (const struct nlmsghdr *head = (const void *)answer; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left))
            if (head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR)
                return now_ns() - started;
    }
}

int main(void)
{
    char line[256], name[IPSET_MAXNAMELEN], other[IPSET_MAXNAMELEN];
    const int one = 1, room = 1 << 18;
    size_t count;
    uint32_t hashsize;

    fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) != 0 ||
        setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one) != 0)
        die("socket");
    memset(buffer, 1, sizeof buffer); /* the pages are there before a clock runs */
    memset(answer, 1, sizeof answer);
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin) != NULL) {
        uint64_t taken_ns;

        if (sscanf(line, "load %31s %zu %u", name, &count, &hashsize) == 3)
            taken_ns = load(name, count, hashsize);
        else if (sscanf(line, "change %31s %zu", name, &count) == 2)
            taken_ns = change(name, count);
        else if (sscanf(line, "swap %31s %31s", name, other) == 2)
            taken_ns = swap(name, other);
        else if (sscanf(line, "dump %31s", name) == 1)
            taken_ns = dump(name);
        else
            return 2;
        printf("%llu\n", (unsigned long long)taken_ns);
    }
    return 0;
}
