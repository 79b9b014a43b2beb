/* What one packet, round trip or connection costs between two network namespaces: one thread, pinned to one CPU, owns
 * both ends, so that no scheduler is in the figures.
 *
 * Each measurement is made of chunks of sixteen; the median of the chunks is reported.
 *
 *   packet_probe CLIENT_NS SERVER_NS NODE_NS CLIENT_ADDRESS SERVER_ADDRESS PORT CPU MILLISECONDS MODE...
 *
 * Prints a line a mode: its name and a value.
 *   udp     ns for a datagram of 64 bytes, sent and received, of one flow that has been answered
 *   flow    datagrams/s, each of a flow of its own, which no rule for established ones covers
 *   rr      us for a TCP round trip of one byte each way
 *   bulk    Gb/s over one TCP connection, sends of 64 KiB
 *   conn    TCP connections/s: connect, a byte each way, reset
 *   denied  1 when nothing comes through to the port, by UDP or TCP, within 0.2 s
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAYLOAD = 64, BULK = 1 << 16, A_CHUNK = 16, FIRST_PORT = 1024, LAST_PORT = 65000, DENIED_MS = 200, A_BULK_CHUNK = 16 * BULK };
static const uint64_t STUCK_NS = 2000000000u;

static int client_ns, server_ns, node_ns;
static struct sockaddr_in client_address, server_address;
static uint64_t limit_ns;

static void die(const char *what)
{
    fprintf(stderr, "packet_probe: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Chunks of a measurement: how long each took. Their median counts, so that being interrupted does not. */

static uint64_t chunks[1 << 16];
static size_t n_chunks;

static uint64_t begin_chunks(void)
{
    n_chunks = 0;
    return now_ns();
}

/* Note a chunk that began at `start`; return when it ended. */
static uint64_t end_chunk(uint64_t start)
{
    uint64_t end = now_ns();
    if (n_chunks < sizeof chunks / sizeof *chunks)
        chunks[n_chunks++] = end - start;
    return end;
}

static int ascending(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static double chunk_ns(void)
{
    qsort(chunks, n_chunks, sizeof *chunks, ascending);
    return (double)chunks[n_chunks / 2];
}

static int open_ns(const char *path)
{
    int found = open(path, O_RDONLY | O_CLOEXEC);
    if (found < 0)
        die(path);
    return found;
}

static int socket_in(int ns, int family, int type, int protocol)
{
    if (setns(ns, CLONE_NEWNET) != 0)
        die("setns");
    int made = socket(family, type, protocol);
    if (made < 0)
        die("socket");
    return made;
}

static void set(int fd, int level, int option, int value)
{
    if (setsockopt(fd, level, option, &value, sizeof value) != 0)
        die("setsockopt");
}

/* A packet that does not come is a fault of what is measured: do not wait for ever. */
static void no_longer_than(int fd, int ms)
{
    struct timeval timeout = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0
        || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0)
        die("setsockopt");
}

static int bound_server(int type)
{
    int fd = socket_in(server_ns, AF_INET, type, 0);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    no_longer_than(fd, 2000);
    if (bind(fd, (struct sockaddr *)&server_address, sizeof server_address) != 0)
        die("bind");
    if (type == SOCK_STREAM && listen(fd, 16) != 0)
        die("listen");
    return fd;
}

static int client_socket(int type)
{
    int fd = socket_in(client_ns, AF_INET, type, 0);
    no_longer_than(fd, 2000);
    return fd;
}

static void connect_to_server(int fd)
{
    if (connect(fd, (struct sockaddr *)&server_address, sizeof server_address) != 0)
        die("connect");
}

