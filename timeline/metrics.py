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
    "Requests by route and status. Slow or 5xx: look at timeline_engine_call_seconds for the engine behind it, "
    "and at timeline_store_wait_seconds.",
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
STORE_WAIT_SECONDS = Histogram(
    "timeline_store_wait_seconds",
    "Requests to cassandra that waited for one of cassandra_requests_in_flight; not part of timeline_engine_call_seconds. "
    "Growing: this process asks for more than it gets answered; start more of them, or give Cassandra more cores.",
    buckets=_FAST,
)
CONSUMER_LAG_MESSAGES = Gauge(
    "timeline_consumer_lag_messages",
    "Messages between the committed offset and the end, by topic and partition. Growing: fan-out is slower than posting, or paused.",
    ["topic", "partition"],
)
DELIVERY_LAG_SECONDS = Histogram(
    "timeline_delivery_lag_seconds",
    "From a tweet's creation to the acknowledged write to its last follower: of a whole tweet, or of each slice of a large fan-out "
    "(the slowest slice is that tweet's). Above 5 s breaks the promise: see the consumer lag. High for slices alone: more workers.",
    ["of"],
    buckets=_LAGS,
)
PAUSED = Gauge(
    "timeline_worker_paused",
    "1 while a worker (fanout, relay) waits for an engine that is away. It goes on by itself; the log names the engine's error.",
    ["worker"],
)
DELIVERIES = Counter("timeline_deliveries_total", "Entries appended to timelines that exist.")
PUSHES = Counter("timeline_pushes_total", "Entries sent to followers, whether or not their timeline exists.")
LEFT_OUT = Counter(
    "timeline_left_out_total",
    "What fan-out did not append, by cause: home and profile are appends to lists on a Redis node that stays away, with its hole "
    "recorded (bring it back; its lists are rebuilt on their next reads); pulled are tweets of pulled authors, pulled_slice slices of "
    "authors who have come to be pulled since, both as it should be.",
    ["cause"],
)
PULLED_AUTHORS = Gauge(
    "timeline_pulled_authors",
    "Authors who are pulled at read time, as this process knows them. A jump: somebody changed TIMELINE_PUSH_FOLLOWERS_MAX. "
    "Each makes the reads of their followers a little dearer.",
)
DEAD_LETTERS = Counter(
    "timeline_dead_letters_total",
    "Events that cannot be decoded, by topic. Any: `timeline job dead-letters list` says which, and why; then put it right and "
    "`retry` them, or `drop` them. An event may be there twice: a worker that dies buries again what it had not committed.",
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
    "Look-ups by record (home, profile, reader, marks, post, state, author, followers) and result (hit, miss).",
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
TRIMS = Counter(
    "timeline_trims_total",
    "Cuts of timelines that had grown a quarter above their cap; one that is far above takes several.",
)
LEASE_LOSSES = Counter(
    "timeline_worker_lease_losses_total", "Times a worker number was lost: no ids until another is leased."
)
HOLES_FOUND = Counter(
    "timeline_holes_found_total",
    "What `timeline audit` found wrong with cached timelines, twice, by cause; one that stays is counted again by every pass. Any: "
    "the log line hole_found names the reader, `timeline doctor timeline USER` explains. "
    "push: a delivery is lost, or late: look at timeline_consumer_lag_messages first. "
    "follow: the same soon after a follow: fan-out served from a list of followers older than M. "
    "rebuild: history of that list is not whole: a building raced, or a trim did not raise the floor. "
    "interval: an author's change between pushed and pulled lost something: compare pull_intervals with the workers' clocks. "
    "profile: the own list of a pulled author lacks a tweet: look for Redis errors of fan-out. "
    "late: a late delivery was not marked: look at the clocks of workers. "
    "context: a changed follow, block or mute does not hold: look for errors of that user's Redis node at the time. "
    "deletion: a deleted tweet is shown, or one that is not is hidden: as above, of the tweet's node. "
    "altered, phantom: an entry of another release, or written by hand: delete that list, it is rebuilt. "
    "unlisted: the store itself lost a row of tweet_buckets: repair it there.",
    ["cause"],
)
AUDITED = Counter(
    "timeline_audited_total",
    "Readers audited by result: clean; holes; healed (a difference was gone at the second look); "
    "untrusted (the list awaits its rebuild); gone (no list any more); "
    "failed (an engine did not answer: see timeline_engine_call_seconds). "
    "Not growing: the audit is stuck. Mostly failed: it proves nothing.",
    ["result"],
)
AUDIT_PASS_TIMESTAMP_SECONDS = Gauge(
    "timeline_audit_pass_timestamp_seconds",
    "When a pass over all Redis primaries last ended, Unix time; 0 before the first. Long ago: a primary does not answer, or "
    "--per-second is low for so many readers.",
)
AUDIT_PASS_READERS = Gauge("timeline_audit_pass_readers", "Readers audited in the last whole pass.")
NOTICES_AGE_SECONDS = Gauge(
    "timeline_notices_age_seconds",
    "Since the store was last asked who is pulled and where holes are. Above notices_lease_ms (10 s): lists are not trusted, and "
    "nothing is skipped; see to Cassandra.",
)
