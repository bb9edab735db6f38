"""The rule by which an author comes to be pulled, and to be pushed again. Pure; the worker and `timeline job reclassify` share it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from timeline.domain.limits import Limits


class Change(Enum):
    """What is to be done about an author's interval."""

    begin = auto()
    end = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """`push_max`: with more followers than this, an author comes to be pulled; with less than `until_percent` of it, to be pushed."""

    push_max: int
    until_percent: int
    shard_size: int

    @staticmethod
    def of(limits: Limits, push_followers_max: int) -> Rule:
        return Rule(push_followers_max, limits.pull_until_percent, limits.follower_shard_size)

    def change(self, followers: int, *, stands: bool, is_ending: bool) -> Change | None:
        """`stands`: an interval of the author is known to stand. `is_ending`: its end was begun, and is not known to be written: that
        is finished first, whatever the number, since till then the author is pushed and pulled. To begin what stands is harmless."""
        if is_ending or (stands and self.is_few(followers)):
            return Change.end
        return Change.begin if followers > self.push_max else None

    def is_few(self, followers: int) -> bool:
        """Whether a pulled author with so many is pushed again."""
        return followers * 100 < self.push_max * self.until_percent

    @property
    def enough(self) -> int:
        """How far followers are to be counted: more say nothing more."""
        return self.push_max + 1

    def may_be_many(self, shards: int) -> bool:
        """Whether the followers in so many shards may be above the threshold. A shard holds a few more than its size: the next one is
        opened by chance soon after it is full."""
        return shards * self.shard_size * 5 // 4 > self.push_max
