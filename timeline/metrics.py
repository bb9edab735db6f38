"""Every metric, in this one file: its name, its labels, and what to do when it looks wrong.

No label ever holds a user, a tweet or a key: each has a handful of values. Rates, errors and durations come as one
histogram a subject (its count is the rate), with `outcome` telling errors. Two lags, never mixed: consumer lag in
messages, delivery lag in seconds.
Keep the child objects (`X.labels(...)`) where a call is hot: looking one up costs three times the increment.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LAGS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)

HTTP_SECONDS = Histogram(
    "timeline_http_seconds",
    "Requests by route and status. Slow or 5xx: look at timeline_engine_call_seconds for the engine behind it.",
    ["method", "route", "status"],
    buckets=_FAST,
)
ENGINE_CALL_SECONDS = Histogram(
    "timeline_engine_call_seconds",
    "Calls to cassandra, redis, kafka by operation and outcome (ok, timeout, unavailable, refused, error). "
    "Errors: that engine is down or overloaded; `timeline local status`, or your operator's console, says which node.",
    ["engine", "operation", "outcome"],
    buckets=_FAST,
)
CONSUMER_LAG_MESSAGES = Gauge(
    "timeline_consumer_lag_messages",
    "Messages between the committed offset and the end, by topic and partition. Growing: fan-out is slower than posting, or paused.",
    ["topic", "partition"],
)
DELIVERY_LAG_SECONDS = Histogram(
    "timeline_delivery_lag_seconds",
    "From a tweet's creation to the acknowledged write to its last follower. Above 5 s breaks the promise: see the consumer lag.",
    buckets=_LAGS,
)
PAUSED = Gauge(
    "timeline_worker_paused",
    "1 while a worker (fanout, relay) waits for an engine that is away. It goes on by itself; the log names the engine's error.",
    ["worker"],
)
DELIVERIES = Counter("timeline_deliveries_total", "Entries appended to timelines that exist.")
PUSHES = Counter("timeline_pushes_total", "Entries sent to followers, whether or not their timeline exists.")
DEAD_LETTERS = Counter(
    "timeline_dead_letters_total",
    "Events that can never succeed, by topic. Any: read the dead-letter topic.",
    ["topic"],
)
PRODUCED = Counter(
    "timeline_produced_total",
    "Events handed to Kafka by outcome (ok, failed, left): left and failed ones are the relay's.",
    ["outcome"],
)
RELAYED = Counter(
    "timeline_relayed_total", "Outbox rows that the relay produced. Steadily above 0: producers fail beside the answer."
)
OUTBOX_AGE_SECONDS = Gauge(
    "timeline_outbox_age_seconds",
    "Age of the oldest outbox row that is being relayed now; 0 when none is. Growing: Kafka takes no events.",
)
CACHE_READS = Counter(
    "timeline_cache_reads_total",
    "Look-ups by record (home, profile, reader, marks, post, state, author) and result (hit, miss).",
    ["record", "result"],
)
REBUILDS = Counter(
    "timeline_rebuilds_total",
    "Timelines rebuilt from the store, by result (installed, lost, refused, failed).",
    ["result"],
)
PAGES = Counter(
    "timeline_pages_total", "Pages served by kind (home, profile) and source (cache, store, mixed).", ["kind", "source"]
)
DEGRADED_PAGES = Counter("timeline_degraded_pages_total", "Pages that may lack something, by cause.", ["cause"])
TRIMS = Counter("timeline_trims_total", "Timelines cut back to their cap.")
LEASE_LOSSES = Counter(
    "timeline_worker_lease_losses_total", "Times a worker number was lost: no ids until another is leased."
)
