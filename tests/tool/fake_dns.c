// SPDX-License-Identifier: Apache-2.0
//
// A thread with one UDP socket. A question is answered by itself, with a header and one record behind
// it: an address to a question for one, no record to any other (AAAA).

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tests/tool/fake_dns.h"
#include "tests/tool/scratch.h"

enum {
    HEADER = 12,
    TYPE_A = 1,
    SERVFAIL = 2,
};

struct fake_dns {
    pthread_t thread;
    int fd;
    atomic_int mode;
    atomic_int questions;
    atomic_bool ending;
};

// Where the question ends, behind name, type and class; 0: this is none.
static size_t question_end(const unsigned char *message, size_t length)
{
    size_t at = HEADER;

    while (at < length && message[at])
        at += message[at] + 1u;
    return at + 5 <= length ? at + 5 : 0;
}

static size_t make_answer(unsigned char *message, size_t length, bool fails)
{
    static const unsigned char record[] = {0xc0, HEADER, 0, TYPE_A, 0,   1, 0, 0,
                                           0,    0,      0, 4,      127, 0, 0, 1};
    size_t end = question_end(message, length);
    bool address = end > 0 && message[end - 3] == TYPE_A && !fails;

    if (end == 0)
        return 0;
    message[2] |= 0x80;
    message[3] = (unsigned char)(0x80 | (fails ? SERVFAIL : 0));
    memset(message + 6, 0, 6); // no records of any kind, and no extensions
    if (!address)
        return end;
    message[7] = 1;
    memcpy(message + end, record, sizeof record);
    return end + sizeof record;
}

static void serve(struct fake_dns *dns)
{
    unsigned char message[1024];
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    ssize_t length = recvfrom(dns->fd, message, 512, MSG_DONTWAIT, (struct sockaddr *)&from, &size);
    size_t answer;

    if (length < HEADER)
        return;
    dns->questions++;
    if (dns->mode == FAKE_DNS_SILENT)
        return;
    answer = make_answer(message, (size_t)length, dns->mode == FAKE_DNS_FAILS);
    if (answer)
        sendto(dns->fd, message, answer, 0, (struct sockaddr *)&from, size);
}

static void *run(void *context)
{
    struct fake_dns *dns = context;
    struct pollfd polled = {.fd = dns->fd, .events = POLLIN};

    while (!dns->ending) {
        if (poll(&polled, 1, 20) > 0)
            serve(dns);
    }
    return NULL;
}

static bool bring_up_loopback(void)
{
    pid_t pid = scratch_fork();

    if (pid == 0) {
        execlp("ip", "ip", "link", "set", "lo", "up", (char *)NULL);
        _exit(127);
    }
    return scratch_exit_code(pid, 5000) == 0;
}

static bool replace_resolv_conf(void)
{
    const char *path = scratch_path("resolv.conf");

    scratch_write(path, "nameserver 127.0.0.1\noptions timeout:5 attempts:2\n");
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL) == 0;
}

struct fake_dns *fake_dns_new(const char **why)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(53)};
    struct fake_dns *dns;

    *why = "a name server of one's own needs root, and namespaces";
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 || !bring_up_loopback() || !replace_resolv_conf())
        return NULL;
    dns = calloc(1, sizeof *dns);
    ck_assert_ptr_nonnull(dns);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    dns->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(dns->fd, 0);
    ck_assert_int_eq(bind(dns->fd, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(pthread_create(&dns->thread, NULL, run, dns), 0);
    return dns;
}

struct fake_dns *fake_dns_free(struct fake_dns *dns)
{
    if (!dns)
        return NULL;
    dns->ending = true;
    pthread_join(dns->thread, NULL);
    close(dns->fd);
    umount("/etc/resolv.conf");
    free(dns);
    return NULL;
}

void fake_dns_mode(struct fake_dns *dns, enum fake_dns_mode mode)
{
    dns->mode = mode;
}

int fake_dns_questions(struct fake_dns *dns)
{
    return dns->questions;
}
