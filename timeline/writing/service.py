"""Writing: what POST, PUT and DELETE do. The same code serves the API and `timeline load`.

Order of every write: check, write to the store, make caches forget or know, answer. What is answered is stored; what is stored reaches
everybody, whoever dies (the outbox row is in the tweet's own batch).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from timeline.domain import handles, pauses
from timeline.domain.errors import BadRequest, Fault, Stored, Unavailable, after_effect
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, TweetKey, User, Visibility
from timeline.domain.pauses import Point
from timeline.domain.records import State
from timeline.writing.contexts import Contexts
from timeline.writing.drafts import Draft, checked
from timeline.writing.ports import (
    AuthorCache,
    EventLog,
    GraphStore,
    IdempotencyStore,
    Ids,
    Lease,
    OwnLists,
    Reservation,
    Retweeted,
    RetweetStore,
    StateCache,
    TweetStore,
    UserStore,
)
from timeline.writing.sight import Sight, must_exist, no_tweet

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Posted:
    """The tweet and its author. `is_new`: this very call has written it, and nothing has become of it yet."""

    tweet: Tweet
    author: User
    is_new: bool


@dataclass(frozen=True, slots=True)
class RetweetOutcome:
    """The retweet's own id (None: there never was one to undo), and how many retweets the source has now."""

    retweet_id: TweetId | None
    retweets_count: int


