/* SPDX-License-Identifier: MPL-2.0 */
/* Inside of the arena, for the msgpack decoder, which lets the library put its objects there.  One thread at a time. */
#ifndef ARENA_H
#define ARENA_H

#include <msgpack.h>

#include "schemas/muster_buf.h"

struct muster_arena {
    msgpack_zone zone;
};

#endif
