"""Every limit, with its name, its unit last, and its reason. Relations between them are asserted when one is made.

Tests shrink them: `TIMELINE_LIMITS='{"timeline_entries_max": 8}'`.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTICE_SECONDS = 30 * 86_400  # an interval is kept this long after its end; the tables' TTL


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of everything that could grow. Defaults are for production."""

    # What a person may send
    tweet_weight_max: int = 280  # Twitter's own; counted by its weights, not by characters
    media_max: int = 4  # pictures beside a tweet
    name_characters_max: int = 50
    body_bytes_max: int = 65_536  # a URL weighs 23 however long it is; this is where API.md draws the line
    body_read_seconds: int = 10  # whoever sends a body more slowly holds a connection for nothing
    header_bytes_max: int = 8_190  # a line or a field; a JWT with a large set of claims is 4 KB
    faults_max: int = 32  # bad members named in one answer: a body of 64 KiB could hold thousands
    keepalive_seconds: int = (
        75  # above the 60 s of common load balancers, so that it is they who close idle connections
    )
    idempotency_key_characters_max: int = 64
    request_id_characters_max: int = 128  # a UUID is 36, a trace parent 55; it goes into every log line
    page_default: int = 20
    page_max: int = 100
    ids_per_request_max: int = 100  # GET /api/tweet?ids=
    ancestors_max: int = 50
    followees_max: int = 10_000  # a reader's context is read with every page: 16 bytes each, so 160 KB
    relations_max: int = 10_000  # blocks, and mutes, of one user: part of the same context
    idempotency_key_seconds: int = 86_400  # kept a day: a client's retries end long before

    # Timelines in Redis
    timeline_entries_max: int = 800  # Twitter's own cap; 21 KB; older pages come from the store
    timeline_slack: int = 200  # trimmed only when a quarter over, so that a trim is one write in 200
    timeline_seconds: int = 7 * 86_400  # renewed by reads alone: who stays away a week costs no memory
    profile_entries_max: int = 800
    tail_entries: int = 100  # of a first read: four pages of 20 with room for what rules drop; 2.4 KB
    post_seconds: int = 86_400  # most reads of a tweet are of its first day
    state_seconds: int = 60  # counts may be this old
    author_seconds: int = 60  # a changed name or picture shows within this
    reader_lease_seconds: int = 30  # how long a reader's context is believed without asking the store
    building_seconds: int = 30  # a builder that died frees its reader's timeline after this

    timeline_built_seconds_max: int = 14 * 86_400  # an older list is rebuilt: notices from before it need not be kept
    stale_authors_max: int = (
        20  # pulled only since the list is older than what was decided about them: more, and it is rebuilt
    )

    # Time
    late_after_ms: int = 10_000  # W: entries arrive within this of their id's time, or are marked as late
    clock_skew_ms: int = 5_000  # servers' clocks differ by less; an event further ahead is poison
    retweet_window_ms: int = 6 * 3_600_000  # the same tweet is shown once within six hours
    worker_lease_ms: int = 30_000  # a worker number is held this long past its last renewal
    clock_step_wait_ms: int = 1_000  # a clock stepping back by less is waited for, by more refused

    # What every process must know of the whole (domain/notices.py)
    notices_refresh_ms: int = 2_000  # a few rows, read by every process: 0.5 queries a second each
    notices_lease_ms: int = 10_000  # how long they are believed without the store: some failed readings in a row
    notices_max: int = 100_000  # rows of each kind, 2 MB: accounts above the threshold are far fewer
    fresh_follow_ms: int = 300_000  # M: whom one began to follow later than this before the list was built is pulled
    replication_check_ms: int = (
        500  # each primary is asked for its replication id: well below the time that a failover takes
    )
    fill_within_ms: int = (
        10_000  # of a cache, after its reading of the store: later, a deletion's record may have expired
    )

    # Reading from the store
    pull_authors_per_query: int = 25  # measured: IN of 25 answers 200 authors in 11 ms, a query each in 54
    pull_rows_per_author: int = 20
    pull_queries_in_flight: int = 16  # beyond 16 to 32 a process only the tail grows
    counts_max: int = 10_000  # rows read for one number of a profile, 10 ms: a page has three of each of 100 users
    refill_rounds_max: int = 8  # stretches of a page that rules emptied; then it is short
    hydrations_max: int = 12  # of one page: a cheap request must not hold a worker over a list that rules hide
    hydrate_entries: int = 50  # looked up at once where rules hide more than they show
    rebuild_stretches_max: int = (
        64  # an author with thousands of deleted tweets is given up on: the floor is then higher
    )
    rebuilds_in_flight: int = 64  # a process's share; a node coming back must not flood the store
    rebuilds_per_second: int = 50  # of a process: a failover makes every list of a node untrusted at one moment
    pulled_lists_max: int = 1_000  # lists read for one page, 0.5 MB; whoever is pulled beyond is read from the store
    cursor_seen_max: int = (
        64  # ids of the last seconds in a newer cursor, 8 bytes each; beyond, the next answer says reset
    )
    fills_in_flight: int = 256  # background fills of caches; beyond, a fill is left out

    # Writing, and what goes on beside it
    authors_remembered_max: int = 100_000  # of tweets by id, which most replies and retweets ask for: 17 MiB
    outbox_shards: int = 64  # so that no partition of ten seconds nears 100,000 tombstones at 30,000 tweets/s
    outbox_bucket_ms: int = 10_000
    outbox_seconds: int = 7 * 86_400  # longer than any outage of Kafka that anybody will sit through
    event_topic_seconds: int = 7 * 86_400  # in Kafka: its outbox row is gone by then, and fan-out may be down
    relay_after_ms: int = 2_000  # younger rows are still being produced by the process that wrote them
    relay_resweep_seconds: int = 3 * 3_600  # hints and batch logs deliver late, up to Cassandra's hint window
    relay_slots_per_second: int = 10  # of each sweep but the live one: looking at empty shards must not cost a core
    relay_rows_in_flight: int = 64  # rewritten, produced, cleared at once; an hour's backlog must not flood the store
    produces_in_flight: int = 10_000  # beyond, a tweet's event is left to the relay
    clears_in_flight: int = (
        16  # queries that clear outbox rows, beside the answers; they are not to crowd out the writes
    )
    clears_per_query: int = 50  # a batch of deletes is far below what Cassandra warns of
    clears_gather_ms: int = 50  # rows gathered before a query: one each costs as much as the tweet itself does
    follower_shard_size: int = 5_000  # followers per partition: a page, and a slice of a large fan-out
    load_rows_in_flight: int = 64  # of `timeline load`: twice what Cassandra is asked at once, so that it is never idle
    load_retry_seconds: int = 120  # an engine that restarts is back in 30; one that is gone should be said

    # Fan-out
    fanout_batch_events: int = 500
    fanout_followers_page: int = (
        6_000  # a whole shard, which overshoots by some 60; a killed worker repeats one at most
    )
    fanout_bytes_in_flight: int = 8 * 1024 * 1024  # of commands not yet answered, per Redis node
    fanout_batches_in_flight: int = (
        16  # most wait for the store or for Redis: with four, Redis was idle a fifth of the time
    )
    fanout_gather_ms: int = (
        20  # after a batch that was not full, before the next is taken: one of one event costs as much as one of ten
    )
    fanout_slices_in_flight: int = 2  # beside batches; more would only hold up small authors on the same core
    slice_piece: int = 1_000  # appends of a slice sent at once where tweets came just now: each waits behind that many
    slice_quiet_ms: int = (
        100  # without tweets for so long, a slice goes as fast as it can: small pieces cost half as much again
    )
    slice_waits_ms: int = 10  # for tweets under way, before each piece: a slice is slower then, and never stands still
    fanout_left_appends_max: int = (
        200_000  # of one batch, tried and not taken, 2 MB: then it waits before it tries more
    )
    fanout_parked_events_max: int = (
        200_000  # of batches that wait for a Redis node that is away, beside those that go on: some 200 MB
    )
    fanout_parked_appends_max: int = (
        2_000_000  # of these, 16 MB of ids: at 10,000 deliveries/s to it what comes in 200 s
    )
    fanout_appends_per_push: int = 20_000  # 2 MB of commands: large enough to fill every node's pipe, small to repeat
    follower_cache_ms: int = (
        240_000  # how old a cached follower list may be when an event is consumed: within M (see there)
    )
    follower_cache_bytes_max: int = 64 * 1024 * 1024
    reclassify_seconds: int = 60  # between two countings of a pulled author's followers, which read up to the threshold
    reclassify_authors_per_second: int = 20  # of `timeline job reclassify`: each costs Cassandra up to 100 ms of a core
    reclassify_authors_in_flight: int = 4  # counted at once by it: fan-out reads followers beside
    pull_until_percent: int = 80  # of the threshold: below, a pulled author is pushed again. Hysteresis
    hole_after_ms: int = (
        1_000  # how long a Redis node is away before a hole is recorded, which everybody then has to learn of
    )
    skip_after_ms: int = 5_000  # how long fan-out waits for a Redis node before it leaves out anything
    hole_ahead_ms: int = 30_000  # a hole is recorded this far ahead, so that one write serves many batches
    retry_pause_max_ms: int = 5_000  # between tries while an engine is away: what comes back is used within this
    poison_in_a_row_max: int = 100  # more than this is our bug, not theirs: the consumer stops

    # Proof that feeds have no holes: `timeline doctor timeline`, `timeline audit`
    audit_grace_ms: int = 60_000  # younger entries are not judged: a killed worker's deliveries come within 45 s
    audit_second_look_ms: int = 10_000  # a difference counts if it is still there: no change is under way for so long
    audit_suspects_max: int = 1_000  # readers waiting for their second look; beyond, nobody new is sampled
    audit_stretches_max: int = 128  # of history for one reader: twice a rebuild's; what lies below is not judged
    audits_per_second_max: int = 50  # of a process: one costs the store what a rebuild costs
    audit_scan_keys: int = 1_000  # keys looked at for one reader who is audited: below 1 ms of a Redis node
    audit_scans_per_second: int = 20  # so at most 2 % of one node, also where few of its keys are timelines
    doctor_second_look_ms: int = 3_000  # somebody is waiting; what is under way has mostly arrived by then

    # Engines
    cassandra_timeout_ms: int = 2_000
    cassandra_connect_ms: int = 15_000  # a process that starts beside its Cassandra waits this long for it
    cassandra_speculative_ms: int = (
        100  # a read that takes longer is asked of a second node too: far above p99 on a sound one
    )
    cassandra_requests_in_flight: int = 32  # beyond 16 to 32 a process only the tail grows
    cassandra_requests_waiting_max: int = 4_000  # for one of those; beyond, a request is refused at once
    redis_timeout_ms: int = 1_000
    redis_commands_in_flight: int = 10_000  # per node; beyond, a command is refused at once
    redis_bytes_in_flight: int = (
        64 * 1024 * 1024
    )  # per node, of such commands; a large value must not multiply by 10,000
    redis_redirects_max: int = 5  # MOVED and ASK followed for one command; a sound cluster needs one
    redis_backoff_max_ms: int = 1_000  # between tries to reach a node: one that is back is used within this
    redis_topology_seconds: int = 30  # the map of slots is asked again this often, even if nobody complained
    redis_open_ms: int = 10_000  # a process that starts beside its Redis waits this long for it
    redis_trims_in_flight: int = 1_024  # lists cut at once by a process: 5 commands each, half of what a node may have
    redis_trims_per_round: int = 256  # of these, those of one node that leave together: 200 entries each, 1.2 MB
    kafka_delivery_timeout_ms: int = 30_000
    kafka_buffer_events: int = (
        2_000  # consumed and not yet taken, beside the batches under way; when full, partitions are paused
    )
    kafka_commit_interval_ms: int = 500  # what a killed worker repeats is at most this old
    kafka_revoke_wait_ms: int = 5_000  # for batches under way on partitions that go to another worker
    kafka_rejoin_seconds: int = 60  # a killed worker's name is free again after the broker's session timeout (45 s)
    consumer_lag_seconds: int = 5  # how often the lag is asked for
    dead_letter_stack_bytes_max: int = 4_096  # the innermost frames tell the reason
    dead_letters_read_seconds: int = 600  # of one dead-letter topic: some ten million letters
    dead_letters_at_once: int = 100  # produced again, then marked: what a retry that is killed repeats
    drain_seconds: int = 20  # of SIGTERM; Kubernetes kills after 30
    startup_wait_seconds: int = (
        60  # for engines that start beside us: Cassandra is ready 7 s after its start, 30 on a busy machine
    )
    readiness_check_ms: int = 900  # one check of one engine: below the second after which most probes give up

    @property
    def push_timeout_ms(self) -> int:
        """How long a push that is not marked as late may take, until it was acknowledged: its turn among the bytes in flight, the
        commands, and once more those that were refused."""
        return 2 * self.redis_timeout_ms

    @property
    def trim_entries_max(self) -> int:
        """How much is read of one list at once to be cut: all that is over as soon as anything is cut, with room for what a few pushes
        at once add. 10 KB; redis_trims_in_flight of them are 10 MB on the wire, and 30 MB as Python's objects."""
        return 2 * self.timeline_slack

    @property
    def notices_margin_ms(self) -> int:
        """After an interval's end: how long some worker may have gone on as if it stood, by whatever clock."""
        return self.notices_lease_ms + self.cassandra_timeout_ms + 2 * self.clock_skew_ms

    def __post_init__(self) -> None:
        """A relation that does not hold is a ValueError, before anything starts."""
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"limit {name} must be at least 1")
        for holds, why in (
            (self.page_default <= self.page_max, "page_default is above page_max"),
            (self.timeline_slack <= self.timeline_entries_max, "a trim would drop more than a timeline"),
            (
                self.redis_trims_per_round <= self.redis_trims_in_flight,
                "trims that leave together would wait for each other for ever",
            ),
            (self.push_timeout_ms < self.late_after_ms, "a push could arrive late without being marked"),
            (self.clock_skew_ms < self.late_after_ms, "skewed clocks alone would make entries late"),
            (
                self.relay_after_ms < self.relay_resweep_seconds * 1000,
                "the second sweep would run before the first",
            ),
            (self.relay_resweep_seconds < self.outbox_seconds, "rows would expire before the second sweep"),
            (self.event_topic_seconds >= self.outbox_seconds, "Kafka would forget an event sooner than the outbox"),
            (self.notices_refresh_ms < self.notices_lease_ms, "notices would lapse between two readings"),
            (
                self.follower_cache_ms + self.reader_lease_seconds * 1000 + 2 * self.clock_skew_ms
                <= self.fresh_follow_ms,
                "a cached list of followers could lack somebody whom no reader pulls",
            ),
            (
                self.fill_within_ms + self.redis_timeout_ms < self.state_seconds * 1000,
                "a fill could outlast the record of a deletion",
            ),
            (
                self.timeline_built_seconds_max * 1000 + self.notices_margin_ms < NOTICE_SECONDS * 1000,
                "notices would be forgotten while lists depend on them",
            ),
            (self.cursor_seen_max <= 255, "a cursor has no room for so many ids"),
            (self.hole_after_ms <= self.skip_after_ms, "a delivery could be left out before its hole is recorded"),
            (self.pull_until_percent <= 100, "an author could be pulled and pushed by turns"),
            (
                self.audit_second_look_ms < self.reader_lease_seconds * 1000,
                "a stale context would have lapsed when the audit looks again",
            ),
            (self.pull_authors_per_query <= 100, "Scylla refuses more than 100 partitions in one IN"),
            (self.pull_queries_in_flight <= 32, "more in flight a process lengthens only the tail"),
        ):
            if not holds:
                raise ValueError(f"limits: {why}")


LIMITS = Limits()