class Graph:
    """Users and who follows whom."""

    def __init__(
        self, *, users: UserStore, graph: GraphStore, ids: Ids, readers: Lease, authors: AuthorCache, limits: Limits
    ) -> None:
        self._users, self._graph, self._ids = users, graph, ids
        self._contexts, self._authors, self._limits = Contexts(readers, limits), authors, limits

    async def put_user(self, user_id: UserId, handle: str, name: str, avatar_url: str | None) -> User:
        """The user, made or changed. Raises BadRequest: invalid-user, handle-taken, user-not-found (an erased one)."""
        faults = tuple(
            Fault(pointer, wrong)
            for pointer, wrong in (
                ("/handle", handles.handle_fault(handle)),
                ("/name", handles.name_fault(name, self._limits.name_characters_max)),
            )
            if wrong
        )
        if faults:
            raise BadRequest("invalid-user", "The user was not changed.", faults)
        now = self._ids.now_us()
        user = User(id=user_id, handle=handle, name=name, avatar_url=avatar_url, created_ms=now // 1000, version=now)
        stored = await self._users.put(user)
        try:
            await self._authors.drop_author(user_id)
        except Unavailable:
            log.info("author_cache_not_told", extra={"until_seconds": self._limits.author_seconds})
        return stored

    async def follow(self, me: UserId, other: UserId) -> None:
        """Holds from the next read. Raises BadRequest: self-follow, user-not-found, blocked, too-many-followees; Stored."""
        if me == other:
            raise BadRequest("self-follow", "Nobody follows themselves.")
        await must_exist(self._users, me, other)
        if await self._graph.is_barred(me, other):
            raise BadRequest("blocked", "A block stands between the two.")
        await self._contexts.mark(me)
        await self._graph.follow(me, other, self._ids.now_us())
        with after_effect():
            barred = await self._graph.is_barred(me, other)
            if barred:
                # made since it was first asked: that block ends what it finds, which may have been before this follow was there
                await self._graph.end_across(me, other, self._ids.now_us())
        await self._contexts.forget(me)
        if barred:
            raise BadRequest("blocked", "A block stands between the two.")

    async def unfollow(self, me: UserId, other: UserId) -> None:
        """Holds from the next read. Raises BadRequest("user-not-found"); Stored."""
        await must_exist(self._users, me, other)
        await self._contexts.mark(me)
        await self._graph.unfollow(me, other, self._ids.now_us())
        await self._contexts.forget(me)


class Writer(Graph):
    """Tweets and retweets, beside users and follows."""

    def __init__(
        self,
        *,
        users: UserStore,
        graph: GraphStore,
        ids: Ids,
        tweets: TweetStore,
        retweets: RetweetStore,
        idempotency: IdempotencyStore,
        readers: Lease,
        marks: Lease,
        authors: AuthorCache,
        states: StateCache,
        lists: OwnLists,
        events: EventLog,
        limits: Limits,
    ) -> None:
        super().__init__(users=users, graph=graph, ids=ids, readers=readers, authors=authors, limits=limits)
        self._tweets, self._retweets, self._idempotency = tweets, retweets, idempotency
        self._marks, self._states, self._lists, self._events = marks, states, lists, events
        self._sight = Sight(graph=graph, tweets=tweets)

    async def post(self, me: UserId, draft: Draft, idempotency_key: str | None = None) -> Posted:
        """The tweet, stored and on its way. Raises BadRequest: invalid-tweet, user-not-found, tweet-not-found (what it replies to or
        quotes), idempotency-conflict. A retry under the same key returns the first tweet."""
        draft = checked(draft, self._limits)
        author = (await must_exist(self._users, me))[me]
        mine = Reservation(await self._ids.mint(), self._ids.now_us(), draft.fingerprint())
        held = None if idempotency_key is None else await self._idempotency.find(me, idempotency_key)
        if held is None:
            # composed before the key is reserved: what is refused leaves nothing behind
            tweet = await self._compose(me, draft, mine)
            if idempotency_key is not None:
                held = await self._idempotency.reserve(me, idempotency_key, mine)
        if held is not None and held != mine:
            first = await self._posted_under(me, held, mine.body_hash)
            if first is not None:
                return Posted(first, author, False)
            tweet = await self._compose(me, draft, held)
        await self._publish(tweet)
        return Posted(tweet, author, tweet.id == mine.tweet_id)

    async def _posted_under(self, me: UserId, held: Reservation, body_hash: bytes) -> Tweet | None:
        """The first tweet of a key that was used before; None if its request died before it was stored, or is still at it: then the
        same batch is written again, which changes nothing."""
        if held.body_hash != body_hash:
            raise BadRequest("idempotency-conflict", "This Idempotency-Key was used for another tweet.")
        return (await self._tweets.get_many([TweetKey(me, held.tweet_id)])).get(held.tweet_id)

    async def delete(self, me: UserId, tweet_id: TweetId) -> None:
        """Gone from the next read of anyone; a retweet is undone. Raises BadRequest: tweet-not-found, not-yours; Stored."""
        tweet = await self._sight.find(tweet_id)
        if tweet.author_id != me:
            if tweet.deleted or not await self._sight.may_see(me, tweet):
                raise no_tweet(tweet_id)
            raise BadRequest("not-yours", "Only its author deletes a tweet.")
        if tweet.retweet_of is not None:
            await self._undo_only(me, tweet, tweet.retweet_of)
            return
        await self._remove(me, tweet.id, tweet.version)

    async def _undo_only(self, me: UserId, retweet: Tweet, source: TweetId) -> None:
        """This one and no other: a client that repeats it late must not undo what was decided since."""
        marked = await self._mark_marks(me)
        standing = await self._retweets.undo(me, source, self._ids.now_us(), retweet.id)
        with after_effect():
            above = retweet.version if standing is None else max(retweet.version, standing.version)
            await self._remove(me, retweet.id, above)
            await self._forget_marks(me, marked)

    async def retweet(self, me: UserId, tweet_id: TweetId) -> RetweetOutcome:
        """Repeating changes nothing. Raises BadRequest: user-not-found, tweet-not-found, not-retweetable."""
        await must_exist(self._users, me)
        source = await self._sight.source(me, tweet_id)
        if source.visibility is Visibility.followers and source.author_id != me:
            raise BadRequest("not-retweetable", "A tweet for followers only is not for others to retweet.")
        marked = await self._mark_marks(me)
        mine = Retweeted(await self._ids.mint(), True, self._ids.now_us())
        standing = await self._retweets.retweet(me, source.id, mine, partial(self._bury, me))
        with after_effect():
            if standing == mine or not await self._tweets.get_many([TweetKey(me, standing.retweet_id)]):
                # also when it stood already without a row: whoever decided it died before this batch
                await self._publish(_retweet_row(me, source, standing))
            await self._forget_marks(me, marked)
            return RetweetOutcome(standing.retweet_id, await self._retweets.count(source.id))

    async def _bury(self, me: UserId, ended: Retweeted) -> None:
        """Whoever undid it may have died before its row was removed, and the next decision forgets its id."""
        await self._remove(me, ended.retweet_id, ended.version)

    async def unretweet(self, me: UserId, tweet_id: TweetId) -> RetweetOutcome:
        """Repeating changes nothing. Raises BadRequest("tweet-not-found"); Stored."""
        tweet = await self._sight.find(tweet_id)
        source = tweet.retweet_of or tweet.id
        marked = await self._mark_marks(me)
        standing = await self._retweets.undo(me, source, self._ids.now_us())
        with after_effect():
            if standing is not None:
                # whether or not there is a row: one that lands later is then dead already. And again even if it was undone before:
                # whoever did that may have died before the row was removed
                await self._remove(me, standing.retweet_id, standing.version)
            elif tweet.deleted or not await self._sight.may_see(me, tweet):
                raise no_tweet(tweet_id)
            await self._forget_marks(me, marked)
            return RetweetOutcome(None if standing is None else standing.retweet_id, await self._retweets.count(source))

    async def _compose(self, me: UserId, draft: Draft, reservation: Reservation) -> Tweet:
        parent = await self._sight.source(me, draft.reply_to, "/reply_to") if draft.reply_to is not None else None
        quoted = await self._sight.source(me, draft.quote_of, "/quote_of") if draft.quote_of is not None else None
        return Tweet(
            id=reservation.tweet_id,
            author_id=me,
            text=draft.text,
            version=reservation.version,
            visibility=draft.visibility,
            conversation_id=reservation.tweet_id if parent is None else parent.conversation_id,
            reply_to=None if parent is None else parent.id,
            reply_to_user=None if parent is None else parent.author_id,
            quote_of=None if quoted is None else quoted.id,
            quote_author=None if quoted is None else quoted.author_id,
            media_ids=draft.media_ids,
        )

    async def _publish(self, tweet: Tweet) -> None:
        """Durable, then on its way to everybody, and into the author's own lists, so that the next read has it.

        A tweet under an id of long ago (its first request died, and this one goes on) has its outbox row where no sweep may look
        again: then Kafka must have the event before anybody is told that it is posted. Raises Unavailable.
        """
        if pauses.hold is not None:
            await pauses.hold(Point.batch, tweet.id)
        await self._tweets.add(tweet)
        if pauses.hold is not None:
            await pauses.hold(Point.produce, tweet.id)
        age_ms = self._ids.now_us() // 1000 - tweet.created_ms
        if age_ms > self._limits.relay_resweep_seconds * 1000 // 2:
            with after_effect():
                await self._events.produce_created(tweet)
        else:
            self._events.tweet_created(tweet)
        try:
            await self._lists.push_own(tweet.entry)
        except Unavailable:
            log.info("own_lists_not_told", extra={"remedy": "fan-out pushes it to its author as well"})

    async def _remove(self, author: UserId, tweet_id: TweetId, above: int) -> None:
        """Delete under a version above that one: in the store, then for every reader. Repeating it is harmless."""
        version = max(self._ids.now_us(), above + 1)
        await self._tweets.delete(TweetKey(author, tweet_id), version)
        if pauses.hold is not None:
            await pauses.hold(Point.invalidate, tweet_id)
        try:
            await self._states.put_state(tweet_id, State(version, True, False))
        except Unavailable as error:
            raise Stored(
                f"It is deleted, and gone from every page within {self._limits.state_seconds} s; repeating it is harmless."
            ) from error

    async def _mark_marks(self, me: UserId) -> bool:
        try:
            await self._marks.mark(me)
        except Unavailable:
            return False
        return True

    async def _forget_marks(self, me: UserId, marked: bool) -> None:
        """The reader's own likes and retweets are shown, not ruled by: stale ones are a blemish of seconds, and no 503."""
        try:
            await self._marks.drop(me)
        except Unavailable:
            if not marked:
                log.info("marks_not_told", extra={"until_seconds": self._limits.reader_lease_seconds})


def _retweet_row(me: UserId, source: Tweet, decision: Retweeted) -> Tweet:
    return Tweet(
        id=decision.retweet_id,
        author_id=me,
        text="",
        version=decision.version,
        visibility=source.visibility,
        conversation_id=source.conversation_id,
        retweet_of=source.id,
        retweet_author=source.author_id,
    )
