/* SPDX-License-Identifier: MPL-2.0 */
/* door_curve: CURVE keys by way of libzmq, which speaks Z85.  Any thread; nothing fails, because a libzmq without CURVE
 * is not built against. */
#include <string.h>
#include <zmq.h>

#include "transport/muster_door.h"

void
muster_curve_pair(uint8_t out_secret[MUSTER_CURVE], uint8_t out_public[MUSTER_CURVE])
{
    char secret[MUSTER_Z85], public[MUSTER_Z85];

    MUSTER_ASSERT(zmq_curve_keypair(public, secret) == 0);
    (void)zmq_z85_decode(out_secret, secret);
    (void)zmq_z85_decode(out_public, public);
    explicit_bzero(secret, sizeof secret);
}

void
muster_curve_public(const uint8_t secret[MUSTER_CURVE], uint8_t out_public[MUSTER_CURVE])
{
    char text[MUSTER_Z85], public[MUSTER_Z85];

    muster_z85(secret, text);
    MUSTER_ASSERT(zmq_curve_public(public, text) == 0);
    (void)zmq_z85_decode(out_public, public);
    explicit_bzero(text, sizeof text);
}

void
muster_z85(const uint8_t key[MUSTER_CURVE], char out_text[MUSTER_Z85])
{
    (void)zmq_z85_encode(out_text, key, MUSTER_CURVE);
}

bool
muster_curve_parse(const char *text, uint8_t out_key[MUSTER_CURVE])
{
    uint8_t key[MUSTER_CURVE];
    bool good = strlen(text) == MUSTER_Z85 - 1 && zmq_z85_decode(key, text) != NULL;

    if (good)
        memcpy(out_key, key, sizeof key);
    explicit_bzero(key, sizeof key);
    return good;
}
