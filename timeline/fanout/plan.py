"""Who is to get what: a batch of events and pages of followers, made into pushes of a bounded size. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timeline.domain.entries import Entry, UserIds
from timeline.domain.events import TweetCreated
from timeline.domain.ids import UserId, time_ms
from timeline.domain.limits import Limits
from timeline.fanout.ports import Delivery, FollowerPage

ByAuthor = Mapping[UserId, Sequence[Entry]]
Mask = npt.NDArray[np.bool_]


def by_author(events: Iterable[TweetCreated]) -> ByAuthor:
    """The events' entries by author, in order, an event that came twice only once."""
    entries: dict[UserId, dict[int, Entry]] = {}
    for event in events:
        entries.setdefault(event.author_id, {}).setdefault(event.tweet_id, event.entry)
    return {author: list(each.values()) for author, each in entries.items()}


def is_late(entry: Entry, now_ms: int, limits: Limits) -> bool:
    """Whether a push that begins now may end more than W after the entry's time: readers must be told (DESIGN 5). What takes longer
    than push_timeout_ms is not acknowledged, and pushed again."""
    return now_ms - time_ms(entry.tweet_id) > limits.late_after_ms - limits.push_timeout_ms


def lag_seconds(tweet_id: int, now_ms: int) -> float:
    """Since the tweet was created; clocks differ, so never below 0."""
    return max(0, now_ms - time_ms(tweet_id)) / 1000


@dataclass(frozen=True, slots=True, eq=False)
class Push:
    """Entries with the followers who are to get them. When it starts decides what of it is late."""

    parts: Sequence[tuple[Entry, UserIds]]

    @staticmethod
    def of(deliveries: Iterable[Delivery]) -> Push:
        return Push([(each.entry, each.followers) for each in deliveries])

    def deliveries(self, now_ms: int, limits: Limits) -> list[Delivery]:
        return [Delivery(entry, followers, is_late(entry, now_ms, limits)) for entry, followers in self.parts]

    def only(self, whom: Callable[[UserIds], Mask]) -> Push:
        """The same for some of the followers."""
        parts = ((entry, followers[whom(followers)]) for entry, followers in self.parts)
        return Push([(entry, followers) for entry, followers in parts if len(followers)])

    @property
    def appends(self) -> int:
        return sum(len(followers) for _, followers in self.parts)


class Gathering:
    """Parts gathered until they are worth a push: at most `appends_max` appends, never fewer than one page's worth of one entry."""

    def __init__(self, entries: ByAuthor, appends_max: int) -> None:
        self._entries, self._appends_max = entries, appends_max
        self._parts: list[tuple[Entry, UserIds]] = []
        self._appends = 0

    def add(self, page: FollowerPage) -> Iterator[Push]:
        """Each entry of the page's author for each of its followers; yields what is full."""
        if not len(page.followers):
            return
        for entry in self._entries.get(page.author_id, ()):
            if self._parts and self._appends + len(page.followers) > self._appends_max:
                yield from self.rest()
            self._parts.append((entry, page.followers))
            self._appends += len(page.followers)

    def rest(self) -> Iterator[Push]:
        """What is left, if anything."""
        if self._parts:
            yield Push(self._parts)
            self._parts, self._appends = [], 0
