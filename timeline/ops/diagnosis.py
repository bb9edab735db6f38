"""A comparison in words, for somebody who did not write any of this: what is cached, what differs, why most likely, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby

from timeline.assembly.compare import Cause, Comparison, Difference, Distrust, Pull, What, Why
from timeline.assembly.ports import ListView
from timeline.domain.ids import time_ms
from timeline.domain.limits import Limits
from timeline.domain.records import ListKind

KeyOf = Callable[[ListKind, int], str]
_IDS_SHOWN = 3  # of many tweets of one author that differ in the same way
_AUTHORS_SHOWN = 10  # of the pulled
_GROUPS_SHOWN = 20  # of the differences; the rest is counted

_LIKELY = {
    Cause.push: (
        "fan-out's delivery did not reach this list, or the list lost it",
        "if timeline_consumer_lag_messages is above 0, wait for fan-out; else look in its log at that time",
    ),
    Cause.follow: (
        "the tweet came soon after the follow: fan-out used a list of followers from before the follow",
        "compare the clocks of the fan-out workers with Cassandra's",
    ),
    Cause.rebuild: (
        "the tweet is older than the list: history was not whole when the list was built, or a trim cut it without raising the floor",
        "look at timeline_rebuilds_total and the log of the api at the time when the list was built",
    ),
    Cause.interval: (
        "its author was pulled for a time, and the list is held to be from after that",
        "compare the author's rows in pull_intervals with when the list was built, and the workers' clocks",
    ),
    Cause.profile: (
        "its author is pulled, and the author's own list (profile:) lacks it",
        "look in fan-out's log for errors of that Redis node",
    ),
    Cause.late: (
        "it came more than W after its time without being marked: a first page that begins with it lacks what came before it",
        "compare the clocks of the fan-out workers and of the api",
    ),
    Cause.context: (
        "a change did not reach the cached context (reader:)",
        "it lapses by itself within {limits.reader_lease_seconds} s; look in the api's log for errors of this user's Redis node",
    ),
    Cause.deletion: (
        "the cached state of the tweet (state:) is not what is stored",
        "it lapses by itself within {limits.state_seconds} s; look in the api's log for errors of that Redis node",
    ),
    Cause.altered: (
        "an entry of another release, or written by hand",
        "heal it as told below",
    ),
    Cause.phantom: (
        "the tweet was erased, or never stored, or the entry was written by hand: reads leave it out",
        "nothing if the account was erased; else heal it as told below",
    ),
    Cause.unlisted: (
        "the store lost the tweet's row in tweet_buckets: once the list is rebuilt, the tweet is gone from it",
        "repair tweet_buckets in Cassandra (nodetool repair)",
    ),
    Cause.untrusted: (
        "the list is known to be wanting (see above)",
        "nothing: the next read replaces the list",
    ),
}
_WHAT = {
    What.missing: "missing from the cached timeline, while the store has {it}",
    What.extra: "in the cached timeline, while the store does not list {it}",
    What.altered: "in the cached timeline with another author or reference than in the store",
    What.shown: "deleted, but cached as not deleted: readers may see {it}",
    What.hidden: "cached as deleted, but not deleted: readers do not see {it}",
    What.unmarked: "late and not marked as late",
}
_COLUMNS = {
    "followees": "that this reader follows user {user}",
    "blocked": "that this reader blocks user {user}",
    "blocked_by": "that user {user} blocks this reader",
    "muted": "that this reader mutes user {user}",
    "since_ms": "another time for the follow of user {user}",
}


def lines_of(found: Comparison, limits: Limits, key_of: KeyOf) -> Iterator[str]:
    """The whole account. `key_of`: how Redis calls a list."""
    look = found.look
    yield f"Home timeline of user {look.user_id}, caches against the store, {_utc(look.at_ms)}"
    yield ""
    yield from _list(found, limits)
    yield from _context(found)
    if look.home is not None and not look.home.header.building:
        yield from _pulled(look.pulled, found)
        yield from _compared(found, limits)
    yield ""
    yield from _differences(found, limits)
    yield from _healing(found, key_of)


def summary_of(differences: Iterable[Difference]) -> dict[str, int]:
    """How many there are of each cause."""
    return dict(Counter(each.cause.value for each in differences))


def _list(found: Comparison, limits: Limits) -> Iterator[str]:
    home, at_ms = found.look.home, found.look.at_ms
    if home is None:
        yield _row("List", "none in Redis: the next read builds it from the store")
        return
    header = home.header
    if header.building:
        yield _row("List", f"being built just now, {len(home.entries)} entries arrived meanwhile: ask again")
        return
    left_out = f" ({found.left_out} by people not followed now: reads leave them out)" if found.left_out else ""
    yield _row("List", f"{_many(len(home.entries), 'entry', 'entries')} in Redis{left_out}")
    yield _row("  built", f"{_ago(header.built_ms, at_ms)}, epoch {header.epoch}")
    yield _row("  reaches down", _down_to(header.floor))
    yield _row("  trusted", _trust(found.distrust, home, found, limits))
    late = f"newest {_ago(header.late_ms, at_ms)}" if header.late else "none"
    yield _row("  late arrivals", late)


def _trust(distrust: Distrust | None, home: ListView, found: Comparison, limits: Limits) -> str:
    if distrust is None:
        return f"yes: on the primary that it was built on, and slot {home.slot} has had no holes since"
    if distrust is Distrust.unknown:
        return "NO: which primary it is on, or was built on, is not known. Pages say so (degraded) until its node tells"
    if distrust is Distrust.primary:
        why = "its Redis node has failed over since it was built, and may have lost deliveries"
    elif distrust is Distrust.hole:
        until_ms = int(found.look.notices.dirty_until_ms[home.slot])
        why = (
            f"while a node was away, deliveries to slot {home.slot} were left out, the last time until {_utc(until_ms)}"
        )
    else:
        why = f"it is older than {_duration(limits.timeline_built_seconds_max * 1000)}"
    return f"NO: {why}. The next read replaces it"


def _context(found: Comparison) -> Iterator[str]:
    cached, stored = found.look.context, found.look.reader
    said = (
        f"follows {len(stored.followees)}, blocks {len(stored.blocked)}, blocked by {len(stored.blocked_by)}, "
        f"mutes {len(stored.muted)}"
    )
    if cached is None:
        yield _row("Reader context", f"not cached, reads ask the store: {said}")
    elif not any(each.cause is Cause.context for each in found.differences):
        yield _row("Reader context", f"cached, and as stored: {said}")
    else:
        yield _row("Reader context", f"cached, NOT as stored ({said})")
        hides = _many(found.hides, "entry", "entries")
        yield _row("", f"it hides {hides} that should be shown, and shows {found.shows} that should be hidden")
    if not len(stored.followees) and found.look.home is None:
        yield _row("", "follows nobody: is this the id of the user that you mean?")


def _pulled(pulled: Sequence[Pull], found: Comparison) -> Iterator[str]:
    yield _row("Pulled authors", f"{len(pulled)}, read beside the list" if pulled else "none")
    for pull in pulled[:_AUTHORS_SHOWN]:
        view = found.look.profiles.get(pull.author_id)
        source = "no list of their own, so from the store" if view is None else f"own list of {len(view.entries)}"
        yield _row("", f"{pull.author_id}: {_why(pull)}; {source}")
    if len(pulled) > _AUTHORS_SHOWN:
        yield _row("", f"and {len(pulled) - _AUTHORS_SHOWN} more")


def _why(pull: Pull) -> str:
    at = _utc(pull.at_ms)
    return {
        Why.stands: f"too many followers to push to, since {at}",
        Why.ended: f"was not pushed until {at}, and the list is from before",
        Why.follow: f"followed at {at}, about when the list was built or since",
    }[pull.why]


def _compared(found: Comparison, limits: Limits) -> Iterator[str]:
    down = (
        ""
        if found.look.home is not None and found.line <= found.look.home.header.floor
        else f", {_down_to(found.line)}"
    )
    yield _row("Compared", f"{_many(found.compared, 'entry', 'entries')}{down}")
    if found.young:
        grace = _duration(limits.audit_grace_ms)
        yield _row("", f"{found.young} that differ are younger than {grace}, so may be under way: not judged")


def _differences(found: Comparison, limits: Limits) -> Iterator[str]:
    if not found.differences:
        if found.look.home is None or found.look.home.header.building:
            yield "No differences, and no list to compare: reads come from the store."
        else:
            yield "No differences."
        return
    yield f"{_many(len(found.differences), 'difference', 'differences')}, seen twice:"
    order = sorted(found.differences, key=_order)
    groups = [list(group) for _, group in groupby(order, key=_order)]
    for group in groups[:_GROUPS_SHOWN]:
        yield ""
        yield from _group(group, limits)
    if len(groups) > _GROUPS_SHOWN:
        left = sum(map(len, groups[_GROUPS_SHOWN:]))
        yield ""
        yield f"and {left} more differences"


def _healing(found: Comparison, key_of: KeyOf) -> Iterator[str]:
    """Lists that are wrong, and would stay so."""
    wrong = {
        key_of(ListKind.profile, each.user_id)
        if each.cause is Cause.profile
        else key_of(ListKind.home, found.look.user_id)
        for each in found.holes
        if each.cause not in (Cause.context, Cause.deletion, Cause.unlisted)
    }
    if not wrong:
        return
    yield ""
    yield "To heal it at once: delete what is wrong, and the next read builds it from the store. Look for the cause first: what"
    yield "tells of it is gone then."
    for key in sorted(wrong)[:_AUTHORS_SHOWN]:
        yield f"  redis-cli -c -h NODE -p PORT DEL '{key}'"


def _order(each: Difference) -> tuple[str, str, str, int]:
    return each.cause.value, each.what.value, each.column, each.user_id


def _group(group: Sequence[Difference], limits: Limits) -> Iterator[str]:
    first = group[0]
    likely, remedy = _LIKELY[first.cause]
    yield f"  [{first.cause}] {_said(group)}"
    yield f"      likely:  {likely}"
    yield f"      to do:   {remedy.format(limits=limits)}"


def _said(group: Sequence[Difference]) -> str:
    first = group[0]
    if first.tweet_id is None:
        about = _COLUMNS[first.column].format(user=first.user_id)
        verb = {What.lacks: "does not know", What.keeps: "still says", What.dated: "has"}[first.what]
        return f"The cached context {verb} {about}."
    ids = [each.tweet_id for each in group if each.tweet_id is not None]
    shown = ", ".join(f"{tweet_id} of {_utc(time_ms(tweet_id))}" for tweet_id in ids[:_IDS_SHOWN])
    more = f", and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
    is_are, it = ("is", "it") if len(ids) == 1 else ("are", "them")
    return f"{_many(len(ids), 'tweet', 'tweets')} by user {first.user_id} {is_are} {_WHAT[first.what].format(it=it)}: {shown}{more}."


def _row(name: str, text: str) -> str:
    return f"{name:17}{text}".rstrip()


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _down_to(line: int) -> str:
    return (
        "to the beginning of history"
        if line == 0
        else f"to tweet {line} of {_utc(time_ms(line))}; below, the store is read"
    )


def _ago(at_ms: int, now_ms: int) -> str:
    return f"{_utc(at_ms)}, {_duration(max(now_ms - at_ms, 0))} ago"


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _duration(milliseconds: int) -> str:
    """The two largest units."""
    seconds = milliseconds // 1000
    parts = []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            parts.append(f"{seconds // size} {name}")
            seconds %= size
    return " ".join(parts[:2]) or f"{milliseconds} ms"
