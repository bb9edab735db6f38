"""What the doctor says can be understood by somebody who did not write any of this."""

from __future__ import annotations

import re
from dataclasses import replace

from tests.unit.test_compare import ANN, ANOTHER, BOB, BUILT, LIMITS, A, B, C, Story, notices, reader, tweet, view
from timeline.assembly.compare import Cause, Comparison, Difference, What
from timeline.domain.ids import TweetId, UserId
from timeline.domain.notices import STANDS
from timeline.ops.diagnosis import lines_of, summary_of


def said(found: Comparison) -> str:
    return "\n".join(lines_of(found, LIMITS, lambda kind, user: f"{kind.value}:{{{user}}}"))


def test_a_sound_timeline_is_called_sound() -> None:
    text = said(Story([A, B, C], context=reader()).told())
    assert text.splitlines()[-1] == "No differences."
    assert "trusted        yes" in text
    assert "cached, and as stored: follows 2," in text
    assert "to the beginning of history" in text
    assert "1 h ago" in text


def test_tweets_that_are_missing_for_one_cause_are_one_paragraph_an_author_with_what_to_do() -> None:
    more = [tweet(600 + each) for each in range(1, 6)]
    text = said(Story([*more, A, B], [B]).told())
    assert "6 differences" in text
    assert text.count("[push]") == 1
    assert f"6 tweets by user {ANN} are missing" in text
    assert "and 3 more." in text
    assert "likely:" in text
    assert "to do:" in text


def test_why_a_list_is_not_believed_is_said() -> None:
    assert "NO: its Redis node has failed over" in said(Story([A], home=view([A], on=ANOTHER)).told())
    hole = said(Story([A], notices=notices(dirty_until_ms=BUILT)).told())
    assert "NO: while a node was away, deliveries to slot 77 were left out" in hole


def test_pulled_authors_are_listed_with_the_reason() -> None:
    story = Story([A, B], [A], notices=notices((BOB, BUILT, STANDS)), reader=reader({ANN: BUILT, BOB: 0}))
    text = said(story.told())
    assert f"{BOB}: too many followers to push to, since" in text
    assert f"{ANN}: followed at" in text


def test_a_context_that_differs_is_told_with_its_effect() -> None:
    text = said(Story([A, B, C], context=reader({BOB: 0, 9: 0})).told())
    assert "NOT as stored" in text
    assert "hides 2 entries that should be shown, and shows 0" in text
    assert f"The cached context does not know that this reader follows user {ANN}." in text
    assert "The cached context still says that this reader follows user 9." in text
    assert f"lapses by itself within {LIMITS.reader_lease_seconds} s" in text


def test_without_a_list_the_next_read_is_said_to_build_it() -> None:
    look = Story([]).told().look
    text = said(Comparison(replace(look, home=None, reader=reader({})), None, ()))
    assert "none in Redis: the next read builds it" in text
    assert "is this the id of the user that you mean?" in text


def test_every_kind_and_cause_has_words() -> None:
    look = Story([A]).told().look
    about_tweets = [
        Difference(what, cause, UserId(ANN), TweetId(A.tweet_id))
        for cause in Cause
        for what in (What.missing, What.extra, What.altered, What.shown, What.hidden, What.unmarked)
    ]
    about_context = [
        Difference(what, Cause.context, UserId(BOB), None, column)
        for what in (What.lacks, What.keeps, What.dated)
        for column in ("followees", "blocked", "blocked_by", "muted", "since_ms")
    ]
    for difference in (*about_tweets, *about_context):
        text = said(Comparison(look, None, (difference,)))
        assert f"[{difference.cause.value}]" in text
        assert not re.search(r"None|limits|[{](?!\d+[}])", text), text


def test_a_thousand_differences_do_not_make_a_thousand_lines() -> None:
    look = Story([A]).told().look
    many = tuple(Difference(What.missing, Cause.push, UserId(user), TweetId(A.tweet_id)) for user in range(1000))
    text = said(Comparison(look, None, many))
    assert len(text.splitlines()) < 120
    assert "and 980 more differences" in text


def test_a_summary_counts_by_cause() -> None:
    found = Story([A, B, C], [C]).told()
    assert summary_of(found.differences) == {"push": 2}


def test_how_to_heal_a_list_is_told_by_its_key_where_it_would_not_heal_by_itself() -> None:
    assert "DEL 'timeline:{1}'" in said(Story([A, B, C], [C]).told())
    pulled = Story([A, B], [A], notices=notices((BOB, BUILT, STANDS)), profiles={BOB: view([])})
    assert "DEL 'profile:{3}'" in said(pulled.told())
    assert "DEL" not in said(Story([A], home=view([], on=ANOTHER)).told()), "the next read does it"
    assert "DEL" not in said(Story([A], context=reader({})).told()), "it lapses"
