"""Redis fails over under load, twice, to a replica that lacks what was written last: and on the next read of anyone nothing is
missing, nothing deleted is seen again, and nothing of anybody blocked or left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_base_port
from tests.e2e.inside import messages_behind
from tests.e2e.readers import HOME, positions, read_page
from tests.faults.crowd import Acknowledged, Client, Load
from tests.faults.pairs import FIRST_PAIR, Lost, Pairs, lost, on_first_pair
from tests.stack import Stack, running, until
from timeline.cache.keys import slot_of
from timeline.local import Topology, open_engines

REBUILDS_PER_SECOND, REBUILDS_IN_FLIGHT = 4, 4
# A follow is fresh for little more than a reader's lease: or everybody would be pulled, and what a failover takes from a home would
# not matter. That lease is longer than a failover: or a context that one brings back would have lapsed. One machine has one clock.
FRESH_FOLLOW_MS = 15_400
LIMITS = {
    "clock_skew_ms": 100,
    "reader_lease_seconds": 15,
    "follower_cache_ms": 100,
    "fresh_follow_ms": FRESH_FOLLOW_MS,
    "rebuilds_per_second": REBUILDS_PER_SECOND,
    "rebuilds_in_flight": REBUILDS_IN_FLIGHT,
    # production's times for people who wait; the machine may be busy
    "redis_timeout_ms": 1_000,
    "cassandra_timeout_ms": 5_000,
}
AUTHORS, READERS = 10, 40
WANTED_DELETIONS, WANTED_POSTS, DOOMED = 5, 30, 4  # acknowledged while the replica lags
SETTLED_SECONDS = 90


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    topology = Topology(free_base_port(), redis_replicas=1, cassandra_heap_mb=768)
    with open_engines(tmp_path_factory.mktemp("pairs"), topology) as control:
        made = Pairs(control)
        yield made
        made.close()


def rebuilds(stack: Stack, result: str) -> float:
    start = f'timeline_rebuilds_total{{result="{result}"}}'
    lines = [line for line in stack.metrics("api").splitlines() if line.startswith(start)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def admitted(stack: Stack) -> float:
    return sum(rebuilds(stack, result) for result in ("installed", "reinstalled", "failed"))


class Witness:
    """An author and readers of whom nobody of the load knows: what the replica lacks of them, it lacks for certain."""

    def __init__(self, client: Client, author: int, readers: list[int], prefix: str) -> None:
        self._client, self._author, self._readers, self._prefix = client, author, readers, prefix
        self._doomed: list[int] = []

    def prepare(self) -> None:
        """Tweets whose state stands on the first pair, and readers' contexts, are cached."""
        self._doomed = []
        while len(self._doomed) < DOOMED:
            tweet = self._client.post(self._author)
            if slot_of(f"{self._prefix}state:{tweet}".encode()) in FIRST_PAIR:
                self._doomed.append(tweet)
        until(self._are_cached, SETTLED_SECONDS, "the tweets are in the readers' homes")

    def _are_cached(self) -> bool:
        pages = [self._client.read(reader, 50) for reader in self._readers]
        return all(page is not None and set(self._doomed) <= set(positions(page)) for page in pages)

    def act(self) -> None:
        """Delete them; one more reader has enough."""
        for tweet in self._doomed:
            self._client.delete(tweet, self._author)
        self._client.block(self._readers.pop(), self._author)


def fail_over(pairs: Pairs, primary: str, known: Acknowledged, witness: Witness, prefix: str) -> Lost:
    """Its replica stands still while much is acknowledged, then it is killed with writes in flight, and the replica takes over."""
    replica = pairs.partner(primary)
    witness.prepare()
    pairs.until_copied(replica)
    with pairs.lagging(replica):
        start = known.counts.copy()
        witness.act()
        until(
            lambda: (
                known.counts["deletions"] - start["deletions"] >= DOOMED + WANTED_DELETIONS
                and known.counts["posts"] - start["posts"] >= WANTED_POSTS
            ),
            SETTLED_SECONDS,
            "enough is acknowledged that the replica lacks",
        )
        before = pairs.keys(primary, prefix)
        pairs.end(primary, "killed")
    pairs.until_primary(replica)
    after = pairs.keys(replica, prefix)
    return lost(before, after)


