// SPDX-License-Identifier: Apache-2.0
//
// A name server of the test's own, where root allows it: on port 53 of a network namespace with
// nothing else in it, named by an /etc/resolv.conf that only the test's process and its children see.
//
//     struct fake_dns *dns = fake_dns_new(&why);   // NULL: it cannot be had here
//     fake_dns_mode(dns, FAKE_DNS_SILENT);
//
// It knows one answer for all names: 127.0.0.1.
#pragma once

enum fake_dns_mode {
    FAKE_DNS_ANSWERS,
    FAKE_DNS_SILENT, // never answers
    FAKE_DNS_FAILS,  // SERVFAIL
};

struct fake_dns;

struct fake_dns *fake_dns_new(const char **why);
struct fake_dns *fake_dns_free(struct fake_dns *dns);
void fake_dns_mode(struct fake_dns *dns, enum fake_dns_mode mode);
int fake_dns_questions(struct fake_dns *dns); // asked so far