/* Forget all connections of the node, so that each run begins with an empty table. Without tracking there is none. */
static void flush_connections(void)
{
    struct {
        struct nlmsghdr header;
        struct nfgenmsg family;
    } request = {
        .header = {.nlmsg_len = sizeof request,
                   .nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .family = {.nfgen_family = AF_INET},
    };
    char answer[512];
    int fd = socket_in(node_ns, AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    if (send(fd, &request, sizeof request, 0) > 0)
        (void)recv(fd, answer, sizeof answer, 0);
    close(fd);
}

static double measure_udp(void)
{
    char data[PAYLOAD] = {0};
    int server = bound_server(SOCK_DGRAM), client = client_socket(SOCK_DGRAM);
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    connect_to_server(client);
    /* An answer makes the flow an established one. */
    if (send(client, data, sizeof data, 0) != PAYLOAD
        || recvfrom(server, data, sizeof data, 0, (struct sockaddr *)&from, &length) != PAYLOAD
        || sendto(server, data, sizeof data, 0, (struct sockaddr *)&from, length) != PAYLOAD
        || recv(client, data, sizeof data, 0) != PAYLOAD)
        die("opening a flow");
    uint64_t start = begin_chunks();
    for (uint64_t end = start; end - start < limit_ns; end = end_chunk(end))
        for (int i = 0; i < A_CHUNK; i++)
            if (send(client, data, sizeof data, 0) != PAYLOAD || recv(server, data, sizeof data, 0) != PAYLOAD)
                die("udp");
    close(client);
    close(server);
    return chunk_ns() / A_CHUNK;
}

/* A raw socket says each datagram's source port; the server answers nothing. */
static double measure_flow(void)
{
    struct {
        uint16_t source, destination, length, checksum;
        char data[PAYLOAD];
    } datagram = {.destination = server_address.sin_port, .length = htons(8 + PAYLOAD)};
    char data[PAYLOAD];
    struct sockaddr_in to = server_address;
    to.sin_port = 0;
    int server = bound_server(SOCK_DGRAM), client = socket_in(client_ns, AF_INET, SOCK_RAW, IPPROTO_UDP);
    no_longer_than(client, 2000);
    if (bind(client, (struct sockaddr *)&client_address, sizeof client_address) != 0
        || connect(client, (struct sockaddr *)&to, sizeof to) != 0)
        die("raw socket");
    int port = FIRST_PORT;
    uint64_t start = begin_chunks();
    for (uint64_t end = start; port < LAST_PORT && end - start < limit_ns; end = end_chunk(end))
        for (int i = 0; i < A_CHUNK; i++) {
            datagram.source = htons((uint16_t)port++);
            if (send(client, &datagram, sizeof datagram, 0) != sizeof datagram
                || recv(server, data, sizeof data, 0) != PAYLOAD)
                die("flow");
        }
    close(client);
    close(server);
    return A_CHUNK * 1e9 / chunk_ns();
}

static int connected(int *server)
{
    int listening = bound_server(SOCK_STREAM), client = client_socket(SOCK_STREAM);
    connect_to_server(client);
    *server = accept(listening, NULL, NULL);
    if (*server < 0)
        die("accept");
    close(listening);
    set(client, IPPROTO_TCP, TCP_NODELAY, 1);
    set(*server, IPPROTO_TCP, TCP_NODELAY, 1);
    return client;
}

static void reset(int fd)
{
    struct linger now = {.l_onoff = 1};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) != 0)
        die("SO_LINGER");
    close(fd);
}

static void a_byte_each_way(int client, int server)
{
    char byte = 1;
    if (send(client, &byte, 1, 0) != 1 || recv(server, &byte, 1, 0) != 1 || send(server, &byte, 1, 0) != 1
        || recv(client, &byte, 1, 0) != 1)
        die("a byte each way");
}

static double measure_rr(void)
{
    int server, client = connected(&server);
    uint64_t start = begin_chunks();
    for (uint64_t end = start; end - start < limit_ns; end = end_chunk(end))
        for (int i = 0; i < A_CHUNK; i++)
            a_byte_each_way(client, server);
    reset(client);
    reset(server);
    return chunk_ns() / 1000 / A_CHUNK;
}

