"""What stands on what: writing over store, cache and event log; reading over cache and store. Nowhere else do the rooms meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from time import time_ns
from typing import Any

from timeline import metrics
from timeline.assembly.examine import Examiner
from timeline.assembly.hydrate import Hydrator
from timeline.assembly.marked import Marked
from timeline.assembly.pages import Pages
from timeline.assembly.people import People
from timeline.assembly.present import Presenter
from timeline.assembly.readers import Leased
from timeline.assembly.service import Reading
from timeline.assembly.skeleton import Walks
from timeline.cache import Cache, open_cache
from timeline.cache.keys import Keys
from timeline.domain.cursors import Signer, parse_keys
from timeline.domain.events import TweetCreated
from timeline.domain.notices import STANDS
from timeline.domain.records import ListKind
from timeline.eventlog.publisher import Publisher, open_publisher
from timeline.fanout.ports import Events, Slices
from timeline.fanout.worker import Fanout, run_fanout
from timeline.ops.ports import Board, CountedFollowers, Doors
from timeline.settings import SettingError, Settings
from timeline.store import Store, open_store
from timeline.writing.edits import Edits
from timeline.writing.likes import Likes
from timeline.writing.markers import Markers
from timeline.writing.relations import Relations
from timeline.writing.service import Writer
from timeline.writing.sight import Sight


def make_writer(settings: Settings, store: Store, cache: Cache, events: Publisher) -> Writer:
    return Writer(
        users=store.users,
        graph=store.graph,
        ids=store.ids,
        tweets=store.tweets,
        retweets=store.retweets,
        idempotency=store.idempotency,
        readers=cache.readers,
        marks=cache.marks,
        authors=cache.contents,
        states=cache.contents,
        lists=cache.lists,
        events=events,
        limits=settings.limits,
    )


def make_relations(settings: Settings, store: Store, cache: Cache) -> Relations:
    return Relations(
        users=store.users,
        graph=store.graph,
        relations=store.relations,
        ids=store.ids,
        readers=cache.readers,
        limits=settings.limits,
    )


def make_likes(settings: Settings, store: Store, cache: Cache) -> Likes:
    return Likes(
        users=store.users,
        sight=Sight(graph=store.graph, tweets=store.tweets),
        likes=store.likes,
        ids=store.ids,
        marks=cache.marks,
        limits=settings.limits,
    )


def make_edits(settings: Settings, store: Store, cache: Cache) -> Edits:
    return Edits(
        sight=Sight(graph=store.graph, tweets=store.tweets),
        counts=store.tweets,
        edits=store.edits,
        ids=store.ids,
        states=cache.contents,
        limits=settings.limits,
    )


def make_markers(store: Store) -> Markers:
    return Markers(users=store.users, markers=store.markers, ids=store.ids)


def make_marked(signer: Signer, store: Store, reading: Reading, people: People) -> Marked:
    return Marked(reading=reading, people=people, marked_by=store.by_time, signer=signer)


@asynccontextmanager
async def open_reading(
    settings: Settings, signer: Signer, store: Store, cache: Cache
) -> AsyncIterator[tuple[Reading, People]]:
    """Leaving waits for fills of caches that are under way."""
    limits = settings.limits
    hydrator = Hydrator(
        cache=cache.contents, tweets=store.tweets, users=store.users, limits=limits, media_url=settings.media_url
    )
    readers = Leased(cache.readers, store.graph.reader)
    marks = Leased(cache.marks, store.marks.marks)
    walks = Walks(lists=cache.lists, history=store.history, board=store.notices, limits=limits)
    reading = Reading(
        walks=walks,
        hydrator=hydrator,
        pages=Pages(hydrator=hydrator, retweets=store.retweets, limits=limits),
        presenter=Presenter(hydrator=hydrator, marks=marks, store_marks=store.marks),
        readers=readers,
        signer=signer,
        limits=limits,
        clock_ms=_now_ms,
    )
    people = People(users=store.users, graph=store.graph, readers=readers, signer=signer, limits=limits)
    try:
        yield reading, people
    finally:
        await walks.close()
        await hydrator.close()


def make_examiner(settings: Settings, store: Store, cache: Cache) -> Examiner:
    return Examiner(
        lists=cache.lists,
        contexts=cache.readers,
        states=cache.contents,
        graph=store.graph,
        history=store.history,
        rows=store.tweets,
        board=store.notices,
        limits=settings.limits,
        clock_ms=_now_ms,
    )


@asynccontextmanager
async def open_examiner(settings: Settings) -> AsyncIterator[Examiner]:
    """What readers are examined with by whoever is no process of the service. Raises Unavailable."""
    async with open_store(settings) as store, open_cache(settings) as cache:
        keeping = asyncio.create_task(store.notices.run(), name="notices")
        try:
            yield make_examiner(settings, store, cache)
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))


def make_fanout(
    settings: Settings,
    store: Store,
    cache: Cache,
    tweets: Events[TweetCreated],
    slices: Slices,
    stopping: asyncio.Event,
) -> Coroutine[Any, Any, None]:
    """The work of a fan-out process, to be awaited once."""
    metrics.PULLED_AUTHORS.set_function(lambda: (store.notices.read()[0].until_ms == STANDS).sum())
    fanout = Fanout(
        tweets,
        slices,
        store.followers,
        store.progress,
        cache.lists,
        store.notices,
        settings.limits,
        push_followers_max=settings.push_followers_max,
    )
    return run_fanout(fanout, settings.limits, stopping)


@asynccontextmanager
async def open_classes(settings: Settings) -> AsyncIterator[tuple[Board, CountedFollowers]]:
    """Who is pulled, kept fresh, and who has how many followers. Raises Unavailable."""
    async with open_store(settings) as store:
        keeping = asyncio.create_task(store.notices.run(), name="notices")
        try:
            yield store.notices, store.followers
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))


def list_key(settings: Settings, kind: ListKind, user_id: int) -> str:
    """How Redis calls a list, for a person to type."""
    return Keys(settings.redis_key_prefix).list_of(kind, user_id).decode()


def make_signer(settings: Settings) -> Signer:
    """Raises SettingError."""
    if settings.cursor_keys is None:
        raise SettingError(
            "TIMELINE_CURSOR_KEYS",
            "there is no key to sign cursors with",
            "Set number:secret with a secret of at least 16 bytes, the same for every api process.",
        )
    try:
        return Signer(parse_keys(settings.cursor_keys.get_secret_value()))
    except ValueError as error:
        raise SettingError(
            "TIMELINE_CURSOR_KEYS", str(error), "Set number:secret, or new and old ones with commas between."
        ) from error


@asynccontextmanager
async def open_doors(settings: Settings) -> AsyncIterator[Doors]:
    """What a load goes through. Raises Unavailable. Leaving waits for events under way, within drain_seconds."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        cache = await stack.enter_async_context(open_cache(settings))
        events = await stack.enter_async_context(open_publisher(settings, store.outbox))
        yield Doors(store.bulk, make_writer(settings, store, cache, events), store.tweets, cache)


def _now_ms() -> int:
    return time_ns() // 1_000_000
