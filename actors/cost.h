/* SPDX-License-Identifier: MPL-2.0 */
/* Prices of turns.  Any thread.  Nothing fails. */
#ifndef ACTORS_COST_H
#define ACTORS_COST_H

#include <stdint.h>

/* To a billionth of a dollar: further digits of a sum or a difference mean nothing. */
static inline double
cost_rounded(double usd)
{
    return usd >= 0 && usd < 1e9 ? (double)(int64_t)(usd * 1e9 + 0.5) / 1e9 : usd;
}

#endif
