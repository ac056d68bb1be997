/* SPDX-License-Identifier: MPL-2.0 */
/* What the claude CLI asks its host: whether a tool may be used, which the team's rules answer at once.
 *
 * It asks twice.  Before every use it calls the hook that claude.c registers when the team has deny rules.  Then, when
 * it would ask a person, it asks `can_use_tool`.  A use that is denied is told once.  Every request gets an answer,
 * because the CLI waits for it without end.  Agent actor's thread. */
#include <stdlib.h>
#include <string.h>

#include "actors/drivers/claude.h"

static void
answer(struct claude *self, const json_t *line, json_t *response)
{
    claude_write(self, json_pack("{s:s, s:{s:s, s:O?, s:o}}", "type", "control_response", "response", "subtype",
                                 "success", "request_id", json_object_get(line, "request_id"), "response", response));
}

static void
answer_error(struct claude *self, const json_t *line, const char *subtype)
{
    struct muster_buf text = {0};

    muster_buf_printf(&text, "Unsupported control request subtype: %s", subtype);
    claude_write(self, json_pack("{s:s, s:{s:s, s:O?, s:s}}", "type", "control_response", "response", "subtype",
                                 "error", "request_id", json_object_get(line, "request_id"), "error", text.data));
    muster_buf_free(&text);
}

/* The use of a tool that the CLI asks about. */
struct use {
    const char *tool, *id;
    const json_t *input; /* NULL: it has none */
    char *text;          /* owned: the input; NULL when it is no JSON of ours */
    const char *rule;    /* that matched; "" none did */
};

/* What the rules say.  The directory counts under both of its names, the resolved one and the configured one: a deny
 * rule that matches under either wins. */
static enum tool_verdict
check_rules(const struct claude *self, struct use *use)
{
    const struct driver_host *host = self->host;
    const struct team_options *team = host->team;
    enum tool_verdict verdict = tool_verdict_DENIED, other;
    const char *rule = "";

    use->rule = "";
    use->text = json_dumps(use->input, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!use->text || self->mended || !team->permissions)
        return tool_verdict_DENIED;
    verdict = permission_check(team->permissions, host->directory, use->tool, use->text, &use->rule);
    if (!strcmp(host->directory, team->directory) || (verdict == tool_verdict_DENIED && *use->rule))
        return verdict;
    other = permission_check(team->permissions, team->directory, use->tool, use->text, &rule);
    if (verdict == tool_verdict_ALLOWED && (other == tool_verdict_ALLOWED || !*rule))
        return verdict;
    use->rule = rule;
    return other;
}

/* Tell the log what the rules said. */
static void
tell_verdict(struct claude *self, const struct use *use, enum tool_verdict verdict)
{
    char name[DRIVER_NAME_MAX + 1];
    struct job_permission event = {
        .tool = driver_text_copy(*use->tool ? use->tool : "unknown", name, sizeof(name)),
        .verdict = verdict,
        .rule = strlen(use->rule) <= 1024 ? use->rule : "",
        .input = use->text && strlen(use->text) <= DRIVER_JSON_MAX ? use->text : NULL,
    };

    self->host->event(self->host->self, &job_permission_type, &event);
}

void
claude_denied(struct claude *self, const char *use)
{
    char id[DRIVER_NAME_MAX + 1];

    self->host->denied(self->host->self, driver_text_copy(use, id, sizeof(id)));
}

/* The use is denied; the log is told once. */
static void
deny(struct claude *self, const struct use *use)
{
    if (*use->id && json_object_get(self->denied, use->id))
        return;
    tell_verdict(self, use, tool_verdict_DENIED);
    if (!*use->id)
        return;
    json_object_set_new(self->denied, use->id, json_true());
    claude_denied(self, use->id);
}

/* Why a use is denied, for the model. */
static void
add_reason(const struct claude *self, const struct use *use, struct muster_buf *out)
{
    if (self->mended)
        muster_buf_str(out, "This input holds characters that cannot be passed on.");
    else if (*use->rule)
        muster_buf_printf(out, "The rule %s does not allow this. Go on without it.", use->rule);
    else
        muster_buf_printf(out, "No rule allows %s here. Go on without it.", *use->tool ? use->tool : "this");
}

/* The CLI wants to be told: without a rule that allows it the use is denied. */
static void
on_can_use_tool(struct claude *self, const json_t *line, const json_t *request)
{
    json_t *asked = json_object_get(request, "input");
    json_t *input = json_is_object(asked) ? json_incref(asked) : json_object();
    struct use use = {
        .tool = driver_json_str(request, "tool_name"), .id = driver_json_str(request, "tool_use_id"), .input = input};
    struct muster_buf why = {0};

    if (check_rules(self, &use) == tool_verdict_ALLOWED) {
        tell_verdict(self, &use, tool_verdict_ALLOWED);
        answer(self, line, json_pack("{s:s, s:O}", "behavior", "allow", "updatedInput", input));
    } else {
        deny(self, &use);
        add_reason(self, &use, &why);
        answer(self, line, json_pack("{s:s, s:s}", "behavior", "deny", "message", why.data));
    }
    free(use.text);
    json_decref(input);
    muster_buf_free(&why);
}

/* The CLI is about to use a tool, whether it would ask about that or not: only a deny rule stops it here.  In doubt it
 * is stopped; an error for an answer would let it go on. */
static void
on_deny_hook(struct claude *self, const json_t *line, const json_t *request)
{
    const json_t *asked = json_object_get(request, "input");
    struct use use = {.tool = driver_json_str(asked, "tool_name"),
                      .id = driver_json_str(asked, "tool_use_id"),
                      .input = json_object_get(asked, "tool_input")};
    struct muster_buf why = {0};

    if (check_rules(self, &use) == tool_verdict_DENIED && (*use.rule || self->mended || !use.text)) {
        deny(self, &use);
        add_reason(self, &use, &why);
        answer(self, line,
               json_pack("{s:{s:s, s:s, s:s}}", "hookSpecificOutput", "hookEventName", "PreToolUse",
                         "permissionDecision", "deny", "permissionDecisionReason", why.data));
    } else {
        answer(self, line, json_object());
    }
    free(use.text);
    muster_buf_free(&why);
}

void
claude_asked(struct claude *self, const json_t *line)
{
    const json_t *request = json_object_get(line, "request");

    if (driver_json_is(request, "subtype", "can_use_tool"))
        on_can_use_tool(self, line, request);
    else if (driver_json_is(request, "subtype", "hook_callback") &&
             driver_json_is(request, "callback_id", CLAUDE_DENY_HOOK))
        on_deny_hook(self, line, request);
    else
        answer_error(self, line, driver_json_str(request, "subtype"));
}
