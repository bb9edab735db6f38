"""Comparison: what is cached for one reader against the store, entry by entry, and for each difference its likely cause.

Pure: values of one look go in (assembly/examine.py takes them), differences come out. It shares with the read path that it judges the
rules of the domain and nothing else: how a list, its trust, and who is pulled beside it are to be understood is written down here
once more, in other words, from the header's own contract.

The list is judged whole, as the store's own context would have it read: entries that a mute or the reply rule hides now must be there
as well, since they show as soon as that ends. A context that differs is a difference of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from timeline.assembly.ports import ListView
from timeline.domain import rules
from timeline.domain.entries import Entries, Entry, Stretch, UserIds, concatenated, newest_first, to_list
from timeline.domain.ids import TweetId, UserId, first_id_at, time_ms
from timeline.domain.limits import Limits
from timeline.domain.model import Reader, Tweet, contains, contains_each
from timeline.domain.notices import STANDS, Notices
from timeline.domain.records import UNKNOWN_REPLICATION, State


class Cause(StrEnum):
    """What likely made a difference; metrics.py says what to do about each."""

    push = "push"  # fan-out's delivery did not reach the list, or the list lost it
    follow = "follow"  # the same, soon after the follow: fan-out had read the followers before it
    rebuild = "rebuild"  # the list's own history lacks it, or a trim cut it without raising the floor
    interval = "interval"  # its author was pulled for a time, and the list is held to be from after that
    profile = "profile"  # its author is pulled, and their own list lacks it
    late = "late"  # it came late and is not marked: a first page may lack what came before it
    context = "context"  # the cached follows, blocks or mutes are not what is stored
    deletion = "deletion"  # the cached state of the tweet says otherwise than its row
    altered = "altered"  # the cached entry says something else of its tweet than the row
    phantom = "phantom"  # there is no such tweet
    unlisted = "unlisted"  # the tweet is stored, and its author's history does not list it
    untrusted = "untrusted"  # the list is known to be wanting: the next read replaces it


class What(StrEnum):
    """How two sides differ."""

    missing = "missing"  # stored, and not cached
    extra = "extra"  # cached, and not stored
    altered = "altered"  # an entry with another author or reference than the row
    shown = "shown"  # deleted, and its cached state says that it is not
    hidden = "hidden"  # not deleted, and its cached state says that it is
    unmarked = "unmarked"  # late, without the header saying so
    lacks = "lacks"  # the cached context does not have it
    keeps = "keeps"  # the cached context has it still
    dated = "dated"  # a follow with another time


class Distrust(StrEnum):
    """Why a list is not believed."""

    unknown = "unknown"  # what its primary is cannot be told
    primary = "primary"  # it was built on another primary
    hole = "hole"  # deliveries to its slot were left out since it was built
    old = "old"  # notices that it depends on may be forgotten


class Why(StrEnum):
    """Why an author is pulled beside a list."""

    stands = "stands"  # not fanned out now
    ended = "ended"  # was not fanned out for a time that the list depends on
    follow = "follow"  # followed at about the time when the list was built, or since


@dataclass(frozen=True, slots=True)
class Pull:
    """An author who is pulled, why, and since when: the beginning of the interval, its end (`ended`), or the follow; Unix ms."""

    author_id: UserId
    why: Why
    at_ms: int


@dataclass(frozen=True, slots=True)
class Difference:
    """`user_id` is the entry's author, or, in a context, the other user; `column` names what of the context differs."""

    what: What
    cause: Cause
    user_id: UserId
    tweet_id: TweetId | None = None
    column: str = ""

    @property
    def place(self) -> tuple[object, ...]:
        """What two looks have in common when they show the same difference, whatever they hold to be its cause."""
        return self.what, self.user_id, self.tweet_id, self.column


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What was read of one reader, in about this order. `at_ms`: from before all of it.

    `home`: the whole list, or None. `context`: as cached, or None. `reader`: as stored. `profiles`: the whole own lists of those who
    are pulled, as far as there are any. `truth`: the store's entries of everybody whom the reader follows, and the reader's own, down
    to its `complete_from`. `rows`: of cached entries that `truth` lacks, as far as they exist. `states`: as cached.
    """

    user_id: UserId
    at_ms: int
    notices: Notices
    home: ListView | None
    context: Reader | None
    reader: Reader
    pulled: tuple[Pull, ...]
    profiles: Mapping[UserId, ListView]
    truth: Stretch
    rows: Mapping[TweetId, Tweet]
    states: Mapping[TweetId, State]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The result. `compared`: entries of both sides, down to `line`. `left_out`: entries of the list by people who are not followed
    now. `young`: differences too young to be judged. `hides`, `shows`: entries that a wrong context hides, or shows."""

    look: Look
    distrust: Distrust | None
    differences: tuple[Difference, ...]
    line: int = 0
    compared: int = 0
    left_out: int = 0
    young: int = 0
    hides: int = 0
    shows: int = 0

    @property
    def holes(self) -> tuple[Difference, ...]:
        """Differences that a reader may see; what a list lacks that the next read replaces is none."""
        return tuple(each for each in self.differences if each.cause is not Cause.untrusted)


