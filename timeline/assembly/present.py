"""Present: items into JSON bytes, joined from fragments. Names and quotes are looked up here, for the whole page at once.

Open: a name that cannot be looked up leaves its item out, counted as missing; a quote that cannot be is unavailable.
"""

from __future__ import annotations

from collections.abc import Sequence

from timeline.assembly import fragments
from timeline.assembly.hydrate import Contents, Hydrator
from timeline.assembly.pages import Item, shown_authors
from timeline.assembly.ports import MarksReader, Moment
from timeline.assembly.readers import Leased
from timeline.domain import rules
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Reader, Tweet, User
from timeline.domain.records import Author, Marks, Post


class Presenter:
    """Shared by all requests."""

    def __init__(self, *, hydrator: Hydrator, marks: Leased[Marks], store_marks: MarksReader) -> None:
        self._hydrator, self._marks, self._store_marks = hydrator, marks, store_marks

    async def tweets(
        self,
        items: Sequence[Item],
        contents: Contents,
        reader: Reader | None,
        *,
        hides_muted: bool,
        explain: bool = False,
    ) -> tuple[list[bytes], int]:
        """Each item as a JSON object, in order, and how many had to be left out since a name could not be looked up.

        `hides_muted`: whether quotes of muted users are unavailable (in home, not elsewhere).
        """
        quotes = await self._quotes(items)
        users = shown_authors(items) + [post.author_id for post in quotes.posts.values()]
        users += [post.reply_to_user for post in quotes.posts.values() if post.reply_to_user is not None]
        authors = await self._hydrator.authors(users)
        viewers = await self._viewers(items, quotes, reader)
        shown, left_out = [], 0
        for item in items:
            author, retweeter = authors.get(item.post.author_id), authors.get(item.entry.author_id)
            if author is None or retweeter is None:
                left_out += 1
            elif not (author.deleted or retweeter.deleted):
                quote = self._quote(item.post, quotes, authors, viewers, reader, hides_muted)
                shown.append(self._tweet(item, contents, authors, viewers, quote, _why(item) if explain else b""))
        return shown, left_out

    async def just_written(self, tweet: Tweet, author: User, before: Moment) -> bytes:
        """A new tweet that quotes nothing, to its author, from what is known of it: nothing is asked but a name that it replies to.
        `before`: see Hydrator.written."""
        post, state = self._hydrator.written(tweet, before)
        named = await self._hydrator.authors([] if post.reply_to_user is None else [post.reply_to_user])
        return fragments.tweet(
            post,
            state,
            fragments.author_of(author),
            replied_to=self._replied_to(post, named),
            quote=fragments.NULL,
            position=tweet.id,
            viewer=fragments.UNMARKED,
            retweeted_by=fragments.NULL,
        )

    def _tweet(
        self,
        item: Item,
        contents: Contents,
        authors: dict[UserId, Author],
        viewers: dict[TweetId, bytes],
        quote: bytes,
        why: bytes,
    ) -> bytes:
        entry, post = item.entry, item.post
        is_retweet = entry.retweet_of is not None
        return fragments.tweet(
            post,
            contents.states[post.tweet_id],
            authors[post.author_id],
            replied_to=self._replied_to(post, authors),
            quote=quote,
            position=entry.tweet_id,
            viewer=viewers[post.tweet_id],
            retweeted_by=fragments.retweeted_by(entry.tweet_id, authors[entry.author_id]) if is_retweet else b"null",
            why=why,
        )

    def _quote(
        self,
        post: Post,
        quotes: Contents,
        authors: dict[UserId, Author],
        viewers: dict[TweetId, bytes],
        reader: Reader | None,
        hides_muted: bool,
    ) -> bytes:
        """The quoted tweet, with its own quote left null."""
        if post.quote_of is None:
            return fragments.NULL
        quoted = quotes.posts.get(post.quote_of)
        if quoted is None or not quotes.is_live(quoted.tweet_id):
            return fragments.unavailable_quote(post.quote_of)
        state, author = quotes.states[quoted.tweet_id], authors.get(quoted.author_id)
        muted = hides_muted and reader is not None and reader.mutes(quoted.author_id)
        seen = rules.may_see(quoted.author_id, followers_only=state.followers_only, reader=reader)
        if author is None or author.deleted or muted or not seen:
            return fragments.unavailable_quote(post.quote_of)
        return fragments.tweet(
            quoted,
            state,
            author,
            replied_to=self._replied_to(quoted, authors),
            quote=fragments.NULL,
            position=quoted.tweet_id,
            viewer=viewers[quoted.tweet_id],
            retweeted_by=fragments.NULL,
        )

    @staticmethod
    def _replied_to(post: Post, authors: dict[UserId, Author]) -> bytes:
        if post.reply_to_user is None:
            return fragments.NULL
        return fragments.reply_to_user(authors.get(post.reply_to_user), post.reply_to_user)

    async def _quotes(self, items: Sequence[Item]) -> Contents:
        quoted = {item.post.quote_of: item.post.quote_author for item in items if item.post.quote_of is not None}
        if not quoted:
            return Contents()
        known = {tweet_id: author for tweet_id, author in quoted.items() if author is not None}
        return await self._hydrator.contents(list(quoted), (), known)

    async def _viewers(self, items: Sequence[Item], quotes: Contents, reader: Reader | None) -> dict[TweetId, bytes]:
        """`viewer` of everything shown. Open: when it cannot be looked up, nothing is marked as liked or retweeted."""
        ids = list(dict.fromkeys([item.post.tweet_id for item in items] + list(quotes.posts)))
        if reader is None:
            return dict.fromkeys(ids, fragments.NULL)
        liked: set[TweetId] = set()
        retweeted: set[TweetId] = set()
        try:
            marks = await self._marks.get(reader.user_id)
            below = [tweet_id for tweet_id in ids if marks.liked(tweet_id) is None or marks.retweeted(tweet_id) is None]
            if below:
                liked, retweeted = await self._store_marks.marked(reader.user_id, below)
        except Unavailable:
            return dict.fromkeys(ids, fragments.UNMARKED)
        return {tweet_id: fragments.viewer(marks, tweet_id, liked, retweeted) for tweet_id in ids}


def _why(item: Item) -> bytes:
    """In recent order there is no score and there are no features."""
    return b',"why":{"via":"%b","score":null,"features":{}}' % item.via.encode()
