// SPDX-License-Identifier: Apache-2.0
//
// Names of codes and reasons, and the first failure of a handle.
//
// The public codes are the wire's errors, in their order, from 1; so are the reasons. They are
// numbers of the library's ABI, so a new name goes to the end of its list in wire.def.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/inside.h"
#include "protocol/text.h"

_Static_assert(LOCK_KEEPER_E_BAD_REQUEST == WIRE_ERROR_BAD_REQUEST + 1, "codes follow the wire");
_Static_assert(LOCK_KEEPER_E_LOST_ACTOR_LOCK == WIRE_ERROR_LOST_ACTOR_LOCK + 1,
               "codes follow the wire");
_Static_assert(LOCK_KEEPER_E_INTERNAL == WIRE_ERROR_INTERNAL + 1, "codes follow the wire");
_Static_assert(LOCK_KEEPER_E_INTERNAL == (int)WIRE_ERROR_COUNT, "every error has a code");
_Static_assert(LOCK_KEEPER_REASON_LOST == WIRE_REASON_LOST + 1, "reasons follow the wire");
_Static_assert(LOCK_KEEPER_REASON_BROKEN == WIRE_REASON_BROKEN + 1, "reasons follow the wire");
_Static_assert(LOCK_KEEPER_REASON_EOF == (int)WIRE_REASON_COUNT, "every reason has a number");

int client_code(const struct reply *reply)
{
    if (reply->ok)
        return 0;
    return reply->error < WIRE_ERROR_COUNT ? (int)reply->error + 1 : LOCK_KEEPER_E_OTHER;
}

enum lock_keeper_reason client_reason(enum wire_reason reason)
{
    return reason < WIRE_REASON_COUNT ? (enum lock_keeper_reason)(reason + 1)
                                      : LOCK_KEEPER_REASON_OTHER;
}

static const char *errno_name(int error)
{
    switch (error) {
    case ENOMEM:
        return "errNoMemory";
    case EINVAL:
    case EDEADLK:
        return "errUsage";
    case ETIMEDOUT:
        return "errTimeout";
    case EPROTO:
        return "errProtocol";
    default:
        return "errNoSidecar";
    }
}

const char *lock_keeper_code_name(int code)
{
    if (code == 0)
        return "";
    if (code < 0)
        return errno_name(-code);
    return code <= WIRE_ERROR_COUNT ? wire_error_names[code - 1] : "errOther";
}

const char *lock_keeper_reason_name(enum lock_keeper_reason reason)
{
    if (reason == LOCK_KEEPER_REASON_NONE)
        return "";
    if (reason == LOCK_KEEPER_REASON_UNCONFIRMED)
        return "unconfirmed";
    return (unsigned)reason <= WIRE_REASON_COUNT ? wire_reason_names[reason - 1] : "other";
}

void client_copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
    text_trim(to);
}

void client_error(struct lock_keeper *keeper, int code, const char *name, const char *words)
{
    if (keeper->error.code != 0 || code == 0)
        return;
    client_copy(keeper->error_name, sizeof keeper->error_name, name);
    client_copy(keeper->error_words, sizeof keeper->error_words, words);
    keeper->error.code = code;
}

const struct lock_keeper_error *lock_keeper_get_error(const struct lock_keeper *keeper)
{
    return &keeper->error;
}

void lock_keeper_clear_error(struct lock_keeper *keeper)
{
    keeper->error.code = 0;
    keeper->error_name[0] = keeper->error_words[0] = '\0';
}
