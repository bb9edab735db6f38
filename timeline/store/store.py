"""Everything stored, behind one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from timeline.settings import Settings
from timeline.store import (
    bulk,
    followers,
    graph,
    history,
    idempotency,
    leases,
    marks,
    outbox,
    relations,
    retweets,
    shards,
    tweets,
    users,
)
from timeline.store.session import Session, open_session, statements_of

_MODULES = (
    bulk,
    followers,
    graph,
    history,
    idempotency,
    leases,
    marks,
    outbox,
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
    users: users.Users
    retweets: retweets.Retweets
    marks: marks.StoreMarks
    idempotency: idempotency.IdempotencyKeys
    ids: leases.LeasedIds
    bulk: bulk.Bulk

    async def ping(self) -> None:
        """Raises Unavailable unless some node answers."""
        await self.session.ping()


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Connected, every statement prepared. Raises Unavailable, which names the hosts and what to do."""
    limits = settings.limits
    async with (
        open_session(settings, limits, statements_of(*_MODULES)) as session,
        leases.open_ids(session, settings, limits) as ids,
    ):
        yield Store(
            session=session,
            tweets=tweets.Tweets(session, limits),
            outbox=outbox.Outbox(session, limits),
            history=history.StoreHistory(session, limits),
            graph=graph.Graph(session, limits),
            followers=followers.Followers(session, limits),
            users=users.Users(session, limits),
            retweets=retweets.Retweets(session, limits),
            marks=marks.StoreMarks(session, limits),
            idempotency=idempotency.IdempotencyKeys(session, limits),
            ids=ids,
            bulk=bulk.Bulk(session, limits),
        )
