/* SPDX-License-Identifier: MPL-2.0 */
/* numbers: a czmq hash table whose keys are numbers held in pointers.  Any thread; nothing fails. */
#include "transport/numbers.h"

static size_t
hash_key(const void *key)
{
    return (size_t)(uintptr_t)key;
}

static int
compare_keys(const void *a, const void *b)
{
    return a == b ? 0 : 1;
}

zhashx_t *
numbers_new(void)
{
    zhashx_t *numbers = zhashx_new();

    zhashx_set_key_duplicator(numbers, NULL);
    zhashx_set_key_destructor(numbers, NULL);
    zhashx_set_key_comparator(numbers, compare_keys);
    zhashx_set_key_hasher(numbers, hash_key);
    return numbers;
}
