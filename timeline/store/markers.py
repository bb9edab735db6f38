"""How far a reader has read: one row, changed by compare-and-set, the same on every device."""

from __future__ import annotations

from functools import partial

from timeline.domain.errors import OutcomeUnknown
from timeline.domain.ids import TweetId, UserId
from timeline.store.session import Cql, Kind, Session
from timeline.store.settle import settle
from timeline.writing.ports import Marker

_TRIES_MAX = 8  # each lost race is another device of the same reader

_GET = Cql("marker_get", "SELECT tweet_id, version FROM home_markers WHERE user_id = ?")
_FIRST = Cql(
    "marker_first", "INSERT INTO home_markers (user_id, tweet_id, version) VALUES (?, ?, ?) IF NOT EXISTS", Kind.cas
)
_MOVE = Cql(
    "marker_move", "UPDATE home_markers SET tweet_id = ?, version = ? WHERE user_id = ? IF version = ?", Kind.cas
)


class Markers:
    """MarkerStore."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, user_id: UserId, *, serial: bool = False) -> Marker | None:
        """None: it was never set."""
        row = await self._session.one(_GET, (user_id,), serial=serial)
        return Marker(TweetId(row[0]), row[1]) if row else None

    async def move(self, user_id: UserId, wanted: Marker, *, rewind: bool) -> Marker:
        """Forward, or anywhere with `rewind`: the marker that stands now. One that does not move keeps its time."""
        stands = await self.get(user_id)
        values: tuple[int, ...]
        for _ in range(_TRIES_MAX):
            if stands is not None and _is_there(stands.tweet_id, wanted.tweet_id, rewind=rewind):
                return stands
            if stands is None:
                decided = wanted
                statement, values = _FIRST, (user_id, wanted.tweet_id, wanted.version)
            else:
                decided = Marker(wanted.tweet_id, max(wanted.version, stands.version + 1))
                statement, values = _MOVE, (decided.tweet_id, decided.version, user_id, stands.version)
            stands = await settle(self._session, statement, values, decided, partial(self.get, user_id, serial=True))
            if stands == decided:
                return decided
        raise OutcomeUnknown("devices of one reader keep overtaking each other")


def _is_there(stands: int, wanted: int, *, rewind: bool) -> bool:
    return stands == wanted if rewind else stands >= wanted
