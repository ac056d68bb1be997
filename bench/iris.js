// SPDX-License-Identifier: MPL-2.0
// The stack that the iris document describes, as a peer: Express, SHA-256 keys, scopes, a sliding window in redis.
//   node iris.js PORT REDIS_PORT null      its queue does nothing: the stack's best case
//   node iris.js PORT REDIS_PORT bullmq    its queue is BullMQ on the same redis
//   node iris.js PORT 0 sse                an event stream with many readers: POST /publish sends one event to all
const crypto = require("crypto");
const express = require("express");

const [port, redisPort, mode] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];
const hash = (text) => crypto.createHash("sha256").update(text).digest("hex");
const keys = new Map([[hash(process.env.BENCH_KEY || ""), {
  name: "bench", scopes: ["teams:read", "messages:write"], rateLimit: { requests: 1e9, window: 60000 },
}]]);
const app = express();
app.disable("x-powered-by");
app.disable("etag");
app.use(express.json());

function authenticate(req, res, next) {
  const header = req.headers.authorization || "";
  const key = header.startsWith("Bearer ") && keys.get(hash(header.substring(7)));
  if (!key) return res.status(401).json({ error: "Invalid API key" });
  req.apiKey = key;
  return next();
}

const requireScopes = (...scopes) => (req, res, next) =>
  scopes.every((scope) => req.apiKey.scopes.includes(scope)) ? next() : res.status(403).json({ error: "Forbidden" });

function limiter(redis) {
  return async (req, res, next) => {
    const { requests, window } = req.apiKey.rateLimit;
    const name = `ratelimit:${req.apiKey.name}`;
    const now = Date.now();
    await redis.zremrangebyscore(name, 0, now - window);
    const count = await redis.zcard(name);
    if (count >= requests) return res.status(429).json({ error: "Rate limit exceeded" });
    await redis.zadd(name, now, `${now}-${Math.random()}`);
    await redis.expire(name, Math.ceil(window / 1000));
    res.set("X-RateLimit-Limit", String(requests));
    res.set("X-RateLimit-Remaining", String(requests - count - 1));
    res.set("X-RateLimit-Reset", String(Math.ceil((now + window) / 1000)));
    return next();
  };
}

function serveExecute() {
  const connection = { host: "127.0.0.1", port: redisPort, maxRetriesPerRequest: null };
  const Redis = require("ioredis");
  const queue = mode === "bullmq" ? new (require("bullmq").Queue)("jobs", { connection }) : null;
  const enqueue = async (job) =>
    queue ? (await queue.add("execute", job)).id : `job_${Date.now()}_${Math.random().toString(36).slice(2)}`;
  app.post("/api/v1/teams/:team/execute", authenticate, requireScopes("teams:read", "messages:write"),
    limiter(new Redis(connection)), async (req, res) => {
      const { task, priority, callback } = req.body;
      const jobId = await enqueue({ team: req.params.team, message: task, priority, callback });
      res.status(202).json({ jobId, team: req.params.team, status: "queued", estimatedCompletion: Date.now() });
    });
}

function serveStream() {
  const readers = new Set();
  app.get("/stream", authenticate, (req, res) => {
    res.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
    res.write(": here\n\n");
    readers.add(res);
    req.on("close", () => readers.delete(res));
  });
}

if (mode === "sse") serveStream();
else serveExecute();
app.listen(port, "127.0.0.1");
