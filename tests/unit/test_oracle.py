"""The oracle against the sentences of the contract, one hand-written case each."""

from __future__ import annotations

import pytest

from tests.oracle import EPOCH_MS, Oracle, Row

READER, ANN, BEN, CAT = 1, 2, 3, 4
HOUR = 3_600_000


def at(ms: int, number: int = 0) -> int:
    return ms * 4_194_304 + number


@pytest.fixture
def oracle() -> Oracle:
    made = Oracle()
    made.follows[READER] = {ANN, BEN}
    return made


def post(oracle: Oracle, ms: int, author: int, **more: object) -> int:
    row = Row(at(ms), author, **more)  # type: ignore[arg-type]
    oracle.add(row)
    return row.id


def test_an_id_tells_its_time() -> None:
    assert Row(at(5), ANN).time_ms == EPOCH_MS + 5


def test_home_holds_what_those_followed_now_have_posted_whenever_the_follow_began_and_ones_own(oracle: Oracle) -> None:
    old, own, other = post(oracle, 1, ANN), post(oracle, 2, READER), post(oracle, 3, CAT)
    assert oracle.home(READER) == [own, old]
    oracle.follows[READER].add(CAT)
    assert oracle.home(READER) == [other, own, old]
    oracle.follows[READER].discard(ANN)
    assert oracle.home(READER) == [other, own]


def test_items_come_newest_first_each_once(oracle: Oracle) -> None:
    ids = [post(oracle, ms, ANN) for ms in (5, 1, 3)]
    oracle.add(Row(ids[0], ANN))
    assert oracle.home(READER) == sorted(ids, reverse=True)


@pytest.mark.parametrize(
    ("author", "to", "there"),
    [
        (ANN, BEN, True),  # follows both
        (ANN, CAT, False),  # follows only the author
        (CAT, ANN, False),  # follows only the user replied to
        (ANN, READER, True),  # is replied to, and follows the author
        (CAT, READER, False),  # is replied to by somebody not followed
        (READER, CAT, True),  # is the author
        (ANN, ANN, True),  # a thread: its author is both
    ],
)
def test_a_reply_is_for_its_author_the_one_replied_to_and_those_who_follow_both(
    oracle: Oracle, author: int, to: int, there: bool
) -> None:
    reply = post(oracle, 1, author, reply_to_user=to)
    assert (reply in oracle.home(READER)) is there


def test_a_retweet_stands_by_itself_whatever_its_source_replies_to(oracle: Oracle) -> None:
    source = post(oracle, 1, CAT, reply_to_user=99)
    retweet = post(oracle, 2, ANN, source=source)
    assert oracle.home(READER) == [retweet]


def test_ones_own_retweet_of_ones_own_tweet_hides_in_the_six_hours_after_it(oracle: Oracle) -> None:
    own = post(oracle, 1, READER)
    soon = post(oracle, 6 * HOUR, READER, source=own)
    assert oracle.home(READER) == [own]
    assert oracle.profile(READER, READER) == [soon, own]


def test_a_retweet_shows_again_once_six_hours_have_passed(oracle: Oracle) -> None:
    source = post(oracle, 0, ANN)
    post(oracle, 6 * HOUR, BEN, source=source)
    late = post(oracle, 6 * HOUR + 1, READER, source=source)
    assert late not in oracle.home(READER), "BEN's retweet has a place, though it is hidden itself"
    much_later = post(oracle, 12 * HOUR + 2, ANN, source=source)
    assert oracle.home(READER) == [much_later, source]


def test_only_what_has_a_place_in_this_home_hides(oracle: Oracle) -> None:
    source = post(oracle, 0, ANN, reply_to_user=CAT)  # not for this reader
    post(oracle, 1, CAT, source=source)  # nor is this
    retweet = post(oracle, 2, BEN, source=source)
    assert oracle.home(READER) == [retweet]


def test_what_comes_later_changes_nothing_shown_before(oracle: Oracle) -> None:
    source = post(oracle, 1, CAT)
    first = post(oracle, 2, ANN, source=source)
    post(oracle, 3, BEN, source=source)
    assert oracle.home(READER) == [first]


