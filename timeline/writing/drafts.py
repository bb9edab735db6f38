"""What a person wants to post, and whether its shape is allowed. Pure: nothing is looked up here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import orjson

from timeline.domain import media, tweet_text
from timeline.domain.errors import BadRequest, Fault
from timeline.domain.ids import TweetId
from timeline.domain.limits import Limits
from timeline.domain.model import Visibility


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A tweet before it has an id: as asked for, or, out of `checked`, with its text in NFC."""

    text: str = ""
    reply_to: TweetId | None = None
    quote_of: TweetId | None = None
    media_ids: tuple[str, ...] = ()
    visibility: Visibility = Visibility.public

    def fingerprint(self) -> bytes:
        """Equal for equal drafts: what an idempotency key is bound to."""
        members = [self.text, self.reply_to, self.quote_of, self.media_ids, self.visibility.value]
        return hashlib.sha256(orjson.dumps(members)).digest()


def checked(draft: Draft, limits: Limits) -> Draft:
    """The draft to be stored. Raises BadRequest("invalid-tweet") that names every bad member."""
    text = tweet_text.normalize(draft.text)
    faults = []
    wrong = tweet_text.text_faults(text, limits=limits, may_be_empty=bool(draft.media_ids))
    if wrong:
        faults.append(Fault("/text", wrong))
    if len(draft.media_ids) > limits.media_max:
        faults.append(Fault("/media_ids", f"at most {limits.media_max} media"))
    for index, item in enumerate(draft.media_ids[: limits.media_max]):
        if not media.is_media_id(item):
            faults.append(Fault(f"/media_ids/{index}", media.RULE))
    if faults:
        raise BadRequest("invalid-tweet", "The tweet was not stored.", tuple(faults))
    return replace(draft, text=text)