def seen_again(first: Iterable[Difference], second: Iterable[Difference]) -> tuple[Difference, ...]:
    """The second look's differences that the first one showed as well."""
    before = {each.place for each in first}
    return tuple(each for each in second if each.place in before)


def everybody(reader: Reader) -> UserIds:
    """Whose tweets belong in the reader's list, whether or not they are shown: all who are followed, and the reader."""
    return np.union1d(reader.followees, np.array([reader.user_id], np.int64))


def distrust(view: ListView, notices: Notices, limits: Limits, now_ms: int) -> Distrust | None:
    """Why a list is not to be believed; None if it is."""
    header = view.header
    if UNKNOWN_REPLICATION in (view.primary, header.replication):
        return Distrust.unknown
    if header.replication != view.primary:
        return Distrust.primary
    dirty_until_ms = int(notices.dirty_until_ms[view.slot])
    if dirty_until_ms and header.built_ms <= dirty_until_ms + limits.clock_skew_ms:
        return Distrust.hole
    return Distrust.old if now_ms - header.built_ms > limits.timeline_built_seconds_max * 1000 else None


def pulled_beside(view: ListView, reader: Reader, notices: Notices, limits: Limits) -> tuple[Pull, ...]:
    """The followed whose tweets the list may lack though it is as it should be, ascending by author."""
    header = view.header
    found: dict[int, Pull] = {}
    fresh = reader.since_ms > header.built_ms - limits.fresh_follow_ms
    for author, since_ms in zip(reader.followees[fresh].tolist(), reader.since_ms[fresh].tolist(), strict=True):
        found[author] = Pull(UserId(author), Why.follow, since_ms)
    for author in notices.to_pull(reader.followees, header.built_ms, header.floor, limits.notices_margin_ms).tolist():
        at = int(np.searchsorted(notices.pulled, author))
        until_ms, since_ms = int(notices.until_ms[at]), int(notices.since_ms[at])
        found[author] = (
            Pull(UserId(author), Why.stands, since_ms)
            if until_ms == STANDS
            else Pull(UserId(author), Why.ended, until_ms)
        )
    return tuple(found[author] for author in sorted(found))


def usable(
    profiles: Mapping[UserId, ListView], notices: Notices, limits: Limits, now_ms: int
) -> dict[UserId, ListView]:
    """The authors' own lists that a read would use; of the others it asks the store."""
    return {
        author: view
        for author, view in profiles.items()
        if not view.header.building and distrust(view, notices, limits, now_ms) is None
    }


def line_of(home: ListView, truth: Stretch) -> int:
    """Down to which id both sides are known."""
    return max(home.header.floor, truth.complete_from)


def cached_side(
    home: ListView, reader: Reader, pulled: Iterable[Pull], profiles: Mapping[UserId, ListView], truth: Stretch
) -> Entries:
    """What a read has to choose from, newest first: the list, and of those who are pulled their own lists, and below those, or
    without any, the store."""
    parts = [home.entries]
    for pull in pulled:
        view = profiles.get(pull.author_id)
        of_author = truth.entries[truth.entries["author"] == pull.author_id]
        if view is None:
            parts.append(of_author)
        else:
            parts += [view.entries, of_author[of_author["tweet"] < view.header.floor]]
    entries = newest_first(concatenated(parts))
    belongs = contains_each(everybody(reader), entries["author"].astype(np.int64))
    kept: Entries = entries[belongs & (entries["tweet"] >= line_of(home, truth))]
    return kept


def not_in(entries: Entries, others: Entries) -> Entries:
    """Those whose tweet has no entry among the others."""
    kept: Entries = entries[~np.isin(entries["tweet"].astype(np.uint64), others["tweet"].astype(np.uint64))]
    return kept


