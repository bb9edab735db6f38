"""Everything stored, behind one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from timeline.settings import Settings
from timeline.store import (
    budget,
    bulk,
    by_time,
    edits,
    followers,
    graph,
    history,
    holes,
    idempotency,
    intervals,
    leases,
    likes,
    markers,
    marks,
    migrations,
    notices,
    outbox,
    progress,
    relations,
    retweets,
    shards,
    tweets,
    users,
)
from timeline.store.session import Session, open_session, statements_of

_MODULES = (
    bulk,
    by_time,
    edits,
    followers,
    graph,
    history,
    holes,
    idempotency,
    intervals,
    leases,
    likes,
    markers,
    marks,
    outbox,
    progress,
    relations,
    retweets,
    shards,
    tweets,
    users,
)


@dataclass(frozen=True, slots=True)
class Store:
    """One object for each thing stored; they share the session."""

    session: Session
    tweets: tweets.Tweets
    outbox: outbox.Outbox
    history: history.StoreHistory
    graph: graph.Graph
    followers: followers.Followers
    progress: progress.SliceProgress
    users: users.Users
    retweets: retweets.Retweets
    relations: relations.Relations
    likes: likes.Likes
    by_time: by_time.MarksByTime
    edits: edits.Edits
    markers: markers.Markers
    marks: marks.StoreMarks
    idempotency: idempotency.IdempotencyKeys
    ids: leases.LeasedIds
    notices: notices.StoreNoticeBoard
    bulk: bulk.Bulk

    async def ping(self) -> None:
        """Raises Unavailable unless some node answers."""
        await self.session.ping()


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Connected, every statement prepared, the notices read once: whoever stays runs `notices.run`. Raises Unavailable, which says
    what to do: also when the schema is missing or older than this release."""
    limits = settings.limits
    async with open_session(settings, limits) as session:
        await migrations.check(session, settings.cassandra_keyspace)
        await session.prepare(statements_of(*_MODULES))
        board = notices.StoreNoticeBoard(session, limits)
        await board.refresh()
        async with leases.open_ids(session, settings, limits) as ids:
            pulls = budget.PullBudget(limits)
            yield Store(
                session=session,
                tweets=tweets.Tweets(session, limits),
                outbox=outbox.Outbox(session, limits),
                history=history.StoreHistory(session, limits, pulls),
                graph=graph.Graph(session, limits),
                followers=followers.Followers(session, limits),
                progress=progress.SliceProgress(session),
                users=users.Users(session, limits),
                retweets=retweets.Retweets(session, limits, pulls),
                relations=relations.Relations(session, limits),
                likes=likes.Likes(session),
                by_time=by_time.MarksByTime(session, limits),
                edits=edits.Edits(session, tweets.Tweets(session, limits)),
                markers=markers.Markers(session),
                marks=marks.StoreMarks(session, limits),
                idempotency=idempotency.IdempotencyKeys(session, limits),
                ids=ids,
                notices=board,
                bulk=bulk.Bulk(session, limits),
            )