static double measure_bulk(void)
{
    static char data[BULK];
    int server, client = connected(&server);
    uint64_t start = begin_chunks();
    fcntl(client, F_SETFL, O_NONBLOCK);
    fcntl(server, F_SETFL, O_NONBLOCK);
    for (uint64_t end = start; end - start < limit_ns; end = end_chunk(end))
        for (size_t sent = 0, got = 0; got < A_BULK_CHUNK;) {
            ssize_t some = sent < A_BULK_CHUNK ? send(client, data, sizeof data, 0) : 0;
            if (some < 0 && errno != EAGAIN)
                die("bulk");
            sent += some > 0 ? (size_t)some : 0;
            while ((some = recv(server, data, sizeof data, 0)) > 0)
                got += (size_t)some;
            if (got > sent || now_ns() - start > limit_ns + STUCK_NS)
                die("bulk");
        }
    reset(client);
    reset(server);
    return A_BULK_CHUNK * 8.0 / chunk_ns();
}

static double measure_conn(void)
{
    int listening = bound_server(SOCK_STREAM);
    uint64_t start = begin_chunks();
    if (setns(client_ns, CLONE_NEWNET) != 0)
        die("setns");
    for (uint64_t end = start; end - start < limit_ns; end = end_chunk(end))
        for (int i = 0; i < A_CHUNK; i++) {
            int client = socket(AF_INET, SOCK_STREAM, 0);
            connect_to_server(client);
            int server = accept(listening, NULL, NULL);
            if (server < 0)
                die("accept");
            a_byte_each_way(client, server);
            reset(client);
            reset(server);
        }
    close(listening);
    return A_CHUNK * 1e9 / chunk_ns();
}

static double measure_denied(void)
{
    char data[PAYLOAD] = {0};
    int server = bound_server(SOCK_DGRAM), client = client_socket(SOCK_DGRAM);
    int listening = bound_server(SOCK_STREAM), caller = client_socket(SOCK_STREAM);
    fcntl(caller, F_SETFL, O_NONBLOCK);
    connect_to_server(client);
    (void)connect(caller, (struct sockaddr *)&server_address, sizeof server_address);
    if (send(client, data, sizeof data, 0) != PAYLOAD)
        die("send");
    struct pollfd any[] = {{.fd = server, .events = POLLIN}, {.fd = listening, .events = POLLIN}};
    int came = poll(any, 2, DENIED_MS);
    close(client);
    close(server);
    close(caller);
    close(listening);
    return came == 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        double (*measure)(void);
    } modes[] = {{"udp", measure_udp},   {"flow", measure_flow}, {"rr", measure_rr},
                 {"bulk", measure_bulk}, {"conn", measure_conn}, {"denied", measure_denied}};
    cpu_set_t cpu;
    if (argc < 10) {
        fprintf(stderr, "packet_probe CLIENT_NS SERVER_NS NODE_NS CLIENT SERVER PORT CPU MS MODE...\n");
        return 2;
    }
    client_ns = open_ns(argv[1]);
    server_ns = open_ns(argv[2]);
    node_ns = open_ns(argv[3]);
    client_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(argv[4])};
    server_address = (struct sockaddr_in){.sin_family = AF_INET,
                                          .sin_addr.s_addr = inet_addr(argv[5]),
                                          .sin_port = htons((uint16_t)atoi(argv[6]))};
    CPU_ZERO(&cpu);
    CPU_SET(atoi(argv[7]), &cpu);
    if (sched_setaffinity(0, sizeof cpu, &cpu) != 0)
        die("sched_setaffinity");
    limit_ns = (uint64_t)atoi(argv[8]) * 1000000u;
    for (int i = 9; i < argc; i++)
        for (size_t mode = 0; mode < sizeof modes / sizeof *modes; mode++)
            if (strcmp(argv[i], modes[mode].name) == 0) {
                flush_connections();
                printf("%s %.3f\n", modes[mode].name, modes[mode].measure());
            }
    return 0;
}