def compare(look: Look, limits: Limits) -> Comparison:
    """Every difference that this look shows, and that is old enough to be judged."""
    context = list(_of_context(look.context, look.reader))
    if look.home is None or look.home.header.building:
        return Comparison(look, None, tuple(context))
    line = line_of(look.home, look.truth)
    profiles = usable(look.profiles, look.notices, limits, look.at_ms)
    cached = cached_side(look.home, look.reader, look.pulled, profiles, look.truth)
    stored = look.truth.entries[look.truth.entries["tweet"] >= line]
    untrusted = distrust(look.home, look.notices, limits, look.at_ms)
    cause_of = _Causes(look, look.home, profiles, untrusted, limits)

    horizon = first_id_at(look.at_ms - limits.audit_grace_ms)
    differences = [
        *_missing(not_in(stored, cached), cause_of),
        *_extra(not_in(cached, stored), look),
        *_altered(cached, stored),
        *_hidden(stored, look.states),
    ]
    judged = [each for each in differences if each.tweet_id is not None and each.tweet_id < horizon]
    young = len(differences) - len(judged)
    for view in (look.home, *profiles.values()):
        judged += _unmarked(view, limits)
    hides, shows = _effect(cached, look)
    return Comparison(
        look,
        untrusted,
        (*context, *judged),
        line=line,
        compared=len(np.union1d(cached["tweet"].astype(np.uint64), stored["tweet"].astype(np.uint64))),
        left_out=int((~contains_each(everybody(look.reader), look.home.entries["author"].astype(np.int64))).sum()),
        young=young,
        hides=hides,
        shows=shows,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Causes:
    """Why an entry is missing, most likely."""

    look: Look
    home: ListView
    profiles: Mapping[UserId, ListView]
    untrusted: Distrust | None
    limits: Limits

    def __call__(self, entry: Entry) -> Cause:
        author = entry.author_id
        if author in self.profiles and any(pull.author_id == author for pull in self.look.pulled):
            return Cause.profile
        if self.untrusted is not None:
            return Cause.untrusted
        if contains(self.look.notices.pulled, author):
            return Cause.interval
        created_ms = time_ms(entry.tweet_id)
        if created_ms < self.home.header.built_ms:
            return Cause.rebuild
        since_ms = self._followed_ms(author)
        # within M of the follow its author would be pulled: so the followers that were used were older than they may be
        if since_ms is not None and created_ms - since_ms <= 2 * self.limits.fresh_follow_ms:
            return Cause.follow
        return Cause.push

    def _followed_ms(self, author: int) -> int | None:
        reader = self.look.reader
        if not reader.follows(author):
            return None
        return int(reader.since_ms[np.searchsorted(reader.followees, author)])


def _missing(entries: Entries, cause_of: Callable[[Entry], Cause]) -> Iterable[Difference]:
    for entry in to_list(entries):
        yield Difference(What.missing, cause_of(entry), entry.author_id, entry.tweet_id)


def _extra(entries: Entries, look: Look) -> Iterable[Difference]:
    """A deleted tweet's entry may stay: reads leave it out, as its state tells them."""
    for entry in to_list(entries):
        row = look.rows.get(entry.tweet_id)
        state = look.states.get(entry.tweet_id)
        if row is None:
            yield Difference(What.extra, Cause.phantom, entry.author_id, entry.tweet_id)
        elif row.deleted:
            if state is not None and not state.deleted:
                yield Difference(What.shown, Cause.deletion, entry.author_id, entry.tweet_id)
        elif row.entry != entry:
            yield Difference(What.altered, Cause.altered, entry.author_id, entry.tweet_id)
        else:
            yield Difference(What.extra, Cause.unlisted, entry.author_id, entry.tweet_id)


def _altered(cached: Entries, stored: Entries) -> Iterable[Difference]:
    told = {entry.tweet_id: entry for entry in to_list(stored)}
    for entry in to_list(cached):
        if told.get(entry.tweet_id, entry) != entry:
            yield Difference(What.altered, Cause.altered, entry.author_id, entry.tweet_id)


def _hidden(stored: Entries, states: Mapping[TweetId, State]) -> Iterable[Difference]:
    for entry in to_list(stored):
        state = states.get(entry.tweet_id)
        if state is not None and state.deleted:
            yield Difference(What.hidden, Cause.deletion, entry.author_id, entry.tweet_id)


def _unmarked(view: ListView, limits: Limits) -> Iterable[Difference]:
    """Entries with which a tail may begin that tells too much: who reads only from there on takes everything above its time, and what
    may have come meanwhile, for known; something that came before it lies there, and not in the tail."""
    ids = view.entries["tweet"].astype(np.uint64)
    highest_before = np.maximum.accumulate(ids) if len(ids) else ids
    apart_ms = limits.late_after_ms + limits.clock_skew_ms
    first = max(len(ids) - limits.tail_entries, 1, view.header.late - view.first_arrival + 1)
    for at in range(first, len(ids)):
        sure = max(view.header.floor, first_id_at(time_ms(int(ids[at])) + apart_ms + 1))
        if highest_before[at - 1] >= sure and len(np.setdiff1d(ids[:at][ids[:at] >= sure], ids[at:])):
            yield Difference(What.unmarked, Cause.late, UserId(int(view.entries["author"][at])), TweetId(int(ids[at])))


def _of_context(cached: Reader | None, stored: Reader) -> Iterable[Difference]:
    """In which users two contexts of one reader differ; None: nothing is cached, and the store is asked."""
    if cached is None:
        return
    for column in ("followees", "blocked", "blocked_by", "muted"):
        has, should = getattr(cached, column), getattr(stored, column)
        for what, users in ((What.lacks, np.setdiff1d(should, has)), (What.keeps, np.setdiff1d(has, should))):
            for user in users.tolist():
                yield Difference(what, Cause.context, UserId(user), None, column)
    both, at_one, at_other = np.intersect1d(cached.followees, stored.followees, return_indices=True)
    for user in both[cached.since_ms[at_one] != stored.since_ms[at_other]].tolist():
        yield Difference(What.dated, Cause.context, UserId(user), None, "since_ms")


def _effect(cached: Entries, look: Look) -> tuple[int, int]:
    """How many entries the cached context hides, and how many it shows, that the stored one does not."""
    if look.context is None:
        return 0, 0
    before, now = rules.of_home(cached, look.context), rules.of_home(cached, look.reader)
    return len(not_in(now, before)), len(not_in(before, now))
