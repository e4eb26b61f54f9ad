// SPDX-License-Identifier: Apache-2.0
//
// Slots stand in chunks that never move, so a pointer to a slot is good until the slot is closed.
// Links between slots are 32-bit numbers. A slot's generation is odd while it is in use. Freed slots
// queue up, so that a number is reused as late as can be.
//
// The queue behind a key's lease is a ring: head.queue is the last, last.queue the first; each
// queued slot links to the one before it in key_next, which only key leases need otherwise.

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sidecar/siphash.h"
#include "sidecar/table.h"

enum { TABLE_CHUNK = 1024 };

struct slot *table_slot(const struct table *table, uint32_t number)
{
    assert(number < table->used);
    return &table->chunks[number / TABLE_CHUNK][number % TABLE_CHUNK];
}

// ---- The two indexes ----

static uint64_t token_bits(const struct message_token *token)
{
    uint64_t bits;
    memcpy(&bits, token->bytes, sizeof bits); // random already
    return bits;
}

static uint64_t token_hash(void *context, uint32_t item)
{
    return token_bits(&table_slot(context, item)->token);
}

static uint32_t *token_link(void *context, uint32_t item)
{
    return &table_slot(context, item)->token_next;
}

static uint64_t key_hash(void *context, uint32_t item)
{
    const struct table *table = context;
    const struct slot *slot = table_slot(table, item);
    return siphash13(table->hash_key, slot_key(slot), slot->key_length);
}

static uint32_t *key_link(void *context, uint32_t item)
{
    return &table_slot(context, item)->key_next;
}

static const struct index_ops token_ops = {.hash = token_hash, .link = token_link};
static const struct index_ops key_ops = {.hash = key_hash, .link = key_link};

int table_init(struct table *table, const uint64_t hash_key[2])
{
    int r;

    *table = (struct table){.used = 1, .hash_key = {hash_key[0], hash_key[1]}};
    r = index_init(&table->by_token, &token_ops, table);
    if (r == 0)
        r = index_init(&table->by_key, &key_ops, table);
    if (r < 0)
        table_deinit(table);
    return r;
}

void table_deinit(struct table *table)
{
    for (uint32_t number = 1; number < table->used; number++) {
        struct slot *slot = table_slot(table, number);
        if (table_in_use(slot) && slot->is_outside)
            free(slot->text.outside);
    }
    for (uint32_t i = 0; i < table->chunk_count; i++)
        free(table->chunks[i]);
    free(table->chunks);
    index_deinit(&table->by_token);
    index_deinit(&table->by_key);
    *table = (struct table){0};
}

// ---- Slots ----

static int add_chunk(struct table *table)
{
    struct slot **chunks = realloc(table->chunks, (table->chunk_count + 1) * sizeof *chunks);
    struct slot *chunk = calloc(TABLE_CHUNK, sizeof *chunk);

    if (chunks)
        table->chunks = chunks;
    if (!chunks || !chunk) {
        free(chunk);
        return -ENOMEM;
    }
    table->chunks[table->chunk_count++] = chunk;
    return 0;
}

static uint32_t take_free(struct table *table)
{
    uint32_t number = table->free_first;

    if (number != SLOT_NONE) {
        table->free_first = table_slot(table, number)->session_next;
        if (table->free_first == SLOT_NONE)
            table->free_last = SLOT_NONE;
        return number;
    }
    if (table->used == UINT32_MAX)
        return SLOT_NONE;
    if (table->used >= table->chunk_count * TABLE_CHUNK && add_chunk(table) < 0)
        return SLOT_NONE;
    return table->used++;
}

static void give_free(struct table *table, uint32_t number)
{
    table_slot(table, number)->session_next = SLOT_NONE;
    if (table->free_last != SLOT_NONE)
        table_slot(table, table->free_last)->session_next = number;
    else
        table->free_first = number;
    table->free_last = number;
}

static int set_text(struct slot *slot, const char *key, size_t key_length, const char *label,
                    size_t label_length)
{
    char *outside;

    slot->key_length = key_length & 0x3ff;
    slot->is_outside = key_length > TABLE_INLINE_KEY || label_length > 0;
    if (!slot->is_outside) {
        memcpy(slot->text.bytes, key, key_length);
        return 0;
    }
    outside = malloc(1 + label_length + key_length);
    if (!outside)
        return -ENOMEM;
    outside[0] = (char)(unsigned char)label_length;
    memcpy(outside + 1, label, label_length);
    memcpy(outside + 1 + label_length, key, key_length);
    slot->text.outside = outside;
    return 0;
}

uint32_t table_open(struct table *table, const struct message_token *token, const char *key,
                    size_t key_length, const char *label, size_t label_length)
{
    uint32_t number = take_free(table);
    uint32_t generation;
    struct slot *slot;

    assert(key_length > 0 && key_length <= WIRE_MAX_KEY && label_length <= WIRE_MAX_LABEL);
    if (number == SLOT_NONE)
        return SLOT_NONE;
    slot = table_slot(table, number);
    generation = slot->generation;
    *slot = (struct slot){.generation = generation, .token = *token};
    if (set_text(slot, key, key_length, label, label_length) < 0) {
        give_free(table, number);
        return SLOT_NONE;
    }
    slot->generation++;
    table->live++;
    index_insert(&table->by_token, number);
    return number;
}

