/* SPDX-License-Identifier: MPL-2.0 */
/* bus_worker: workers on other hosts.  The thread of the bus.
 *
 * What they say goes to nodes, which answers.  The slot of a worker.attach stays open after its worker.welcome: all
 * that nodes sends under its number goes to the worker, until either side ends it.  When that does not arrive any more
 * (the client has left, does not read, is another one, or its key is no longer good) nodes is told with node.gone.  The
 * number is the attachment; node.gone may be lost on a full mailbox, and then the worker's lease ends. */
#include <string.h>

#include "api/bus_inside.h"

bool
bus_is_of_worker(const struct muster_public *row)
{
    return row && strcmp(row->address, MUSTER_NODES) == 0;
}

muster_err
bus_check_worker(struct bus_request *request)
{
    const struct worker_attach *in = request->body;
    size_t i;

    for (i = 0; request->row->body == &worker_attach_type && i < in->teams.count; i++)
        if (!caller_may_use(&request->key, in->teams.items[i].name)) {
            request->problem =
                muster_arena_printf(request->arena, "This key may not use team '%.64s'", in->teams.items[i].name);
            return MUSTER_FORBIDDEN;
        }
    return MUSTER_OK;
}

/* ---- the end of an attachment ---- */

void
bus_worker_gone(struct bus *bus, int64_t attachment)
{
    struct muster_envelope envelope = {.reply_to = "", .trace = "", .principal.name = ""};
    struct node_gone gone = {.attachment = attachment};

    (void)bus_send(bus, MUSTER_NODES, &envelope, &node_gone_type, &gone);
}

static void
end_attached(struct bus *bus, struct bus_pending *pending)
{
    bus_worker_gone(bus, bus_id_of(bus, pending));
    bus_end_pending(bus, pending);
}

static void
refuse_attached(struct bus *bus, struct bus_pending *pending)
{
    bus_fail(bus, pending, NULL, MUSTER_UNAUTHORIZED, "The key that it came with is no longer good", 0);
    end_attached(bus, pending);
}

void
bus_on_late_answer(struct bus *bus, const struct muster_envelope *envelope)
{
    if (strcmp(envelope->type, worker_welcome_type.wire) == 0 || strcmp(envelope->type, agent_run_type.wire) == 0 ||
        strcmp(envelope->type, agent_cancel_type.wire) == 0)
        bus_worker_gone(bus, envelope->id);
}

void
bus_on_worker_refused(struct bus *bus, uint32_t guest)
{
    uint32_t i;

    for (i = 0; bus->attached > 0 && i < bus->pending_count; i++)
        if (bus->pending[i].stage == BUS_ATTACHED && bus->pending[i].guest == guest)
            refuse_attached(bus, &bus->pending[i]);
}

void
bus_check_workers(struct bus *bus)
{
    const struct bus_guest *guest;
    uint32_t i;

    for (i = 0; bus->attached > 0 && i < bus->pending_count; i++) {
        struct bus_pending *pending = &bus->pending[i];

        if (pending->stage != BUS_ATTACHED)
            continue;
        guest = bus_guest_find(bus, pending->guest);
        if (guest == NULL || guest->connection != pending->connection)
            end_attached(bus, pending);
        else if (!bus_is_still_good(bus, pending))
            refuse_attached(bus, pending);
    }
}

/* ---- what nodes says ---- */

static void
attach(struct bus *bus, struct bus_pending *pending)
{
    struct bus_guest *guest = bus_guest_find(bus, pending->guest);

    if (pending->stage == BUS_ATTACHED)
        return;
    pending->stage = BUS_ATTACHED;
    pending->until_ms = INT64_MAX;
    bus->attached++;
    if (guest)
        guest->attached++;
}

void
bus_on_worker_answer(struct bus *bus, struct bus_pending *pending, const struct muster_envelope *envelope)
{
    struct muster_envelope out = *envelope;
    bool failed = strcmp(envelope->type, failed_type.wire) == 0;
    bool last = failed || strcmp(envelope->type, worker_detached_type.wire) == 0;
    struct muster_buf frame = {0};
    muster_err err;

    if (!last)
        attach(bus, pending);
    out.id = pending->id;
    out.reply_to = "";
    out.deadline_ms = 0;
    out.principal = (struct muster_principal){.name = ""};
    muster_envelope_wrap(&out, &frame);
    err = bus_send_frame(bus, pending, &frame);
    bus->view.failed += failed;
    bus->view.answers += !failed;
    if (last)
        bus_end_pending(bus, pending);
    else if (err)
        end_attached(bus, pending);
}
