/* What nftables itself costs: netlink messages built and sent without a library, and nothing done but that.
 *
 *   nft_floor replay FILE...         send recorded transactions in order; one line each, ns
 *   nft_floor alternate N FILE FILE  send the first, then the second, N times; median ns of each
 *   nft_floor load ENDPOINTS         table, sets, chains, rules and dispatch of so many endpoints, built and sent; ns
 *   nft_floor change ENDPOINT N      replace the ten rules of an endpoint's policy; median ns of N
 *   nft_floor set MEMBERS            a hash set of so many addresses, sized, built and sent; ns
 *   nft_floor element SET N          add an element to a set (and take it away again); median ns of N additions
 *
 * A recorded transaction is what was given to one send. The content of `load` is that of bench/nft_text.py, word by
 * word. Everything is in a table of its own, in the network namespace where this runs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_SNDBUFFORCE
#define SO_SNDBUFFORCE 32
#endif

enum {
    SETS = 20, SET_MEMBERS = 100, POLICY_RULES = 5, ELEMENTS_A_MESSAGE = 1000, NAME = 32,
    ACCEPT_BIT = 0x10000, PASS_BIT = 0x20000, ESTABLISHED = 2 | 4, INVALID = 1,
};

/* The nft command's own numbers. */
enum { TYPE_ADDRESS = 7, TYPE_IFNAME = 41 };

static const char TABLE[] = "bench";
/* What the nft command keeps with a set whose keys are in host order: type, length, value. */
static const unsigned char HOST_ORDER[] = {0, 4, 1, 0, 0, 0};
static int nl;