@pytest.mark.timeout(900)
def test_nothing_is_missing_and_nothing_comes_back_when_redis_fails_over_twice(pairs: Pairs, tmp_path: Path) -> None:
    """A primary is killed under load, and then the one that took over, so that the first is primary again."""
    on_pair = [user for user in range(1_000, 2_000) if on_first_pair(user)]
    authors, readers = on_pair[:AUTHORS], on_pair[AUTHORS : AUTHORS + READERS]
    witnesses, apart = on_pair[-5:-1], on_pair[-1]
    settings = {"TIMELINE_LIMITS": json.dumps(LIMITS)}
    with running(pairs.control.env, tmp_path, "api", "fanout", "relay", **settings) as stack:
        known = Acknowledged()
        client = Client(stack, known)
        for user in (*authors, *readers, *witnesses, apart):
            client.sign_up(user)
        for reader in (*readers, *witnesses):
            for author in (*authors, apart):
                client.follow(reader, author)
        followed = time.monotonic()
        fresh = FRESH_FOLLOW_MS / 1000
        until(lambda: time.monotonic() > followed + fresh, fresh + 5, "follows that are fresh no more")
        prefix = stack.settings["TIMELINE_REDIS_KEY_PREFIX"]
        for reader in (*readers, *witnesses):
            until(
                lambda reader=reader: read_page(stack, HOME, reader, 20)["source"] == "cache",  # type: ignore[misc]
                SETTLED_SECONDS,
                "a list of everybody, built at the bounded rate",
            )
        witness = Witness(client, apart, list(witnesses), prefix)
        first, second = pairs.addresses[0], pairs.addresses[3]
        began, built_before = time.monotonic(), admitted(stack)
        with Load(client, authors, readers, seed=1):
            losses = [fail_over(pairs, first, known, witness, prefix)]
            pairs.bring_back(first, "killed")
            losses.append(fail_over(pairs, second, known, witness, prefix))
            pairs.bring_back(second, "killed")
        seconds = time.monotonic() - began
        until(lambda: messages_behind(stack) == 0, SETTLED_SECONDS, "fan-out caught up")
        wrong = [
            what
            for number, reader in enumerate((*readers, *witnesses))
            for what in differences(stack, known, reader, number < 4)
        ]
        built, refused = admitted(stack) - built_before, rebuilds(stack, "refused")
        report = (
            f"lost in the failovers: {losses}\ndone meanwhile: {dict(known.counts)}\nrebuilds: {built:.0f} in {seconds:.0f} s, "
            f"{rebuilds(stack, 'reinstalled'):.0f} of them in the place of a list; refused {refused:.0f}"
        )
        print(f"\n{report}")
        # else nothing was shown
        assert all(one.pushes and one.deletions for one in losses), report
        assert any(one.contexts for one in losses), report  # they expire within 30 s
        assert not known.anomalies, "\n".join([str(dict(known.anomalies)), *known.examples, report])
        assert not wrong, "\n".join([*wrong[:20], report])
        budget = 2 * (
            REBUILDS_PER_SECOND * (time.monotonic() - began) + REBUILDS_IN_FLIGHT
        )  # of homes, and of profiles
        assert built <= budget, report


def differences(stack: Stack, known: Acknowledged, reader: int, closely: bool) -> list[str]:
    """Down by pages of 100; or also of 7 and 1, and up again from the lowest: each is what a recomputation says."""
    wanted = known.oracle.home(reader)
    found = {f"down by {limit}": walk_down(stack, reader, limit) for limit in ((100, 7, 1) if closely else (100,))}
    if closely:
        found["up by 7"] = walk_up(stack, reader, 7)
    return [
        f"home of {reader} {how}: missing {sorted(set(wanted) - set(got))}, extra {sorted(set(got) - set(wanted))}"
        for how, got in found.items()
        if got != wanted
    ]


def walk_down(stack: Stack, reader: int, limit: int) -> list[int]:
    found: list[int] = []
    page = read_page(stack, HOME, reader, limit)
    while True:
        found += positions(page)
        if page["next_cursor"] is None:
            return found
        page = read_page(stack, HOME, reader, limit, page["next_cursor"])


def walk_up(stack: Stack, reader: int, limit: int) -> list[int]:
    """From the lowest page; read again from the top where it cannot be told."""
    page = read_page(stack, HOME, reader, limit)
    while page["next_cursor"] is not None:
        page = read_page(stack, HOME, reader, limit, page["next_cursor"])
    found = positions(page)
    while True:
        page = read_page(stack, HOME, reader, limit, page["newer_cursor"])
        if page["reset"]:
            return walk_down(stack, reader, limit)
        found += positions(page)
        if not page["gap"]:
            return sorted(found, reverse=True)
