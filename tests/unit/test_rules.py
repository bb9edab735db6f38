"""What API.md says of home, rule by rule, on entries and on content."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from timeline.domain import rules
from timeline.domain.entries import RETWEET_BIT, Entry, of, to_list
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.domain.model import Reader

ME = UserId(1)


def ids(values: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(sorted(values), np.int64)


def reader(
    follows: Iterable[int] = (), blocked: Iterable[int] = (), blocked_by: Iterable[int] = (), muted: Iterable[int] = ()
) -> Reader:
    followed = ids(follows)
    return Reader(ME, followed, np.zeros(len(followed), np.int64), ids(blocked), ids(blocked_by), ids(muted), 1)


def entry(author: int, reference: int = 0, tweet: int = 100) -> Entry:
    return Entry(TweetId(tweet), UserId(author), reference)


def shown(one: Entry, to: Reader) -> bool:
    kept = len(rules.of_home(of([one]), to)) == 1
    assert kept == rules.has_place_of_its_own(one, to), "the rule for many and the rule for one must agree"
    return kept


def test_home_holds_oneself_and_whom_one_follows_and_nobody_else() -> None:
    assert shown(entry(1), reader())
    assert shown(entry(2), reader([2]))
    assert not shown(entry(3), reader([2]))


def test_a_muted_or_blocked_author_is_not_in_home() -> None:
    assert not shown(entry(2), reader([2], muted=[2]))
    assert not shown(entry(2), reader([2], blocked=[2]))
    assert not shown(entry(2), reader([2], blocked_by=[2]))


def test_a_reply_is_there_for_its_author() -> None:
    assert shown(entry(1, reference=9), reader())


def test_a_reply_is_there_for_the_user_replied_to_who_follows_its_author() -> None:
    assert shown(entry(2, reference=ME), reader([2]))
    assert not shown(entry(2, reference=ME), reader())


def test_a_reply_is_there_for_those_who_follow_both() -> None:
    assert shown(entry(2, reference=3), reader([2, 3]))
    assert not shown(entry(2, reference=3), reader([2]))
    assert not shown(entry(2, reference=3), reader([3]))


def test_a_reply_to_oneself_is_there_for_every_follower() -> None:
    assert shown(entry(2, reference=2), reader([2]))


def test_a_reply_to_a_muted_user_stays() -> None:
    assert shown(entry(2, reference=3), reader([2, 3], muted=[3]))


def test_a_retweet_stands_by_itself() -> None:
    assert shown(entry(2, reference=RETWEET_BIT | 55), reader([2]))


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 1, 2, 3, 4, RETWEET_BIT | 50])), max_size=20),
    st.sets(st.integers(2, 6)),
    st.sets(st.integers(2, 6)),
)
def test_filtering_many_equals_filtering_each(made: list[tuple[int, int]], follows: set[int], muted: set[int]) -> None:
    who = reader(follows, muted=muted)
    all_of_them = [entry(author, reference, 100 - at) for at, (author, reference) in enumerate(made)]
    one_by_one = [one for one in all_of_them if rules.has_place_of_its_own(one, who)]
    assert to_list(rules.of_home(of(all_of_them), who)) == one_by_one


def test_followers_only_content_is_for_its_author_and_followers() -> None:
    assert rules.may_see(1, followers_only=True, reader=reader())
    assert rules.may_see(2, followers_only=True, reader=reader([2]))
    assert not rules.may_see(2, followers_only=True, reader=reader())
    assert not rules.may_see(2, followers_only=True, reader=None)
    assert rules.may_see(2, followers_only=False, reader=None)


def test_nobody_sees_across_a_block() -> None:
    assert not rules.may_see(2, followers_only=False, reader=reader([2], blocked=[2]))
    assert not rules.may_see(2, followers_only=False, reader=reader([2], blocked_by=[2]))


HOUR = 3_600_000
T = 1_700_000_000_000


def test_a_retweet_is_hidden_when_the_same_tweet_has_a_place_in_the_six_hours_before() -> None:
    retweet = first_id_at(T)
    assert rules.is_repeat(retweet, [first_id_at(T - 1)], 6 * HOUR)
    assert rules.is_repeat(retweet, [first_id_at(T - 6 * HOUR)], 6 * HOUR)
    assert not rules.is_repeat(retweet, [first_id_at(T - 6 * HOUR) - 1], 6 * HOUR)
    assert not rules.is_repeat(retweet, [retweet, first_id_at(T + 1)], 6 * HOUR)