def test_a_retweet_goes_when_its_source_does_and_an_undone_one_hides_nothing(oracle: Oracle) -> None:
    source = post(oracle, 1, CAT)
    first, second = post(oracle, 2, ANN, source=source), post(oracle, 3, BEN, source=source)
    oracle.rows[first].deleted = True
    assert oracle.home(READER) == [second]
    assert oracle.profile(ANN, READER) == []
    oracle.rows[source].deleted = True
    assert oracle.home(READER) == oracle.profile(BEN, READER) == []


def test_a_tweet_for_followers_is_for_those_who_follow_now(oracle: Oracle) -> None:
    tweet = post(oracle, 1, ANN, followers_only=True)
    assert oracle.home(READER) == oracle.profile(ANN, READER) == [tweet]
    assert oracle.profile(ANN, ANN) == [tweet]
    assert oracle.profile(ANN, CAT) == oracle.profile(ANN, None) == []


def test_a_retweet_of_ones_own_tweet_for_followers_is_for_those_followers(oracle: Oracle) -> None:
    source = post(oracle, 1, ANN, followers_only=True)
    retweet = post(oracle, 7 * HOUR, ANN, source=source, followers_only=True)
    assert oracle.home(READER) == [retweet, source]
    assert oracle.profile(ANN, CAT) == []


@pytest.mark.parametrize(("one", "other"), [(READER, CAT), (CAT, READER)])
def test_a_block_hides_in_both_directions_and_retweets_too(oracle: Oracle, one: int, other: int) -> None:
    source = post(oracle, 1, CAT)
    post(oracle, 2, ANN, source=source)
    oracle.blocks[one].add(other)
    assert oracle.home(READER) == []
    assert oracle.profile(CAT, READER) == []


def test_of_a_muted_user_neither_tweets_nor_retweets_nor_retweets_of_theirs(oracle: Oracle) -> None:
    oracle.mutes[READER] = {BEN}
    source, elsewhere = post(oracle, 1, BEN), post(oracle, 2, CAT)
    post(oracle, 3, BEN, source=elsewhere)
    post(oracle, 4, ANN, source=source)
    reply = post(oracle, 5, ANN, reply_to_user=BEN)
    assert oracle.home(READER) == [reply], "replies to them by others stay"
    assert source in oracle.profile(BEN, READER)


def test_a_profile_holds_own_tweets_replies_and_all_retweets(oracle: Oracle) -> None:
    tweet, reply = post(oracle, 1, ANN), post(oracle, 2, ANN, reply_to_user=CAT)
    retweet = post(oracle, 3, ANN, source=tweet)
    assert oracle.profile(ANN, None) == [retweet, reply, tweet]


def test_undoing_takes_every_retweet_of_that_tweet_by_that_user_and_no_other(oracle: Oracle) -> None:
    source = post(oracle, 1, CAT)
    first = post(oracle, 2, ANN, source=source)
    second = post(oracle, 2 + 7 * HOUR, ANN, source=source)
    other = post(oracle, 2 + 14 * HOUR, BEN, source=source)
    assert oracle.home(READER) == [other, second, first]
    oracle.undo(ANN, source)
    assert oracle.home(READER) == [other]


def test_places_are_what_home_shows_and_the_retweets_that_it_hides(oracle: Oracle) -> None:
    source = post(oracle, 1, ANN)
    hidden = post(oracle, 2, BEN, source=source)
    post(oracle, 3, CAT, source=source)  # not followed
    assert oracle.home(READER) == [source]
    assert oracle.places(READER) == [hidden, source]


def test_a_quote_is_shown_unless_its_author_is_muted_or_it_may_not_be_seen(oracle: Oracle) -> None:
    quoted = post(oracle, 1, CAT)
    quote = post(oracle, 2, ANN, quote_of=quoted)
    assert oracle.shows_quote(quote, READER)
    oracle.mutes[READER] = {CAT}
    assert not oracle.shows_quote(quote, READER)
    oracle.mutes[READER] = set()
    oracle.blocks[CAT].add(READER)
    assert not oracle.shows_quote(quote, READER)
    oracle.blocks[CAT].clear()
    oracle.rows[quoted].deleted = True
    assert not oracle.shows_quote(quote, READER)
