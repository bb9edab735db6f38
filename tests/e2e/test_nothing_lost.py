"""What was answered with 201 reaches everybody, once, whatever dies in between."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from tests.stack import Stack, running, until
from timeline.local import Control

AUTHOR, FOLLOWERS = 1, (2, 3, 4)
POSTS = 100
FRESH_MS = 1_200
# Times so short that a follow is soon old: its author is pushed from then on, and not pulled as somebody whom a list may lack
SOON_OLD = json.dumps(
    {
        "clock_skew_ms": 1,
        "reader_lease_seconds": 1,
        "audit_second_look_ms": 100,
        "follower_cache_ms": 100,
        "fresh_follow_ms": FRESH_MS,
    }
)


def sign_up(stack: Stack, *users: int) -> None:
    for user in users:
        status, answer = stack.call(
            "PUT", f"/api/user/{user}", user, {"handle": f"user_{user}", "name": f"User {user}"}
        )
        assert status == 200, answer


def follow(stack: Stack, followers: tuple[int, ...], followee: int) -> None:
    for user in followers:
        status, answer = stack.call("POST", f"/api/follow/{followee}", user)
        assert status == 200, answer
    old_at = time.monotonic() + 2 * FRESH_MS / 1000
    until(lambda: time.monotonic() > old_at, what="the follows are old")


def post(stack: Stack, author: int, text: str) -> int:
    status, answer = stack.call("POST", "/api/tweet", author, {"text": text})
    assert status == 201, answer
    return int(answer["id"])


def test_tweets_posted_while_kafka_is_away_reach_every_follower_once_it_is_back(
    own_engines: Control, tmp_path: Path
) -> None:
    """100 posts without Kafka: each 201; with Kafka again: all in every follower's pushed list, each once."""
    with running(own_engines.env, tmp_path, "api", "fanout", "relay", TIMELINE_LIMITS=SOON_OLD) as stack:
        sign_up(stack, AUTHOR, *FOLLOWERS)
        follow(stack, FOLLOWERS, AUTHOR)
        for user in FOLLOWERS:
            assert stack.walk("/api/timeline/home", user) == []  # from now on there is a list to push to
        own_engines.stop("kafka")
        posted = [post(stack, AUTHOR, f"while the log is away {number}") for number in range(POSTS)]
        assert stack.walk("/api/timeline/home", AUTHOR) == posted[::-1]  # one's own are there at once
        assert stack.walk("/api/timeline/home", FOLLOWERS[0]) == []
        own_engines.start("kafka")
        for user in FOLLOWERS:
            until(
                lambda user=user: stack.walk("/api/timeline/home", user) == posted[::-1],  # type: ignore[misc]
                60,
                f"home of {user}",
            )
            _, page = stack.call("GET", "/api/timeline/home?limit=100", user)
            assert page["source"] == "cache"


def test_a_killed_api_loses_no_acknowledged_tweet_and_leaves_none_half_written(
    engines: Control, tmp_path: Path
) -> None:
    """SIGKILL in the middle of posting, three times; fan-out and relay finish what was acknowledged."""
    with running(engines.env, tmp_path, "api", "fanout", "relay", TIMELINE_LIMITS=SOON_OLD) as stack:
        sign_up(stack, AUTHOR, *FOLLOWERS)
        follow(stack, FOLLOWERS, AUTHOR)
        for user in FOLLOWERS:
            stack.walk("/api/timeline/home", user)
        acknowledged: list[int] = []
        for round_ in range(3):
            posting = [threading.Thread(target=keep_posting, args=(stack, acknowledged)) for _ in range(4)]
            before = len(acknowledged)
            for thread in posting:
                thread.start()
            until(lambda before=before: len(acknowledged) >= before + 40, 30, f"40 posts in round {round_}")  # type: ignore[misc]
            stack.kill("api")
            for thread in posting:
                thread.join(30)
                assert not thread.is_alive()
            stack.start("api")
        profile = stack.walk(f"/api/timeline/user/{AUTHOR}", AUTHOR)
        assert set(acknowledged) <= set(profile)
        for user in FOLLOWERS:
            # also what was stored and not acknowledged: once anybody sees it, everybody does
            until(lambda user=user: stack.walk("/api/timeline/home", user) == profile, 60, f"home of {user}")  # type: ignore[misc]
        for tweet_id in profile:
            status, tweet = stack.call("GET", f"/api/tweet/{tweet_id}", FOLLOWERS[0])
            assert status == 200
            assert tweet["text"].startswith("one of many")
            assert tweet["author"]["id"] == str(AUTHOR)


def keep_posting(stack: Stack, acknowledged: list[int]) -> None:
    """Until the api is gone."""
    while True:
        try:
            status, answer = stack.call("POST", "/api/tweet", AUTHOR, {"text": f"one of many {os.urandom(4).hex()}"})
        except OSError:
            return
        if status == 201:
            acknowledged.append(int(answer["id"]))


def test_a_retried_post_makes_one_tweet_in_parallel_and_across_a_restart(stack: Stack) -> None:
    """The same Idempotency-Key: one tweet and one answer, from 16 clients at once, and after the api was restarted."""
    sign_up(stack, AUTHOR)
    answers: list[tuple[int, dict[str, object]]] = []

    def send() -> None:
        answers.append(stack.call("POST", "/api/tweet", AUTHOR, {"text": "just once"}, Idempotency_Key="k-1"))

    clients = [threading.Thread(target=send) for _ in range(16)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(30)
    stack.stop("api")
    stack.start("api")
    send()
    assert len(answers) == 17
    assert {status for status, _ in answers} == {201}
    assert len({answer["id"] for _, answer in answers}) == 1
    assert len(stack.walk(f"/api/timeline/user/{AUTHOR}", AUTHOR)) == 1
    status, problem = stack.call("POST", "/api/tweet", AUTHOR, {"text": "something else"}, Idempotency_Key="k-1")
    assert status == 409, problem
