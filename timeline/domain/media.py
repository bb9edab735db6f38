"""Media ids: what they look like, and the address that one stands for. The media themselves are somebody else's service."""

from __future__ import annotations

import re

RULE = "a media id is image:…, video:… or link:… and 1 to 128 of A-Z a-z 0-9 _ . -"
_MEDIA_ID = re.compile(r"(image|video|link):([A-Za-z0-9_.\-]{1,128})")


def is_media_id(text: str) -> bool:
    return _MEDIA_ID.fullmatch(text) is not None


def kind(media_id: str) -> str:
    """image, video or link."""
    return media_id.partition(":")[0]


def url(media_id: str, template: str) -> str:
    """The template (setting media_url) with {id}, {type} and {name} filled in; other braces are left as they are."""
    type_, _, name = media_id.partition(":")
    values = {"{id}": media_id, "{type}": type_, "{name}": name}
    return re.sub(r"\{(?:id|type|name)\}", lambda found: values[found[0]], template)
