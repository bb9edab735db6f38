"""Every way in which a cached timeline can differ from the store is found, with its cause; what is as it should be is not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from timeline.assembly import trust
from timeline.assembly.compare import (
    Cause,
    Comparison,
    Distrust,
    Look,
    Pull,
    What,
    Why,
    compare,
    distrust,
    pulled_beside,
    seen_again,
    usable,
)
from timeline.assembly.ports import ListView
from timeline.domain.entries import NO_ENTRIES, RETWEET_BIT, Entry, Stretch, newest_first, of
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.model import Reader, Tweet
from timeline.domain.notices import STANDS, Notices
from timeline.domain.records import Header, State

LIMITS = Limits()
NOW = 1_780_000_000_000
BUILT = NOW - 3_600_000
LONG_AGO = NOW - 90 * 86_400_000
ME, ANN, BOB = 1, 2, 3
PRIMARY, ANOTHER = b"p" * 20, b"a" * 20
SLOT = 77


def tweet(age_seconds: float, author: int = ANN, reference: int = 0) -> Entry:
    return Entry(TweetId(first_id_at(NOW - int(age_seconds * 1000)) + author), UserId(author), reference)


def row(entry: Entry, *, deleted: bool = False) -> Tweet:
    known = {"retweet_of": entry.retweet_of, "reply_to_user": entry.reply_to_user}
    return Tweet(
        id=entry.tweet_id,
        author_id=entry.author_id,
        text="",
        version=1,
        conversation_id=entry.tweet_id,
        deleted=deleted,
        **known,  # type: ignore[arg-type]
    )


def reader(follows: dict[int, int] | None = None, muted: tuple[int, ...] = ()) -> Reader:
    """Of ME. Follows: whom, and since when."""
    by_id = sorted((follows if follows is not None else {ANN: LONG_AGO, BOB: LONG_AGO}).items())
    followees = np.array([user for user, _ in by_id], np.int64)
    since = np.array([at for _, at in by_id], np.int64)
    none = np.empty(0, np.int64)
    return Reader(UserId(ME), followees, since, none, none, np.array(muted, np.int64), 1)


def notices(*intervals: tuple[int, int, int], dirty_until_ms: int = 0) -> Notices:
    """Intervals: whose, since, until; ascending."""
    users, since_ms, until_ms = (np.array([each[at] for each in intervals], np.int64) for at in range(3))
    dirty = np.zeros(16_384, np.int64)
    dirty[SLOT] = dirty_until_ms
    return Notices(users, since_ms, until_ms, dirty)


def view(
    entries: list[Entry], *, built_ms: int = BUILT, floor: int = 0, late: int = 0, on: bytes = PRIMARY
) -> ListView:
    """A whole list, in order of arrival."""
    header = Header(floor, 9, 0, built_ms, late, replication=on)
    return ListView(header, of(entries) if entries else NO_ENTRIES, 1, True, PRIMARY, SLOT)


@dataclass
class Story:
    """A reader who follows Ann and Bob since long ago, whose list is an hour old; by default nothing is in it, or stored."""

    stored: list[Entry] = field(default_factory=list)
    cached: list[Entry] | None = None
    reader: Reader = field(default_factory=reader)
    context: Reader | None = None
    notices: Notices = field(default_factory=notices)
    home: ListView | None = None
    profiles: dict[int, ListView] = field(default_factory=dict)
    rows: list[Tweet] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=dict)

    def told(self) -> Comparison:
        home = self.home or view(self.stored if self.cached is None else self.cached)
        stored = newest_first(of(self.stored)) if self.stored else NO_ENTRIES
        pulled = pulled_beside(home, self.reader, self.notices, LIMITS)
        look = Look(
            user_id=UserId(ME),
            at_ms=NOW,
            notices=self.notices,
            home=home,
            context=self.context,
            reader=self.reader,
            pulled=pulled,
            profiles={UserId(author): each for author, each in self.profiles.items()},
            truth=Stretch(stored, 0),
            rows={each.id: each for each in self.rows},
            states={TweetId(tweet_id): state for tweet_id, state in self.states.items()},
        )
        return compare(look, LIMITS)

    def differences(self) -> list[tuple[What, Cause, int, int | None]]:
        return [(each.what, each.cause, each.user_id, each.tweet_id) for each in self.told().differences]


A, B, C = tweet(1800), tweet(1200, BOB), tweet(600)


def test_equal_sides_have_no_differences() -> None:
    found = Story([A, B, C]).told()
    assert (found.differences, found.compared, found.distrust) == ((), 3, None)


def test_entries_twice_in_a_list_and_in_another_order_are_no_difference() -> None:
    late_ones = view([C, B, A, C, A], late=5)
    assert Story([A, B, C], home=late_ones).differences() == []


def test_a_tweet_younger_than_the_list_that_is_missing_is_a_lost_push() -> None:
    assert Story([A, B, C], [A, C]).differences() == [(What.missing, Cause.push, BOB, B.tweet_id)]


def test_a_tweet_older_than_the_list_that_is_missing_is_a_bad_rebuild() -> None:
    old = tweet(7200)
    assert Story([old, A], [A]).differences() == [(What.missing, Cause.rebuild, ANN, old.tweet_id)]


def test_a_tweet_soon_after_its_author_was_followed_was_lost_by_an_old_list_of_followers() -> None:
    long_enough = BUILT - LIMITS.fresh_follow_ms  # before the list, so that its author is not pulled
    soon = tweet((NOW - BUILT - LIMITS.fresh_follow_ms) / 1000)
    later = tweet((NOW - BUILT - LIMITS.fresh_follow_ms) / 1000 - 1)
    story = Story([soon, later], [], reader=reader({ANN: long_enough}))
    assert [each[1] for each in story.differences()] == [Cause.push, Cause.follow]


def test_a_young_difference_is_not_judged_and_is_counted() -> None:
    young = tweet(LIMITS.audit_grace_ms / 1000 - 1)
    found = Story([A, young], [A]).told()
    assert (found.differences, found.young) == ((), 1)
    old = tweet(LIMITS.audit_grace_ms / 1000 + 1)
    assert len(Story([A, old], [A]).differences()) == 1


def test_what_lies_below_the_floor_is_the_stores_and_not_compared() -> None:
    assert Story([A, B, C], home=view([C], floor=C.tweet_id)).differences() == []
    assert len(Story([A, B, C], home=view([C], floor=B.tweet_id)).differences()) == 1


def test_what_the_stores_side_did_not_reach_is_not_compared() -> None:
    found = Story([A, B, C]).told()
    look = replace(found.look, truth=Stretch(of([C]), C.tweet_id))
    assert compare(look, LIMITS).differences == ()


def test_entries_of_people_who_are_not_followed_are_left_out_and_no_difference() -> None:
    found = Story([A], [A, tweet(900, 8), tweet(800, 9)]).told()
    assert (found.differences, found.left_out) == ((), 2)


def test_entries_of_a_muted_author_must_be_there_since_they_show_as_soon_as_the_mute_ends() -> None:
    assert Story([A, B], [A], reader=reader(muted=(BOB,))).differences()[0][2] == BOB


def test_a_pulled_author_needs_no_entry_in_the_list() -> None:
    pulled = notices((BOB, BUILT, STANDS))
    assert Story([A, B], [A], notices=pulled, profiles={BOB: view([B])}).differences() == []
    assert Story([A, B], [A], notices=pulled).differences() == [], "without an own list, from the store"


def test_a_cut_own_list_of_a_pulled_author_is_told() -> None:
    other = tweet(1100, BOB)
    story = Story([A, B, other], [A], notices=notices((BOB, BUILT, STANDS)), profiles={BOB: view([other])})
    assert story.differences() == [(What.missing, Cause.profile, BOB, B.tweet_id)]
    story.profiles = {BOB: view([other], floor=other.tweet_id)}
    assert story.differences() == [], "below its floor, from the store"


def test_an_own_list_that_no_read_would_use_is_not_judged() -> None:
    story = Story([A, B], [A], notices=notices((BOB, BUILT, STANDS)), profiles={BOB: view([], on=ANOTHER)})
    assert story.differences() == []
    building = view([])
    story.profiles = {BOB: replace(building, header=replace(building.header, token=5))}
    assert story.differences() == []


def test_a_tweet_of_an_author_who_was_pulled_before_the_list_was_built_is_the_intervals() -> None:
    story = Story([A, B], [A], notices=notices((BOB, BUILT - 9_000_000, BUILT - 7_200_000)))
    assert story.differences() == [(What.missing, Cause.interval, BOB, B.tweet_id)]


def test_an_author_is_pulled_until_the_list_is_from_after_the_interval_and_its_margin() -> None:
    home, margin = view([]), LIMITS.notices_margin_ms
    assert pulled_beside(home, reader(), notices((BOB, BUILT - 9_000, BUILT - margin)), LIMITS) == (
        Pull(UserId(BOB), Why.ended, BUILT - margin),
    )
    assert pulled_beside(home, reader(), notices((BOB, BUILT - 9_000, BUILT - margin - 1)), LIMITS) == ()


def test_whom_one_followed_about_when_the_list_was_built_is_pulled() -> None:
    early, fresh = BUILT - LIMITS.fresh_follow_ms, BUILT - LIMITS.fresh_follow_ms + 1
    assert pulled_beside(view([]), reader({ANN: early, BOB: fresh}), notices(), LIMITS) == (
        Pull(UserId(BOB), Why.follow, fresh),
    )


def test_what_a_list_lacks_that_the_next_read_replaces_is_no_hole() -> None:
    found = Story([A, B], home=view([A], on=ANOTHER)).told()
    assert [each.cause for each in found.differences] == [Cause.untrusted]
    assert found.holes == ()


@pytest.mark.parametrize(
    ("home", "told", "why"),
    [
        (view([]), notices(), None),
        (view([], on=ANOTHER), notices(), Distrust.primary),
        (view([], on=bytes(20)), notices(), Distrust.unknown),
        (replace(view([]), primary=bytes(20)), notices(), Distrust.unknown),
        (view([]), notices(dirty_until_ms=BUILT), Distrust.hole),
        (view([]), notices(dirty_until_ms=BUILT - LIMITS.clock_skew_ms), Distrust.hole),
        (view([]), notices(dirty_until_ms=BUILT - LIMITS.clock_skew_ms - 1), None),
        (view([], built_ms=NOW - LIMITS.timeline_built_seconds_max * 1000 - 1), notices(), Distrust.old),
    ],
)
def test_why_a_list_is_not_believed(home: ListView, told: Notices, why: Distrust | None) -> None:
    assert distrust(home, told, LIMITS, NOW) is why


@pytest.mark.parametrize("apart_ms", [-LIMITS.notices_margin_ms, -LIMITS.clock_skew_ms - 1, -1, 0, 1])
@pytest.mark.parametrize("more_ms", [-1, 0, 1])
@pytest.mark.parametrize("home", [view([]), view([], on=ANOTHER)])
def test_the_audit_distrusts_what_readers_distrust(home: ListView, apart_ms: int, more_ms: int) -> None:
    """Two pieces of code say so: one that judged otherwise would be blind to holes, or find some that nobody sees."""
    told = notices(dirty_until_ms=BUILT + apart_ms + more_ms)
    judged = distrust(home, told, LIMITS, NOW)
    assert (None if judged is None else judged.value) == trust.distrust(home, told, LIMITS)


def test_an_own_list_is_used_until_it_is_too_old() -> None:
    oldest = view([], built_ms=NOW - LIMITS.timeline_built_seconds_max * 1000)
    older = view([], built_ms=NOW - LIMITS.timeline_built_seconds_max * 1000 - 1)
    assert usable({UserId(BOB): oldest, UserId(ANN): older}, notices(), LIMITS, NOW) == {BOB: oldest}


def test_an_entry_without_a_tweet_is_a_phantom() -> None:
    assert Story([A], [A, B]).differences() == [(What.extra, Cause.phantom, BOB, B.tweet_id)]


def test_a_deleted_tweets_entry_may_stay_unless_its_state_says_that_it_lives() -> None:
    story = Story([A], [A, B], rows=[row(B, deleted=True)])
    assert story.differences() == [], "no state is cached: the store is asked"
    story.states = {B.tweet_id: State(2, True, False)}
    assert story.differences() == []
    story.states = {B.tweet_id: State(1, False, False)}
    assert story.differences() == [(What.shown, Cause.deletion, BOB, B.tweet_id)]


def test_a_tweet_that_its_cached_state_calls_deleted_is_hidden() -> None:
    story = Story([A, B], states={A.tweet_id: State(1, False, False), B.tweet_id: State(1, True, False)})
    assert story.differences() == [(What.hidden, Cause.deletion, BOB, B.tweet_id)]


def test_an_entry_that_says_something_else_of_its_tweet_is_altered() -> None:
    otherwise = replace(B, reference=77 | RETWEET_BIT)
    assert Story([A, B], [A, otherwise]).differences() == [(What.altered, Cause.altered, BOB, B.tweet_id)]


def test_a_tweet_that_is_stored_and_not_listed_by_its_authors_history_is_told() -> None:
    assert Story([A], [A, B], rows=[row(B)]).differences() == [(What.extra, Cause.unlisted, BOB, B.tweet_id)]


def test_a_context_that_is_as_stored_or_not_cached_is_no_difference() -> None:
    assert Story([A], context=reader()).differences() == []
    assert Story([A], context=None).differences() == []


def test_every_column_of_a_context_is_compared() -> None:
    cached = replace(
        reader({ANN: LONG_AGO, 7: LONG_AGO}),
        blocked=np.array([20]),
        blocked_by=np.array([21]),
        muted=np.array([22]),
    )
    stored = replace(
        reader({ANN: NOW, BOB: LONG_AGO}), blocked=np.array([30]), blocked_by=np.array([31]), muted=np.array([32])
    )
    found = Story([], reader=stored, context=cached).told().differences
    assert {each.cause for each in found} == {Cause.context}
    assert {(each.what.value, each.column, int(each.user_id)) for each in found} == {
        ("lacks", "followees", BOB),
        ("keeps", "followees", 7),
        ("lacks", "blocked", 30),
        ("keeps", "blocked", 20),
        ("lacks", "blocked_by", 31),
        ("keeps", "blocked_by", 21),
        ("lacks", "muted", 32),
        ("keeps", "muted", 22),
        ("dated", "since_ms", ANN),
    }


def test_what_a_wrong_context_hides_and_shows_is_counted() -> None:
    found = Story([A, B, C], context=reader({BOB: LONG_AGO})).told()
    assert (found.hides, found.shows) == (2, 0)
    found = Story([A, B, C], reader=reader(muted=(BOB,)), context=reader()).told()
    assert (found.hides, found.shows) == (0, 1)


def test_without_a_list_only_the_context_is_compared() -> None:
    none = Story([A], context=reader({ANN: LONG_AGO})).told().look
    assert [each.cause for each in compare(replace(none, home=None), LIMITS).differences] == [Cause.context]
    building = replace(view([]), header=replace(view([]).header, token=3))
    assert [each.cause for each in compare(replace(none, home=building), LIMITS).differences] == [Cause.context]


def test_a_late_entry_that_is_not_marked_is_told_since_a_page_could_begin_with_it() -> None:
    apart = (LIMITS.late_after_ms + LIMITS.clock_skew_ms) / 1000
    first, late = tweet(1000), tweet(1000 + apart + 1, BOB)
    assert Story([first, late, C], [first, late, C]).differences() == [
        (What.unmarked, Cause.late, BOB, late.tweet_id),
    ]
    in_time = tweet(1000 + apart - 1, BOB)
    assert Story([first, in_time, C], [first, in_time, C]).differences() == []


def test_a_late_entry_that_is_marked_or_too_far_back_to_begin_a_page_is_as_it_should_be() -> None:
    first, late = tweet(1000), tweet(2000, BOB)
    assert Story([first, late], home=view([first, late], late=2)).differences() == []
    more = [tweet(990 - each) for each in range(LIMITS.tail_entries)]
    assert Story([first, late, *more], [first, late, *more]).differences() == []
    assert len(Story([first, late, *more], [first, late, *more[1:]]).differences()) == 2


def test_what_came_before_a_late_entry_and_came_again_after_it_is_in_the_tail() -> None:
    first, late = tweet(1000), tweet(2000, BOB)
    assert len(Story([first, late], [first, late]).differences()) == 1
    assert Story([first, late], [first, late, first]).differences() == []


def test_of_two_looks_what_both_show_counts_whatever_they_hold_to_be_its_cause() -> None:
    first, second = Story([A, B, C], [C]).told(), Story([A, B, C], home=view([A], built_ms=NOW)).told()
    again = seen_again(first.differences, second.differences)
    assert [(each.cause, each.tweet_id) for each in again] == [(Cause.rebuild, B.tweet_id)]
