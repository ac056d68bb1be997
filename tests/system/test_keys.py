# SPDX-License-Identifier: MPL-2.0
"""Keys that rotate, rates by name, Basic and JSON Web Tokens; rates that hold over restarts."""

import base64
import hashlib
import hmac
import json
import subprocess
import time

import pytest

from harness import Client, wait_until

ONE = {"teams": {"echo": {"driver": "echo", "concurrency": 4}, "other": {"driver": "echo"}}}
FILE_KEY = "a-key-of-the-file-0123456789"
ADMIN = {"name": "boss", "key": "an-admin-key-0123456789", "scopes": ["admin:*"], "rate_limit": {"requests": 0}}
SECRET = "a secret of at least thirty-two bytes!"


def make(client, name, scopes=("teams:read", "teams:write"), **fields):
    return client.post("/api/v1/keys", {"name": name, "scopes": list(scopes), **fields}).ok(201)


def look(client):
    return client.get("/api/v1/teams/echo/status")


def sign(claims, algorithm="HS256", secret=SECRET, key_file=None):
    """A token made here, by the standard library and openssl."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    text = part(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()) + b"." + part(json.dumps(claims).encode())
    if algorithm == "HS256":
        signature = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    elif algorithm == "none":
        signature = b""
    else:
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(key_file)], input=text, capture_output=True, check=True
        ).stdout
        if algorithm == "ES256":
            signature = raw_ecdsa(signature)
    return (text + b"." + part(signature)).decode()


def raw_ecdsa(der):
    """r and s of 32 bytes each out of their ASN.1."""
    assert der[0] == 0x30
    at, numbers = 2, []
    for _ in range(2):
        size = der[at + 1]
        numbers.append(der[at + 2 : at + 2 + size].lstrip(b"\0").rjust(32, b"\0"))
        at += 2 + size
    return b"".join(numbers)


def claims(**more):
    return {"sub": "alice", "exp": int(time.time()) + 300, "scope": "teams:read teams:write", **more}


# ---- rotation, revocation, expiry ----


def test_rotation_without_overlap_ends_the_old_text_at_once(daemons):
    client = daemons(ONE).client
    key = make(client, "bot")
    new = client.post("/api/v1/keys/bot/rotate", {}).ok()
    assert new["id"] == key["id"] and new["key"] != key["key"]
    look(client.with_key(key["key"])).error(401, "UNAUTHORIZED")
    look(client.with_key(new["key"])).ok()


def test_both_texts_work_during_the_overlap(daemons):
    daemon = daemons(ONE)
    client = daemon.client
    old = make(client, "bot")
    new = client.post("/api/v1/keys/bot/rotate", {"overlap": "700ms"}).ok()
    look(client.with_key(old["key"])).ok()
    look(client.with_key(new["key"])).ok()
    wait_until(lambda: look(client.with_key(old["key"])).status == 401, "the old text has stopped working")
    assert time.time() * 1000 >= new["oldUntil"]
    look(client.with_key(new["key"])).ok()


def test_a_rotation_holds_over_kill_9_and_the_key_keeps_its_name(daemons):
    daemon = daemons(ONE)
    old = make(daemon.client, "bot")
    made = daemon.cli("key", "rotate", "bot", "--overlap", "1h")
    assert made.returncode == 0, made
    new = made.stdout.split()[0]
    daemon.kill9()
    daemon.start()
    for text in (old["key"], new):
        assert daemon.client.with_key(text).ask("echo", "who?").ok()
    assert {m["from"] for m in daemon.client.history(team="echo")["messages"]} == {"bot"}
    assert daemon.client.request("DELETE", "/api/v1/keys/bot").ok()["revoked"] is True
    for text in (old["key"], new):
        look(daemon.client.with_key(text)).error(401, "UNAUTHORIZED")


def test_what_cannot_be_rotated(daemons):
    config = {**ONE, "auth": {"keys": [{"name": "file", "key": FILE_KEY}, ADMIN]}}
    client = daemons(config).client.with_key(ADMIN["key"])
    client.post("/api/v1/keys/file/rotate", {}).error(409, "CONFLICT")
    client.post("/api/v1/keys/nobody/rotate", {}).error(404, "NOT_FOUND")
    make(client, "gone")
    client.request("DELETE", "/api/v1/keys/gone").ok()
    client.post("/api/v1/keys/gone/rotate", {}).error(409, "CONFLICT")
    client.with_key(FILE_KEY).post("/api/v1/keys/file/rotate", {}).error(403, "FORBIDDEN")


def test_an_expired_key_is_refused(daemons):
    client = daemons(ONE).client
    key = make(client, "brief", expiresAt=int(time.time() * 1000) + 600)["key"]
    look(client.with_key(key)).ok()
    wait_until(lambda: look(client.with_key(key)).status == 401, "the key has expired")
    assert look(client.with_key(key)).json["error"] == "API key expired"


# ---- tiers, own team ----


def test_a_tier_is_a_rate(daemons):
    client = daemons(ONE).client
    for tier, limit in (("standard", "100"), ("premium", "1000"), ("enterprise", None)):
        key = make(client, tier, tier=tier)["key"]
        assert look(client.with_key(key)).header("X-RateLimit-Limit") == limit
    both = make(client, "both", tier="premium", rateLimit={"requests": 7, "window": "1m"})["key"]
    assert look(client.with_key(both)).header("X-RateLimit-Limit") == "7"
    client.post("/api/v1/keys", {"name": "x", "scopes": ["teams:read"], "tier": "gold"}).error(400, "INVALID_REQUEST")


def test_a_key_may_speak_for_a_team(daemons):
    daemon = daemons(ONE)
    client = daemon.client
    key = make(client, "agent-of-other", speaksFor="other")["key"]
    client.with_key(key).ask("echo", "from a colleague").ok()
    client.ask("echo", "from outside").ok()
    found = client.history(**{"from": "other"})
    assert [m["message"] for m in found["messages"]] == ["from a colleague"] and found["pagination"]["total"] == 1
    assert found["messages"][0]["to"] == "echo"
    client.post("/api/v1/keys", {"name": "y", "scopes": ["teams:read"], "speaksFor": "nobody"}).error(404)


# ---- Basic and JWT ----


def basic(name, key):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()}


def test_a_key_as_basic_credentials(daemons):
    client = daemons(ONE).client
    key = make(client, "bot")["key"]
    nobody = Client(client.url)
    for name in ("bot", ""):
        nobody.get("/api/v1/teams/echo/status", headers=basic(name, key)).ok()
    nobody.get("/api/v1/teams/echo/status", headers=basic("alice", key)).error(401, "UNAUTHORIZED")
    nobody.get("/api/v1/teams/echo/status", headers=basic("bot", "x" * 40)).error(401, "UNAUTHORIZED")
    for origin, status in ((client.url, 200), ("https://evil.example", 401), ("null", 401)):
        head = {**basic("bot", key), "Origin": origin}
        assert nobody.get("/api/v1/teams/echo/status", headers=head).status == status, origin
    refused = nobody.get("/api/v1/teams/echo/status", headers={"Authorization": "Basic !!!"})
    refused.error(401, "UNAUTHORIZED")
    assert "Bearer" in refused.header("WWW-Authenticate")


@pytest.mark.parametrize("kind, works", [("bearer", "bearer"), ("basic", "basic")])
def test_only_the_configured_kinds_are_taken(daemons, kind, works):
    config = {**ONE, "auth": {"type": kind, "keys": [{"name": "k", "key": FILE_KEY}]}}
    daemon = daemons(config)
    nobody = Client(daemon.url)
    heads = {
        "bearer": {"Authorization": "Bearer " + FILE_KEY},
        "basic": basic("k", FILE_KEY),
    }
    for name, head in heads.items():
        answer = nobody.get("/api/v1/teams/echo/status", headers=head)
        assert answer.status == (200 if name == works else 401), (name, answer)


def test_tokens_with_a_shared_secret(daemons):
    daemon = daemons({**ONE, "auth": {"jwt": {"secret": SECRET, "issuer": "ci", "audience": "muster"}}})
    nobody = Client(daemon.url)
    good = {"iss": "ci", "aud": ["muster", "other"]}
    alice = nobody.with_key(sign(claims(**good)))
    alice.ask("echo", "hello").ok()
    assert daemon.client.history(**{"from": "jwt:alice"})["pagination"]["total"] == 1
    now = int(time.time())
    for name, token in {
        "signature": sign(claims(**good), secret="another secret of thirty-two bytes!!"),
        "expired": sign(claims(**good, exp=now - 3600)),
        "no exp": sign({k: v for k, v in claims(**good).items() if k != "exp"}),
        "not yet": sign(claims(**good, nbf=now + 3600)),
        "issuer": sign(claims(**{**good, "iss": "evil"})),
        "audience": sign(claims(iss="ci", aud="elsewhere")),
        "no subject": sign({k: v for k, v in claims(**good).items() if k != "sub"}),
        "none": sign(claims(**good), "none"),
        "cut": sign(claims(**good))[:-4],
        "garbage": "a.b.c",
        "large": sign(claims(**good, x="y" * 9000)),
    }.items():
        answer = look(nobody.with_key(token))
        assert answer.status in (401, 431), (name, answer)
    look(nobody.with_key(sign(claims(**good, scope="")))).error(403, "FORBIDDEN")
    look(nobody.with_key(sign(claims(**good, scopes=["teams:read"], scope=None)))).ok()
    admin = nobody.with_key(sign(claims(**good, scope="admin:*")))
    admin.get("/api/v1/keys").error(403, "FORBIDDEN")
    narrow = nobody.with_key(sign(claims(**good, teams=["other"])))
    look(narrow).error(403)
    narrow.get("/api/v1/teams/other/status").ok()


@pytest.mark.parametrize(
    "algorithm, make_key",
    [
        ("RS256", ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("ES256", ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ],
)
def test_tokens_with_a_public_key(daemons, tmp_path, algorithm, make_key):
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", *make_key, "-out", str(private)], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True, capture_output=True
    )
    daemon = daemons({**ONE, "auth": {"jwt": {"public_key": str(public)}}})
    nobody = Client(daemon.url)
    look(nobody.with_key(sign(claims(), algorithm, key_file=private))).ok()
    forged = sign(claims(), "HS256", secret=public.read_text())
    look(nobody.with_key(forged)).error(401, "UNAUTHORIZED")


# ---- rates over restarts ----


@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket"])
@pytest.mark.parametrize("end", ["kill9", "stop"])
def test_a_spent_rate_stays_spent_over_a_restart(daemons, algorithm, end):
    rate = {"requests": 5, "window": "1h", "algorithm": algorithm}
    keys = [{"name": "k", "key": FILE_KEY, "rate_limit": rate}, ADMIN]
    daemon = daemons({**ONE, "auth": {"keys": keys}})
    limited = Client(daemon.url, FILE_KEY)
    answers = [look(limited) for _ in range(7)]
    assert [a.status for a in answers] == [200] * 5 + [429] * 2
    reset = answers[-1].header("X-RateLimit-Reset")
    # The refusal has it written; the write is over when a submit that came after it is confirmed.
    daemon.client.with_key(ADMIN["key"]).execute("echo", "behind it").ok(202)
    getattr(daemon, end)()
    daemon.start()
    again = look(Client(daemon.url, FILE_KEY))
    again.error(429, "RATE_LIMITED")
    if algorithm == "sliding_window":
        assert again.header("X-RateLimit-Reset") == reset


def test_a_stop_loses_no_count(daemons):
    keys = [
        {"name": "k", "key": FILE_KEY, "rate_limit": {"requests": 50, "window": "1h"}},
    ]
    daemon = daemons({**ONE, "auth": {"keys": keys}})
    for _ in range(10):
        left = look(Client(daemon.url, FILE_KEY)).header("X-RateLimit-Remaining")
    assert left == "40"
    daemon.stop()
    daemon.start()
    assert look(Client(daemon.url, FILE_KEY)).header("X-RateLimit-Remaining") == "39"


def test_the_command_line_goes_on_when_its_own_key_is_rotated(daemons):
    daemon = daemons(ONE)
    own = {"MUSTER_URL": None, "MUSTER_API_KEY": None}
    before = daemon.key
    made = daemon.cli("key", "rotate", "admin", "--data", str(daemon.data), env=own)
    assert made.returncode == 0, made
    assert daemon.key == made.stdout.split()[0] != before
    assert (daemon.data / "admin.key").stat().st_mode & 0o777 == 0o600
    assert daemon.cli("status", "--data", str(daemon.data), env=own).returncode == 0
    look(daemon.client.with_key(before)).error(401, "UNAUTHORIZED")
    daemon.client.post("/api/v1/keys", {"name": "x", "scopes": ["admin:*"]}).ok(201)
    daemon.client.post("/api/v1/keys/x/rotate", {}).ok()
    assert daemon.key == made.stdout.split()[0], "another key's rotation is not its business"
