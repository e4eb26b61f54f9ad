// SPDX-License-Identifier: Apache-2.0
//
// Chains that double in number when there are as many nodes as chains. Numbers are spread by a
// multiplication (Fibonacci hashing): those of requests are counted up, those of leases random.
#include <errno.h>
#include <stdlib.h>

#include "client/map.h"

enum { FIRST_BITS = 4 };

static struct client_node **chain(const struct client_map *map, uint64_t number)
{
    return &map->chains[(number * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - map->bits)];
}

static void put(struct client_map *map, struct client_node *node)
{
    struct client_node **head = chain(map, node->number);

    node->next = *head;
    *head = node;
}

static int grow(struct client_map *map)
{
    struct client_map larger = {.bits = map->chains ? map->bits + 1 : FIRST_BITS};
    size_t size = map->chains ? (size_t)1 << map->bits : 0;

    larger.chains = calloc((size_t)1 << larger.bits, sizeof(struct client_node *));
    if (!larger.chains)
        return -ENOMEM;
    for (size_t i = 0; i < size; i++) {
        struct client_node *next;

        for (struct client_node *node = map->chains[i]; node; node = next) {
            next = node->next;
            put(&larger, node);
        }
    }
    free(map->chains);
    map->chains = larger.chains;
    map->bits = larger.bits;
    return 0;
}

void client_map_deinit(struct client_map *map)
{
    free(map->chains);
    *map = (struct client_map){0};
}

int client_map_add(struct client_map *map, struct client_node *node, uint64_t number)
{
    int r = !map->chains || map->count >> map->bits ? grow(map) : 0;

    if (r != 0)
        return r;
    node->number = number;
    put(map, node);
    map->count++;
    return 0;
}

void client_map_remove(struct client_map *map, struct client_node *node)
{
    struct client_node **at = map->chains ? chain(map, node->number) : NULL;

    while (at && *at && *at != node)
        at = &(*at)->next;
    if (!at || !*at)
        return;
    *at = node->next;
    map->count--;
}

struct client_node *client_map_find(const struct client_map *map, uint64_t number)
{
    struct client_node *node = map->chains ? *chain(map, number) : NULL;

    while (node && node->number != number)
        node = node->next;
    return node;
}

struct client_node *client_map_after(const struct client_node *node)
{
    struct client_node *next = node->next;

    while (next && next->number != node->number)
        next = next->next;
    return next;
}
