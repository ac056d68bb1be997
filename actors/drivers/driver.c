/* SPDX-License-Identifier: MPL-2.0 */
/* The table of drivers.  Any thread.  Nothing fails. */
#include "actors/drivers/driver.h"

const struct driver *
driver_find(enum driver_kind kind)
{
    static const struct driver *const drivers[] = {[driver_kind_ECHO] = &driver_echo,
                                                   [driver_kind_COMMAND] = &driver_command,
                                                   [driver_kind_CLAUDE] = &driver_claude,
                                                   [driver_kind_ACTOR] = &driver_actor};

    if ((size_t)kind >= sizeof(drivers) / sizeof(drivers[0]))
        return NULL;
    return drivers[kind];
}
