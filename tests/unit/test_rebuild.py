"""Rebuilding: who is admitted, and what is given back."""

from __future__ import annotations

from timeline.assembly.ports import Building
from timeline.assembly.rebuild import Rebuilder
from timeline.assembly.whose import Whose
from timeline.domain.entries import NO_ENTRIES, Stretch
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.records import ListKind

AWAY = range(8)  # users whose Redis node is away


class Engines:
    """`begin_build` puts nothing where the node is away; the store is asked then by nobody."""

    async def begin_build(self, kind: ListKind, user_id: UserId) -> Building | None:
        return None if user_id in AWAY else Building(1, b"a primary of 20 byte")

    async def install(self, *_: object) -> bool:
        return True

    async def stretch(self, *_: object) -> Stretch:
        return Stretch(NO_ENTRIES, 0)


def rebuilder(at_once: int) -> Rebuilder:
    limits = Limits(rebuilds_in_flight=at_once, rebuilds_per_second=1)
    return Rebuilder(Engines(), Engines(), limits, lambda: 0.0)  # type: ignore[arg-type]


async def test_lists_on_a_node_that_is_away_take_no_permit_from_others() -> None:
    made = rebuilder(len(AWAY))
    for user in AWAY:
        assert not await made.build(Whose.profile(UserId(user), 1))
    assert await made.build(Whose.profile(UserId(100), 1))


async def test_no_more_are_built_than_are_admitted() -> None:
    made = rebuilder(2)
    assert [await made.build(Whose.profile(UserId(user), 1)) for user in (101, 102, 103)] == [True, True, False]


async def test_lists_of_pulled_authors_take_no_permit_from_homes() -> None:
    made = rebuilder(1)
    assert await made.build(Whose.profile(UserId(101), 1))
    home = Whose(
        ListKind.home, UserId(201), Whose.profile(UserId(201), 1).everyone, Whose.profile(UserId(201), 1).seen, 1
    )
    assert await made.build(home)
