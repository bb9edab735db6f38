"""How far a slice has come."""

from __future__ import annotations

from collections.abc import Iterator

from timeline.domain.ids import TweetId, UserId
from timeline.fanout.ports import Progress
from timeline.store import Store


async def test_progress_is_as_last_saved_of_each_slice(store: Store, users: Iterator[UserId]) -> None:
    tweet = TweetId(next(users))
    assert await store.progress.read(tweet, 0) == Progress()
    await store.progress.save(tweet, 0, Progress(after=2**62))
    await store.progress.save(tweet, 1, Progress(is_done=True))
    assert await store.progress.read(tweet, 0) == Progress(after=2**62)
    assert await store.progress.read(tweet, 1) == Progress(is_done=True)
    await store.progress.save(tweet, 0, Progress(is_done=True))
    assert (await store.progress.read(tweet, 0)).is_done
    assert await store.progress.read(tweet, 2) == Progress()
