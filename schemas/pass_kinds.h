/* SPDX-License-Identifier: MPL-2.0 */
/* C type of every kind; shared by the passes. */
#ifndef MUSTER_PASS_KINDS_H
#define MUSTER_PASS_KINDS_H
#define MUSTER_C_BOOL bool
#define MUSTER_C_INT int64_t
#define MUSTER_C_MS int64_t
#define MUSTER_C_SIZE int64_t
#define MUSTER_C_REAL double
#define MUSTER_C_STR const char *
#define MUSTER_C_JSON const char *
#define MUSTER_C_BIN struct muster_bytes
#define MUSTER_C_ID struct muster_id
#define MUSTER_C_STRS struct muster_strs
#define MUSTER_C_PAIRS struct muster_pairs
#endif
