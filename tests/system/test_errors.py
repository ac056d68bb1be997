# SPDX-License-Identifier: MPL-2.0
"""Every code of the iris document's table, in its shape and with its status."""

import pytest

from harness import Client

CONFIG = {
    "teams": {"echo": {"driver": "echo", "concurrency": 4}, "gone": {"driver": "command", "command": ["/no/such"]}},
    "queue": {"max_attempts": 1},
}


def provoke_invalid(daemon):
    return daemon.client.post("/api/v1/teams/echo/ask", {"question": 7})


def provoke_team(daemon):
    return daemon.client.ask("nobody", "hello?")


def provoke_unauthorized(daemon):
    return Client(daemon.url, "iris_sk_wrong").ask("echo", "hello?")


def provoke_forbidden(daemon):
    made = daemon.client.post("/api/v1/keys", {"name": "reader", "scopes": ["teams:read"]}).ok(201)
    return daemon.client.with_key(made["key"]).ask("echo", "hello?")


def provoke_rate(daemon):
    limit = {"requests": 1, "window": "1h"}
    made = daemon.client.post("/api/v1/keys", {"name": "one", "scopes": ["teams:write"], "rateLimit": limit}).ok(201)
    one = daemon.client.with_key(made["key"])
    one.ask("echo", "first").ok()
    return one.ask("echo", "second")


def provoke_timeout(daemon):
    return daemon.client.ask("echo", "@delay=10s slow", timeout=30)


def provoke_process(daemon):
    return daemon.client.ask("gone", "hello?")


def provoke_internal(daemon):
    return daemon.client.ask("echo", "@fail=INTERNAL_ERROR:9 broken")


@pytest.mark.parametrize(
    "code, status, error, provoke",
    [
        ("INVALID_REQUEST", 400, "Invalid request parameters", provoke_invalid),
        ("TEAM_NOT_FOUND", 404, "Team does not exist", provoke_team),
        ("UNAUTHORIZED", 401, "Invalid API key", provoke_unauthorized),
        ("FORBIDDEN", 403, "Insufficient permissions", provoke_forbidden),
        ("RATE_LIMITED", 429, "Rate limit exceeded", provoke_rate),
        ("TIMEOUT", 408, "Request timeout exceeded", provoke_timeout),
        ("PROCESS_ERROR", 500, "Agent process error", provoke_process),
        ("INTERNAL_ERROR", 500, "Internal server error", provoke_internal),
    ],
)
def test_each_code_of_the_document(daemons, code, status, error, provoke):
    daemon = daemons(CONFIG)
    answer = provoke(daemon)
    body = answer.error(status, code)
    assert body["error"] == error and body["message"] and body["timestamp"] > 1_600_000_000_000
    assert answer.header("Content-Type").startswith("application/json") and answer.header("X-Request-Id")
    if code == "FORBIDDEN":
        assert body["required"] == ["teams:read", "messages:write"] and body["provided"] == ["teams:read"]
    if code == "RATE_LIMITED":
        assert body["limit"] == 1 and body["window"] == 3_600_000 and body["resetAt"] > body["timestamp"]
        assert answer.header("X-RateLimit-Limit") == "1" and answer.header("X-RateLimit-Remaining") == "0"
        assert abs(int(answer.header("X-RateLimit-Reset")) - body["resetAt"] / 1000) <= 1
        assert int(answer.header("Retry-After")) >= 3590
