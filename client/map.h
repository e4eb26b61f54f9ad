// SPDX-License-Identifier: Apache-2.0
//
// Objects by a number: a hash of nodes that are embedded in them. Numbers may stand more than once.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct client_node {
    struct client_node *next; // in its chain
    uint64_t number;
};

struct client_map {
    struct client_node **chains; // owned; 2^bits of them, NULL while empty
    unsigned bits;
    size_t count;
};

void client_map_deinit(struct client_map *map); // the objects are their owners'
// 0 or -ENOMEM.
int client_map_add(struct client_map *map, struct client_node *node, uint64_t number);
// Nothing where it is not there.
void client_map_remove(struct client_map *map, struct client_node *node);
// The first with the number, or after one the next; NULL.
struct client_node *client_map_find(const struct client_map *map, uint64_t number);
struct client_node *client_map_after(const struct client_node *node);