void table_close(struct table *table, uint32_t number)
{
    struct slot *slot = table_slot(table, number);

    assert(table_in_use(slot) && !slot->has_key && slot->session == 0);
    assert(slot->queue == SLOT_NONE);
    index_remove(&table->by_token, number);
    if (slot->is_outside)
        free(slot->text.outside);
    explicit_bzero(&slot->token, sizeof slot->token);
    slot->generation++;
    table->live--;
    give_free(table, number);
}

struct slot *table_find(const struct table *table, uint32_t number, uint32_t generation)
{
    struct slot *slot;

    if (number == SLOT_NONE || number >= table->used)
        return NULL;
    slot = table_slot(table, number);
    return slot->generation == generation && table_in_use(slot) ? slot : NULL;
}

uint32_t table_find_token(const struct table *table, const struct message_token *token)
{
    uint32_t number = index_bucket(&table->by_token, token_bits(token));

    while (number != SLOT_NONE) {
        const struct slot *slot = table_slot(table, number);
        if (memcmp(&slot->token, token, sizeof *token) == 0)
            break;
        number = slot->token_next;
    }
    return number;
}

uint32_t table_find_key(const struct table *table, const char *key, size_t key_length)
{
    uint32_t number = index_bucket(&table->by_key, siphash13(table->hash_key, key, key_length));

    while (number != SLOT_NONE) {
        const struct slot *slot = table_slot(table, number);
        if (slot->key_length == key_length && memcmp(slot_key(slot), key, key_length) == 0)
            break;
        number = slot->key_next;
    }
    return number;
}

const char *slot_key(const struct slot *slot)
{
    if (!slot->is_outside)
        return slot->text.bytes;
    return slot->text.outside + 1 + (unsigned char)slot->text.outside[0];
}

const char *slot_label(const struct slot *slot, size_t *length)
{
    *length = slot->is_outside ? (unsigned char)slot->text.outside[0] : 0;
    return slot->is_outside ? slot->text.outside + 1 : "";
}

// ---- Key leases and their queues ----

void table_set_key(struct table *table, uint32_t number)
{
    struct slot *slot = table_slot(table, number);

    assert(!slot->has_key);
    slot->has_key = 1;
    index_insert(&table->by_key, number);
}

void table_clear_key(struct table *table, uint32_t number)
{
    struct slot *slot = table_slot(table, number);

    assert(slot->has_key && slot->queue == SLOT_NONE);
    slot->has_key = 0;
    index_remove(&table->by_key, number);
}

uint32_t table_queue_first(const struct table *table, uint32_t head)
{
    uint32_t last = table_slot(table, head)->queue;
    return last == SLOT_NONE ? SLOT_NONE : table_slot(table, last)->queue;
}

void table_queue_push(struct table *table, uint32_t head, uint32_t number)
{
    struct slot *front = table_slot(table, head);
    struct slot *slot = table_slot(table, number);
    uint32_t first = number;

    slot->key_next = SLOT_NONE;
    if (front->queue != SLOT_NONE) {
        struct slot *last = table_slot(table, front->queue);
        first = last->queue;
        last->queue = number;
        slot->key_next = front->queue;
    }
    slot->queue = first;
    front->queue = number;
}

void table_queue_remove(struct table *table, uint32_t head, uint32_t number)
{
    struct slot *front = table_slot(table, head);
    struct slot *slot = table_slot(table, number);
    uint32_t before = slot->key_next;
    uint32_t after = slot->queue;
    bool is_last = front->queue == number;

    if (is_last)
        front->queue = before;
    if (before != SLOT_NONE)
        table_slot(table, before)->queue = after;
    else if (!is_last)
        table_slot(table, front->queue)->queue = after; // a new first
    if (!is_last)
        table_slot(table, after)->key_next = before;
    slot->queue = slot->key_next = SLOT_NONE;
}

void table_queue_move(struct table *table, uint32_t from, uint32_t to)
{
    assert(table_slot(table, to)->queue == SLOT_NONE);
    table_slot(table, to)->queue = table_slot(table, from)->queue;
    table_slot(table, from)->queue = SLOT_NONE;
}

// ---- Sessions ----

void table_session_add(struct table *table, uint32_t *first, uint32_t session, uint32_t number)
{
    struct slot *slot = table_slot(table, number);

    assert(slot->session == 0);
    slot->session = session;
    slot->session_previous = SLOT_NONE;
    slot->session_next = *first;
    if (*first != SLOT_NONE)
        table_slot(table, *first)->session_previous = number;
    *first = number;
}

void table_session_remove(struct table *table, uint32_t *first, uint32_t number)
{
    struct slot *slot = table_slot(table, number);

    if (slot->session_previous != SLOT_NONE)
        table_slot(table, slot->session_previous)->session_next = slot->session_next;
    else
        *first = slot->session_next;
    if (slot->session_next != SLOT_NONE)
        table_slot(table, slot->session_next)->session_previous = slot->session_previous;
    slot->session = 0;
}