static void die(const char *what, int error)
{
    fprintf(stderr, "nft_floor: %s: %s\n", what, strerror(error));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A transaction that is being built */

static struct {
    char *data;
    size_t length, room, message;
} out;

static void *put(size_t length)
{
    size_t padded = NLMSG_ALIGN(length);
    if (out.length + padded > out.room) {
        out.room = (out.length + padded) * 2;
        out.data = realloc(out.data, out.room);
        if (!out.data)
            die("memory", ENOMEM);
    }
    void *at = out.data + out.length;
    memset(at, 0, padded);
    out.length += padded;
    return at;
}

static void attribute(int type, const void *value, size_t length)
{
    struct nlattr *head = put(NLA_HDRLEN + length);
    head->nla_type = (uint16_t)type;
    head->nla_len = (uint16_t)(NLA_HDRLEN + length);
    memcpy((char *)head + NLA_HDRLEN, value, length);
}

static void text(int type, const char *value) { attribute(type, value, strlen(value) + 1); }

static void number(int type, uint32_t value)
{
    uint32_t big = htonl(value);
    attribute(type, &big, sizeof big);
}

static size_t open_nest(int type)
{
    size_t at = out.length;
    struct nlattr *head = put(NLA_HDRLEN);
    head->nla_type = (uint16_t)(type | NLA_F_NESTED);
    return at;
}

static void close_nest(size_t at)
{
    ((struct nlattr *)(out.data + at))->nla_len = (uint16_t)(out.length - at);
}

static void begin_message(int type, int flags, int family, int resource)
{
    out.message = out.length;
    struct nlmsghdr *head = put(NLMSG_HDRLEN + sizeof(struct nfgenmsg));
    struct nfgenmsg *generic = NLMSG_DATA(head);
    head->nlmsg_type = (uint16_t)type;
    head->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    generic->nfgen_family = (uint8_t)family;
    generic->version = NFNETLINK_V0;
    generic->res_id = htons((uint16_t)resource);
}

static void end_message(void)
{
    ((struct nlmsghdr *)(out.data + out.message))->nlmsg_len = (uint32_t)(out.length - out.message);
}

static void begin(int type, int flags) { begin_message(NFNL_SUBSYS_NFTABLES << 8 | type, flags, NFPROTO_IPV4, 0); }

static void bracket(int type)
{
    begin_message(type, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    end_message();
}

static void start(void)
{
    out.length = 0;
    bracket(NFNL_MSG_BATCH_BEGIN);
}

/* Send a transaction; the kernel has done it, and queued what it has to say, when send returns. */
static void transact(const void *data, size_t length)
{
    char answer[8192];
    ssize_t got;
    if (send(nl, data, length, 0) != (ssize_t)length)
        die("send", errno);
    while ((got = recv(nl, answer, sizeof answer, MSG_DONTWAIT)) > 0)
        for (struct nlmsghdr *head = (void *)answer; NLMSG_OK(head, got); head = NLMSG_NEXT(head, got))
            if (head->nlmsg_type == NLMSG_ERROR) {
                struct nlmsgerr *said = NLMSG_DATA(head);
                if (said->error)
                    die("refused by the kernel", -said->error);
            }
    if (got < 0 && errno != EAGAIN && errno != ENOBUFS)
        die("recv", errno);
}

static void finish(void)
{
    bracket(NFNL_MSG_BATCH_END);
    transact(out.data, out.length);
}

/* Objects */

static void add_table(void)
{
    begin(NFT_MSG_NEWTABLE, NLM_F_CREATE);
    text(NFTA_TABLE_NAME, TABLE);
    end_message();
}

static void add_set(const char *name, uint32_t id, uint32_t flags, uint32_t key_type, uint32_t key_bytes, uint32_t size)
{
    begin(NFT_MSG_NEWSET, NLM_F_CREATE);
    text(NFTA_SET_TABLE, TABLE);
    text(NFTA_SET_NAME, name);
    number(NFTA_SET_ID, id);
    number(NFTA_SET_FLAGS, flags);
    number(NFTA_SET_KEY_TYPE, key_type);
    number(NFTA_SET_KEY_LEN, key_bytes);
    if (flags & NFT_SET_MAP) {
        number(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
        number(NFTA_SET_DATA_LEN, 0);
    }
    if (key_type == TYPE_IFNAME)
        attribute(NFTA_SET_USERDATA, HOST_ORDER, sizeof HOST_ORDER);
    if (size) {
        size_t nest = open_nest(NFTA_SET_DESC);
        number(NFTA_SET_DESC_SIZE, size);
        close_nest(nest);
    }
    end_message();
}

static size_t begin_elements(int type, const char *set)
{
    begin(type, NLM_F_CREATE);
    text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
    text(NFTA_SET_ELEM_LIST_SET, set);
    return open_nest(NFTA_SET_ELEM_LIST_ELEMENTS);
}

static void end_elements(size_t nest)
{
    close_nest(nest);
    end_message();
}

static void verdict(int type, int code, const char *chain)
{
    size_t data = open_nest(type), nest = open_nest(NFTA_DATA_VERDICT);
    number(NFTA_VERDICT_CODE, (uint32_t)code);
    if (chain)
        text(NFTA_VERDICT_CHAIN, chain);
    close_nest(nest);
    close_nest(data);
}

static void element(const void *key, size_t length, const char *chain)
{
    size_t nest = open_nest(NFTA_LIST_ELEM), value = open_nest(NFTA_SET_ELEM_KEY);
    attribute(NFTA_DATA_VALUE, key, length);
    close_nest(value);
    if (chain)
        verdict(NFTA_SET_ELEM_DATA, NFT_GOTO, chain);
    close_nest(nest);
}

static void addresses(int type, const char *set, uint32_t first, uint32_t count)
{
    for (uint32_t done = 0; done < count;) {
        size_t nest = begin_elements(type, set);
        for (uint32_t n = 0; n < ELEMENTS_A_MESSAGE && done < count; n++, done++) {
            uint32_t address = htonl(first + done);
            element(&address, sizeof address, NULL);
        }
        end_elements(nest);
    }
}

static void add_chain(const char *name, int hook)
{
    begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    text(NFTA_CHAIN_TABLE, TABLE);
    text(NFTA_CHAIN_NAME, name);
    if (hook >= 0) {
        size_t nest = open_nest(NFTA_CHAIN_HOOK);
        number(NFTA_HOOK_HOOKNUM, (uint32_t)hook);
        number(NFTA_HOOK_PRIORITY, 0);
        close_nest(nest);
        text(NFTA_CHAIN_TYPE, "filter");
    }
    end_message();
}

/* Expressions */

static size_t rule_expressions;

static void begin_rule(const char *chain)
{
    begin(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    text(NFTA_RULE_TABLE, TABLE);
    text(NFTA_RULE_CHAIN, chain);
    rule_expressions = open_nest(NFTA_RULE_EXPRESSIONS);
}

static size_t begin_expression(const char *name, size_t *item)
{
    *item = open_nest(NFTA_LIST_ELEM);
    text(NFTA_EXPR_NAME, name);
    return open_nest(NFTA_EXPR_DATA);
}

static void end_expression(size_t data, size_t item)
{
    close_nest(data);
    close_nest(item);
}

static void value(int type, const void *data, size_t length)
{
    size_t nest = open_nest(type);
    attribute(NFTA_DATA_VALUE, data, length);
    close_nest(nest);
}

static void compare(int operation, const void *data, size_t length)
{
    size_t item, nest = begin_expression("cmp", &item);
    number(NFTA_CMP_SREG, NFT_REG_1);
    number(NFTA_CMP_OP, (uint32_t)operation);
    value(NFTA_CMP_DATA, data, length);
    end_expression(nest, item);
}

static void bits(uint32_t mask, uint32_t flip)
{
    size_t item, nest = begin_expression("bitwise", &item);
    number(NFTA_BITWISE_SREG, NFT_REG_1);
    number(NFTA_BITWISE_DREG, NFT_REG_1);
    number(NFTA_BITWISE_LEN, 4);
    value(NFTA_BITWISE_MASK, &mask, sizeof mask);
    value(NFTA_BITWISE_XOR, &flip, sizeof flip);
    end_expression(nest, item);
}

static void meta(int key, int to_mark)
{
    size_t item, nest = begin_expression("meta", &item);
    number(NFTA_META_KEY, (uint32_t)key);
    number(to_mark ? NFTA_META_SREG : NFTA_META_DREG, NFT_REG_1);
    end_expression(nest, item);
}

static void payload(int base, uint32_t offset, uint32_t length)
{
    size_t item, nest = begin_expression("payload", &item);
    number(NFTA_PAYLOAD_DREG, NFT_REG_1);
    number(NFTA_PAYLOAD_BASE, (uint32_t)base);
    number(NFTA_PAYLOAD_OFFSET, offset);
    number(NFTA_PAYLOAD_LEN, length);
    end_expression(nest, item);
}

static void lookup(const char *set, uint32_t id, int is_map)
{
    size_t item, nest = begin_expression("lookup", &item);
    text(NFTA_LOOKUP_SET, set);
    number(NFTA_LOOKUP_SET_ID, id);
    number(NFTA_LOOKUP_SREG, NFT_REG_1);
    if (is_map)
        number(NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
    end_expression(nest, item);
}

static void count(void)
{
    size_t item, nest = begin_expression("counter", &item);
    end_expression(nest, item);
}

static void decide(int code, const char *chain)
{
    size_t item, nest = begin_expression("immediate", &item);
    number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    verdict(NFTA_IMMEDIATE_DATA, code, chain);
    end_expression(nest, item);
}

static void protocol(uint8_t wanted)
{
    meta(NFT_META_L4PROTO, 0);
    compare(NFT_CMP_EQ, &wanted, sizeof wanted);
}

static void ct_state(uint32_t wanted)
{
    uint32_t none = 0;
    size_t item, nest = begin_expression("ct", &item);
    number(NFTA_CT_KEY, NFT_CT_STATE);
    number(NFTA_CT_DREG, NFT_REG_1);
    end_expression(nest, item);
    bits(wanted, 0);
    compare(NFT_CMP_NEQ, &none, sizeof none);
}

static void mark_is(uint32_t mask, uint32_t wanted)
{
    meta(NFT_META_MARK, 0);
    bits(mask, 0);
    compare(NFT_CMP_EQ, &wanted, sizeof wanted);
}

static void set_mark(uint32_t keep, uint32_t flip)
{
    meta(NFT_META_MARK, 0);
    bits(keep, flip);
    meta(NFT_META_MARK, 1);
}

static void port(uint16_t wanted)
{
    uint16_t big = htons(wanted);
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
    compare(NFT_CMP_EQ, &big, sizeof big);
}

/* A comment, as the nft command keeps it: a byte of type, one of length, a string. */
static void end_rule(const char *comment)
{
    unsigned char data[2 + 64];
    size_t length = strlen(comment) + 1;
    close_nest(rule_expressions);
    data[0] = 0;
    data[1] = (unsigned char)length;
    memcpy(data + 2, comment, length);
    attribute(NFTA_RULE_USERDATA, data, 2 + length);
    end_message();
}

/* The content */

static void counted(int code, const char *chain, const char *comment)
{
    count();
    if (code != NFT_CONTINUE)
        decide(code, chain);
    end_rule(comment);
}

static void policy_rules(int endpoint, int version)
{
    char chain[NAME], set[NAME];
    snprintf(chain, sizeof chain, "pi-policy-%05d", endpoint);
    for (int rule = 0; rule < POLICY_RULES; rule++) {
        int shared = (endpoint + rule) % SETS;
        snprintf(set, sizeof set, "shared-%d", shared);
        begin_rule(chain);
        protocol(IPPROTO_TCP);
        payload(NFT_PAYLOAD_NETWORK_HEADER, 12, 4);
        lookup(set, (uint32_t)shared + 1, 0);
        port((uint16_t)(1000 + 100 * version + 10 * rule + endpoint % 7));
        count();
        set_mark(~(uint32_t)ACCEPT_BIT, ACCEPT_BIT);
        end_rule("policy ingress");
        begin_rule(chain);
        mark_is(ACCEPT_BIT, ACCEPT_BIT);
        counted(NFT_RETURN, NULL, "return if accepted");
    }
}

static void established_first(const char *chain)
{
    begin_rule(chain);
    ct_state(ESTABLISHED);
    counted(NF_ACCEPT, NULL, "established");
    begin_rule(chain);
    ct_state(INVALID);
    counted(NF_DROP, NULL, "invalid");
    begin_rule(chain);
    count();
    set_mark(~(uint32_t)(ACCEPT_BIT | PASS_BIT), 0);
    end_rule("clear");
}

static void tier(const char *chain, const char *policy)
{
    begin_rule(chain);
    count();
    set_mark(~(uint32_t)PASS_BIT, 0);
    end_rule("start of tier default");
    begin_rule(chain);
    mark_is(PASS_BIT, 0);
    counted(NFT_JUMP, policy, "policy");
    begin_rule(chain);
    mark_is(ACCEPT_BIT, ACCEPT_BIT);
    counted(NFT_RETURN, NULL, "return if accepted");
    begin_rule(chain);
    mark_is(PASS_BIT, 0);
    counted(NF_DROP, NULL, "end of tier default");
    begin_rule(chain);
    counted(NF_DROP, NULL, "no profile matched");
}

static void add_endpoint(int number)
{
    char into[NAME], from[NAME], ingress[NAME], egress[NAME];
    snprintf(into, sizeof into, "tw-cali%07x", number);
    snprintf(from, sizeof from, "fw-cali%07x", number);
    snprintf(ingress, sizeof ingress, "pi-policy-%05d", number);
    snprintf(egress, sizeof egress, "po-policy-%05d", number);
    add_chain(ingress, -1);
    add_chain(egress, -1);
    add_chain(into, -1);
    add_chain(from, -1);
    policy_rules(number, 0);
    begin_rule(egress);
    count();
    set_mark(~(uint32_t)ACCEPT_BIT, ACCEPT_BIT);
    end_rule("policy egress");
    begin_rule(egress);
    mark_is(ACCEPT_BIT, ACCEPT_BIT);
    counted(NFT_RETURN, NULL, "return if accepted");
    established_first(into);
    tier(into, ingress);
    established_first(from);
    begin_rule(from);
    protocol(IPPROTO_UDP);
    port(4789);
    counted(NF_DROP, NULL, "no VXLAN from workloads");
    begin_rule(from);
    protocol(IPPROTO_IPIP);
    counted(NF_DROP, NULL, "no IPIP from workloads");
    tier(from, egress);
}

static void dispatch(const char *map, const char *prefix, int endpoints)
{
    char key[16], chain[NAME];
    for (int done = 0; done < endpoints;) {
        size_t nest = begin_elements(NFT_MSG_NEWSETELEM, map);
        for (int n = 0; n < ELEMENTS_A_MESSAGE / 4 && done < endpoints; n++, done++) {
            memset(key, 0, sizeof key);
            snprintf(key, sizeof key, "cali%07x", done);
            snprintf(chain, sizeof chain, "%s-%s", prefix, key);
            element(key, sizeof key, chain);
        }
        end_elements(nest);
    }
}

static void load(int endpoints)
{
    char name[NAME];
    start();
    add_table();
    for (uint32_t set = 0; set < SETS; set++) {
        snprintf(name, sizeof name, "shared-%u", set);
        add_set(name, set + 1, 0, TYPE_ADDRESS, 4, 2 * SET_MEMBERS);
        addresses(NFT_MSG_NEWSETELEM, name, 10u << 24 | 100u << 16 | set << 8, SET_MEMBERS);
    }
    add_set("to", SETS + 1, NFT_SET_MAP, TYPE_IFNAME, 16, 0);
    add_set("from", SETS + 2, NFT_SET_MAP, TYPE_IFNAME, 16, 0);
    add_chain("forward", NF_INET_FORWARD);
    for (int endpoint = 0; endpoint < endpoints; endpoint++)
        add_endpoint(endpoint);
    dispatch("from", "fw", endpoints);
    dispatch("to", "tw", endpoints);
    begin_rule("forward");
    meta(NFT_META_IIFNAME, 0);
    lookup("from", SETS + 2, 1);
    end_rule("dispatch");
    begin_rule("forward");
    meta(NFT_META_OIFNAME, 0);
    lookup("to", SETS + 1, 1);
    end_rule("dispatch");
    finish();
}

static void change(int endpoint, int version)
{
    char chain[NAME];
    snprintf(chain, sizeof chain, "pi-policy-%05d", endpoint);
    start();
    begin(NFT_MSG_DELRULE, 0);
    text(NFTA_RULE_TABLE, TABLE);
    text(NFTA_RULE_CHAIN, chain);
    end_message();
    policy_rules(endpoint, version);
    finish();
}

static void load_set(uint32_t members)
{
    start();
    add_table();
    add_set("members", 1, 0, TYPE_ADDRESS, 4, members + 1);
    addresses(NFT_MSG_NEWSETELEM, "members", 10u << 24, members);
    finish();
}

/* Measuring */

static int ascending(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static uint64_t median(uint64_t *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[n / 2];
}

static void *read_file(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        die(path, errno);
    *length = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*length + 1);
    if (!data || fread(data, 1, *length, file) != *length)
        die(path, errno);
    fclose(file);
    return data;
}

static void alternate(int n, const char *first, const char *second)
{
    size_t lengths[2];
    void *data[2] = {read_file(first, &lengths[0]), read_file(second, &lengths[1])};
    uint64_t *taken[2] = {calloc((size_t)n, sizeof(uint64_t)), calloc((size_t)n, sizeof(uint64_t))};
    if (!taken[0] || !taken[1])
        die("memory", ENOMEM);
    for (int i = 0; i < n; i++)
        for (int which = 0; which < 2; which++) {
            uint64_t began = now_ns();
            transact(data[which], lengths[which]);
            taken[which][i] = now_ns() - began;
        }
    printf("%llu\n%llu\n", (unsigned long long)median(taken[0], n), (unsigned long long)median(taken[1], n));
}

static void open_netlink(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    int room = 1 << 28;
    nl = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    if (nl < 0 || bind(nl, (struct sockaddr *)&address, sizeof address) != 0
        || setsockopt(nl, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) != 0)
        die("netlink", errno);
}

int main(int argc, char **argv)
{
    open_netlink();
    const char *what = argc > 2 ? argv[1] : "";
    uint64_t began = now_ns();
    if (strcmp(what, "replay") == 0) {
        for (int i = 2; i < argc; i++) {
            size_t length;
            void *data = read_file(argv[i], &length);
            began = now_ns();
            transact(data, length);
            printf("%llu\n", (unsigned long long)(now_ns() - began));
        }
    } else if (strcmp(what, "alternate") == 0 && argc == 5) {
        alternate(atoi(argv[2]), argv[3], argv[4]);
    } else if (strcmp(what, "load") == 0) {
        load(atoi(argv[2]));
        printf("%llu\n", (unsigned long long)(now_ns() - began));
    } else if (strcmp(what, "set") == 0) {
        load_set((uint32_t)atoi(argv[2]));
        printf("%llu\n", (unsigned long long)(now_ns() - began));
    } else if ((strcmp(what, "change") == 0 || strcmp(what, "element") == 0) && argc == 4) {
        int n = atoi(argv[3]), is_element = what[0] == 'e';
        uint64_t *taken = calloc((size_t)n, sizeof *taken);
        if (!taken)
            die("memory", ENOMEM);
        for (int i = 0; i < n; i++) {
            began = now_ns();
            if (is_element) {
                start();
                addresses(NFT_MSG_NEWSETELEM, argv[2], 11u << 24, 1);
                finish();
            } else {
                change(atoi(argv[2]), 1 + i % 2);
            }
            taken[i] = now_ns() - began;
            if (is_element) {
                start();
                addresses(NFT_MSG_DELSETELEM, argv[2], 11u << 24, 1);
                finish();
            }
        }
        printf("%llu\n", (unsigned long long)median(taken, n));
    } else {
        fprintf(stderr, "nft_floor: see the top of its source for what it takes\n");
        return 2;
    }
    return 0;
}
