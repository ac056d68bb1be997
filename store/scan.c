/* SPDX-License-Identifier: MPL-2.0 */
/* Scans: rows of a table in order, copied out of the engine a page at a time.  The caller may do what it likes between
 * two rows, as no transaction is open then; rows that change meanwhile are seen as they are when their page is read.
 * Any thread; fails as the engine does. */
#include "store/store.h"

#define FIRST_ROWS 16 /* many callers want a few rows only */
#define PAGE_ROWS 256
#define PAGE_BYTES (1 << 20)

struct row_head {
    uint32_t key_size, value_size;
};

void
scan_init(struct scan *scan, struct muster_engine *engine, enum engine_table table, struct muster_bytes prefix,
          struct muster_bytes from, bool backward)
{
    *scan = (struct scan){.engine = engine, .table = table, .backward = backward, .room = FIRST_ROWS};
    muster_buf_add(&scan->prefix, prefix.data, prefix.size);
    muster_buf_add(&scan->from, from.data, from.size);
}

void
scan_fini(struct scan *scan)
{
    muster_buf_free(&scan->prefix);
    muster_buf_free(&scan->from);
    muster_buf_free(&scan->page);
}

static struct muster_bytes
bytes_in(const struct muster_buf *buf)
{
    return bytes_of(buf->data, buf->size);
}

static bool
keep_row(void *arg, struct muster_bytes key, struct muster_bytes value)
{
    struct scan *scan = arg;
    struct row_head head = {(uint32_t)key.size, scan->keys_only ? 0 : (uint32_t)value.size};

    if (scan->skip_from && bytes_compare(key, bytes_in(&scan->from)) == 0)
        return true;
    if (scan->rows == scan->room || scan->page.size >= PAGE_BYTES) {
        scan->ended = false;
        return false;
    }
    scan->last = scan->page.size;
    scan->rows++;
    muster_buf_add(&scan->page, &head, sizeof(head));
    muster_buf_add(&scan->page, key.data, key.size);
    if (head.value_size)
        muster_buf_add(&scan->page, value.data, value.size);
    return true;
}

static size_t
row_at(const struct scan *scan, size_t at, struct muster_bytes *out_key, struct muster_bytes *out_value)
{
    const uint8_t *row = (const uint8_t *)scan->page.data + at;
    struct row_head head;

    memcpy(&head, row, sizeof(head));
    row += sizeof(head);
    *out_key = bytes_of(row, head.key_size);
    *out_value = bytes_of(row + head.key_size, head.value_size);
    return at + sizeof(head) + head.key_size + head.value_size;
}

static muster_err
fetch_page(struct scan *scan)
{
    struct muster_bytes key, value;

    if (scan->page.size > 0) {
        (void)row_at(scan, scan->last, &key, &value);
        muster_buf_clear(&scan->from);
        muster_buf_add(&scan->from, key.data, key.size);
        scan->skip_from = true;
        scan->room = scan->room * 4 < PAGE_ROWS ? scan->room * 4 : PAGE_ROWS;
    }
    muster_buf_clear(&scan->page);
    scan->at = 0;
    scan->rows = 0;
    scan->ended = true;
    return scan->engine->class->range(scan->engine, scan->table, bytes_in(&scan->prefix), bytes_in(&scan->from),
                                      scan->backward, keep_row, scan);
}

muster_err
scan_next(struct scan *scan, struct muster_bytes *out_key, struct muster_bytes *out_value)
{
    muster_err err;

    if (scan->at == scan->page.size) {
        if (scan->ended)
            return MUSTER_NOT_FOUND;
        err = fetch_page(scan);
        if (err)
            return err;
        if (scan->rows == 0)
            return MUSTER_NOT_FOUND;
    }
    scan->at = row_at(scan, scan->at, out_key, out_value);
    return MUSTER_OK;
}
