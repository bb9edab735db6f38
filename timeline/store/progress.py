"""How far slices of large fan-outs have come, so that whoever goes on where a worker was killed repeats a page at most."""

from __future__ import annotations

from timeline.domain.ids import TweetId
from timeline.fanout.ports import Progress
from timeline.store.session import Cql, Kind, Session

_GET = Cql("slice_progress", "SELECT follower_after, done FROM fanout_progress WHERE event_id = ? AND slice = ?")
_SAVE = Cql(
    "slice_progress_save",
    "INSERT INTO fanout_progress (event_id, slice, follower_after, done) VALUES (?, ?, ?, ?)",
    Kind.write,
)


class SliceProgress:
    """fanout's ProgressStore. Rows expire after a day (the table's TTL): a slice that comes again later is delivered again, which
    changes nothing that a reader sees."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def read(self, tweet_id: TweetId, shard: int) -> Progress:
        """Raises Unavailable."""
        row = await self._session.one(_GET, (tweet_id, shard))
        return Progress(row[0] or 0, bool(row[1])) if row else Progress()

    async def save(self, tweet_id: TweetId, shard: int, progress: Progress) -> None:
        """What was written last stands: of two workers that deliver the same slice, the slower one repeats what the other did. Raises
        Unavailable."""
        await self._session.run(_SAVE, (tweet_id, shard, progress.after, progress.is_done))
