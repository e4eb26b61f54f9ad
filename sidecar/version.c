// SPDX-License-Identifier: Apache-2.0
//
// The versions. libev and jansson tell the one they run as; hiredis has no such call, so it is the
// one of its headers, which its soname ties to the library. This file includes libraries' headers
// for their version alone.
#include <ev.h>
#include <hiredis/hiredis.h>
#include <stdio.h>

#include "protocol/message.h"
#include "sidecar/version.h"

char *version_format(char *text, size_t size)
{
    snprintf(text, size, "lock-keeper %s\nhiredis %d.%d.%d, libev %d.%d, jansson %s",
             LOCK_KEEPER_VERSION, HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH, ev_version_major(),
             ev_version_minor(), message_library_version());
    return text;
}
