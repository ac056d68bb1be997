/* SPDX-License-Identifier: MPL-2.0 */
/* What the claude CLI asks its host: whether a tool may be used, which the team's rules answer at once.  Every request
 * gets an answer, because the CLI waits for it without end.  Agent actor's thread. */
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

/* What the team's rules say; tells the log. */
static enum tool_verdict
ask_rules(struct claude *self, const char *tool, const json_t *input, const char **out_rule)
{
    const struct team_options *team = self->host->team;
    char name[DRIVER_NAME_MAX + 1], *text = json_dumps(input, JSON_COMPACT | JSON_ENCODE_ANY);
    enum tool_verdict verdict = tool_verdict_DENIED;
    struct job_permission event;

    *out_rule = "";
    if (text && !self->mended && team->permissions)
        verdict = permission_check(team->permissions, team->directory, tool, text, out_rule);
    event = (struct job_permission){.tool = driver_text_copy(*tool ? tool : "unknown", name, sizeof(name)),
                                    .verdict = verdict,
                                    .rule = strlen(*out_rule) <= 1024 ? *out_rule : "",
                                    .input = text && strlen(text) <= DRIVER_JSON_MAX ? text : NULL};
    self->host->event(self->host->self, &job_permission_type, &event);
    free(text);
    return verdict;
}

static void
on_can_use_tool(struct claude *self, const json_t *line, const json_t *request)
{
    const char *tool = driver_json_str(request, "tool_name"), *rule;
    json_t *input = json_object_get(request, "input"), *response;
    struct muster_buf why = {0};

    if (!json_is_object(input))
        input = json_object();
    else
        json_incref(input);
    if (ask_rules(self, tool, input, &rule) == tool_verdict_ALLOWED) {
        response = json_pack("{s:s, s:O}", "behavior", "allow", "updatedInput", input);
    } else {
        if (self->mended)
            muster_buf_str(&why, "This input holds characters that cannot be passed on.");
        else if (*rule)
            muster_buf_printf(&why, "The rule %s does not allow this. Go on without it.", rule);
        else
            muster_buf_printf(&why, "No rule allows %s here. Go on without it.", *tool ? tool : "this");
        response = json_pack("{s:s, s:s}", "behavior", "deny", "message", why.data);
    }
    answer(self, line, response);
    json_decref(input);
    muster_buf_free(&why);
}

void
claude_asked(struct claude *self, const json_t *line)
{
    const json_t *request = json_object_get(line, "request");

    if (driver_json_is(request, "subtype", "can_use_tool"))
        on_can_use_tool(self, line, request);
    else
        answer_error(self, line, driver_json_str(request, "subtype"));
}
