// SPDX-License-Identifier: Apache-2.0
//
// The leases: slots of 128 bytes, found by number, by token, by key and by session. The table owns
// the memory and the links; what a lease means is the keeper's.
//
// A slot's number is reused after its end; a generation beside it tells the uses apart, so that
// (number, generation) names a lease for ever.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/message.h"
#include "sidecar/index.h"
#include "sidecar/lease.h"
#include "sidecar/store.h"

enum { TABLE_INLINE_KEY = 24 };

#define SLOT_NONE INDEX_NONE

// Why a waiter did not get the key when it was last asked for.
struct denial {
    int64_t at_ms;
    struct store_completion completion; // its strings are in `bytes`
    char bytes[];
};

// A request that is not answered yet.
struct pending {
    struct message_id id;
    int64_t asked_at_ms;
    struct denial *denial; // owned; NULL: there was none yet
    struct pending *next;  // in the keeper's list of free ones
};

struct slot {
    struct lease lease;
    struct message_token token;
    union {
        char bytes[TABLE_INLINE_KEY]; // the key, when it is short and there is no label
        char *outside;                // owned: label length (1 byte), label, key
    } text;
    union {
        int64_t fence;           // once granted
        struct pending *pending; // while lease_is_asking, or RELEASING: the request to answer
    };
    uint32_t generation;
    uint32_t session; // whom to tell, 0 for nobody
    uint32_t session_previous;
    uint32_t session_next; // also links the free slots
    uint32_t token_next;
    uint32_t key_next;     // in the key index; of a queued slot: the one before it
    uint32_t queue;        // of a key's lease: the last one queued; of a queued slot: the next
    uint32_t pid;          // the holder's, as seen by the sidecar
    uint16_t account : 12; // whose caps it counts against
    uint16_t hops : 4;     // hand-overs inside this sidecar since others could have had the key
    uint16_t key_length : 10;
    uint16_t is_outside : 1;
    uint16_t has_key : 1; // in the key index
    uint16_t bind : 2;    // enum wire_bind
    uint16_t notify : 2;  // 1 << WIRE_NOTIFY_x
};

_Static_assert(sizeof(struct slot) <= 128, "a million leases are to stay small");

struct table {
    struct slot **chunks; // owned
    uint32_t chunk_count;
    uint32_t used;       // slot numbers below this were in use at some time
    uint32_t live;       // slots in use now
    uint32_t free_first; // a queue: the longest free is reused first
    uint32_t free_last;
    struct index by_token;
    struct index by_key;
    uint64_t hash_key[2];
};

// hash_key: secret random bits. 0 or -ENOMEM.
int table_init(struct table *table, const uint64_t hash_key[2]);
void table_deinit(struct table *table);

// A new slot with token, key and label, in the token index; SLOT_NONE when memory is out.
uint32_t table_open(struct table *table, const struct message_token *token, const char *key,
                    size_t key_length, const char *label, size_t label_length);
// Frees it. It must have left its session, its queue and the key index.
void table_close(struct table *table, uint32_t number);

// The slot of a number in use.
struct slot *table_slot(const struct table *table, uint32_t number);
// The slot of (number, generation), or NULL when that use is over.
struct slot *table_find(const struct table *table, uint32_t number, uint32_t generation);
// The number of the slot with this token, of the key's lease; or SLOT_NONE.
uint32_t table_find_token(const struct table *table, const struct message_token *token);
uint32_t table_find_key(const struct table *table, const char *key, size_t key_length);

// Behind a key's lease.
static inline bool slot_is_queued(const struct slot *slot)
{
    return !slot->has_key && slot->queue != SLOT_NONE;
}

// The holder's pid as it is shown: 0 for a process that has no number here.
static inline int64_t slot_pid(const struct slot *slot)
{
    return (int32_t)slot->pid > 0 ? slot->pid : 0;
}

static inline bool table_in_use(const struct slot *slot)
{
    return slot->generation & 1;
}

// Not NUL-terminated; borrowed until the slot is closed.
const char *slot_key(const struct slot *slot);
const char *slot_label(const struct slot *slot, size_t *length);

// Makes the slot its key's lease (there must be none), or no longer.
void table_set_key(struct table *table, uint32_t number);
void table_clear_key(struct table *table, uint32_t number);

// The queue behind a key's lease (head), oldest first.
void table_queue_push(struct table *table, uint32_t head, uint32_t number);
void table_queue_remove(struct table *table, uint32_t head, uint32_t number);
uint32_t table_queue_first(const struct table *table, uint32_t head);
// Hands the whole queue from one head, before it goes, to another.
void table_queue_move(struct table *table, uint32_t from, uint32_t to);

// A session's list of slots; *first is its head.
void table_session_add(struct table *table, uint32_t *first, uint32_t session, uint32_t number);
void table_session_remove(struct table *table, uint32_t *first, uint32_t number);
