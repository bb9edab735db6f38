"""Reading: what GET does with tweets and timelines. Each call is the stages by name: skeleton, filter, hydrate, rules, present."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from timeline.assembly.hydrate import Hydrator
from timeline.assembly.newer import Newer, News
from timeline.assembly.pages import Found, Item, Pages
from timeline.assembly.ports import Moment
from timeline.assembly.present import Presenter
from timeline.assembly.readers import Leased
from timeline.assembly.skeleton import Walk, Walks
from timeline.assembly.whose import Whose
from timeline.domain import rules
from timeline.domain.cursors import Cursor, Signer
from timeline.domain.entries import RETWEET_BIT, Entry
from timeline.domain.errors import BadRequest, Unavailable
from timeline.domain.ids import ID_MAX, TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Reader, Tweet, User
from timeline.domain.records import ListKind
from timeline.metrics import DEGRADED_PAGES, PAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a timeline as API.md has it; `tweets` are JSON objects as bytes."""

    tweets: list[bytes]
    next_cursor: str | None
    newer_cursor: str
    source: str
    order: str = "recent"
    degraded: bool = False
    missing: int = 0
    gap: bool = False
    reset: bool = False

    @property
    def has_more(self) -> bool:
        return self.next_cursor is not None


class Reading:
    """Timelines and tweets, as one reader may see them. Shared by all requests."""

    def __init__(
        self,
        *,
        walks: Walks,
        hydrator: Hydrator,
        pages: Pages,
        presenter: Presenter,
        readers: Leased[Reader],
        signer: Signer,
        limits: Limits,
        clock_ms: Callable[[], int],
    ) -> None:
        self._walks, self._hydrator = walks, hydrator
        self._pages, self._presenter, self._readers = pages, presenter, readers
        self._signer, self._limits = signer, limits
        self._newer, self._clock_ms = Newer(pages, limits), clock_ms

    async def reader(self, me: UserId | None) -> Reader | None:
        """The context of the one who asks. Raises Unavailable: without it there is no page (it fails closed)."""
        return None if me is None else await self._readers.get(me)

    async def home(self, me: UserId, cursor: str | None, limit: int, *, explain: bool = False) -> Page:
        """The home timeline in recent order. Raises BadRequest("bad-cursor"); Unavailable when nothing can be read."""
        scope = f"home:recent:{me}:{me}"
        at = self._signer.read(cursor, scope) if cursor is not None else None
        as_of_ms = self._clock_ms()
        reader = await self._readers.get(me)
        whose = Whose.home(reader, as_of_ms)
        return await self._page(whose, reader, at, scope, limit, explain)

    async def profile(
        self, me: UserId | None, user_id: UserId, cursor: str | None, limit: int, *, explain: bool = False
    ) -> Page:
        """What one user has written, newest first. Raises BadRequest: bad-cursor, user-not-found; Unavailable."""
        scope = f"profile:recent:{user_id}:{me or 0}"
        at = self._signer.read(cursor, scope) if cursor is not None else None
        reader = await self.reader(me)
        author = await self._hydrator.author(user_id)
        if author is None or author.deleted or (reader is not None and reader.bars(user_id)):
            raise BadRequest("user-not-found", f"There is no user {user_id}.")
        whose = Whose.profile(user_id, self._clock_ms())
        return await self._page(whose, reader, at, scope, limit, explain)

    async def tweets(self, me: UserId | None, tweet_ids: Sequence[TweetId]) -> list[bytes]:
        """Those that exist and may be seen, in the order asked; a retweet's id answers the retweeted tweet. Raises Unavailable."""
        reader = await self.reader(me)
        shown, _ = await self._shown(reader, tweet_ids)
        return shown

    def moment(self) -> Moment:
        """Now, as the caches tell it."""
        return self._hydrator.moment()

    async def just_written(self, tweet: Tweet, author: User, before: Moment) -> bytes:
        """What its author is answered of a new tweet that quotes nothing; `before` is a moment from before it was written."""
        return await self._presenter.just_written(tweet, author, before)

    async def source_of(self, me: UserId | None, tweet_id: TweetId) -> TweetId:
        """The tweet that an id means: of a retweet, the retweeted one. Raises BadRequest("tweet-not-found") if it may not be seen;
        Unavailable."""
        shown, items = await self._shown(await self.reader(me), [tweet_id])
        if not shown:
            raise BadRequest("tweet-not-found", f"There is no tweet {tweet_id}.")
        return items[0].post.tweet_id

    async def _shown(self, reader: Reader | None, tweet_ids: Sequence[TweetId]) -> tuple[list[bytes], list[Item]]:
        """As JSON, and the items that were made into it, but for those whose author is gone."""
        wanted = list(dict.fromkeys(tweet_ids))
        contents = await self._hydrator.contents(wanted, (), {})
        sources = {
            post.retweet_of: post.retweet_author for post in contents.posts.values() if post.retweet_of is not None
        }
        if sources:
            known = {tweet_id: author for tweet_id, author in sources.items() if author is not None}
            below = await self._hydrator.contents(list(sources), (), known)
            contents.posts |= below.posts
            contents.states |= below.states
            contents.missing |= below.missing
        items = []
        for tweet_id in wanted:
            post = contents.posts.get(tweet_id)
            source = None if post is None else contents.posts.get(post.retweet_of or tweet_id)
            if (
                post is None
                or source is None
                or not contents.is_live(tweet_id)
                or not contents.is_live(source.tweet_id)
            ):
                continue
            only = contents.states[source.tweet_id].followers_only
            # who may see a retweet is a question of its source's visibility, which may have changed since
            if rules.may_see(post.author_id, followers_only=False, reader=reader) and rules.may_see(
                source.author_id, followers_only=only, reader=reader
            ):
                entry = Entry(tweet_id, post.author_id, 0 if post is source else source.tweet_id | RETWEET_BIT)
                items.append(Item(entry, source))
        if contents.missing:
            raise Unavailable(f"{len(contents.missing)} tweets could not be looked up")
        shown, nameless = await self._presenter.tweets(items, contents, reader, hides_muted=False)
        if nameless:
            raise Unavailable("the authors could not be looked up")
        return shown, items

    async def _page(
        self, whose: Whose, reader: Reader | None, at: Cursor | None, scope: str, limit: int, explain: bool
    ) -> Page:
        walk = await self._walks.begin(whose, None if at is not None else self._limits.tail_entries)
        if at is not None and at.direction == "newer":
            news = await self._newer.read(walk, reader, at, limit)
            return await self._present_news(news, walk, whose, reader, at, scope, explain)
        boundary = at.boundary if at is not None else ID_MAX
        found = await self._pages.older(walk, whose.kind, reader, boundary, limit)
        top = found.items[0].entry.tweet_id if found.items else boundary - 1
        highest = found.highest if at is None else top
        newer = await self._newer.after_page(walk, highest, is_first=at is None, bottom=found.boundary or 0)
        onward = None if found.boundary is None else Cursor("older", found.boundary)
        return await self._present(found, walk, whose, reader, scope, explain, onward, newer)

    async def _present_news(
        self, news: News, walk: Walk, whose: Whose, reader: Reader | None, at: Cursor, scope: str, explain: bool
    ) -> Page:
        items = news.found.items
        lowest = items[-1].entry.tweet_id if items else at.boundary + 1
        onward = Cursor("older", lowest) if items or at.boundary else None
        return await self._present(
            news.found, walk, whose, reader, scope, explain, onward, news.cursor, gap=news.gap, reset=news.reset
        )

    async def _present(
        self,
        found: Found,
        walk: Walk,
        whose: Whose,
        reader: Reader | None,
        scope: str,
        explain: bool,
        onward: Cursor | None,
        newer: Cursor,
        *,
        gap: bool = False,
        reset: bool = False,
    ) -> Page:
        tweets, nameless = await self._presenter.tweets(
            found.items, found.contents, reader, hides_muted=whose.kind is ListKind.home, explain=explain
        )
        if nameless:
            DEGRADED_PAGES.labels("author").inc()
        PAGES.labels(whose.kind.name, walk.source).inc()
        return Page(
            tweets=tweets,
            next_cursor=None if onward is None else self._signer.write(onward, scope),
            newer_cursor=self._signer.write(newer, scope),
            source=walk.source,
            degraded=found.degraded or walk.degraded or nameless > 0,
            missing=found.missing + nameless,
            gap=gap,
            reset=reset,
        )
