"""Bodies of requests: their shapes only. What makes a tweet or a user is writing's to say.

Every bad member is named by a JSON pointer, at once.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal, TypeVar

import orjson
from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from timeline.api.auth import parse_id
from timeline.api.keys import LIMITS
from timeline.domain.errors import BadRequest, Fault
from timeline.domain.limits import Limits

ID_PATTERN = "^[1-9][0-9]{0,18}$"
_URL_CHARACTERS_MAX = 2048  # what every browser and proxy takes


def _in_range(text: str) -> str:
    if parse_id(text) is None:
        raise ValueError("an id is a decimal string from 1 to 2^63-1")
    return text


Id = Annotated[str, Field(pattern=ID_PATTERN, examples=["1234567890123456789"]), AfterValidator(_in_range)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TweetBody(Body):
    """A tweet to be posted."""

    text: str
    reply_to: Id | None = None
    quote_of: Id | None = None
    media_ids: list[str] = Field(default_factory=list)
    visibility: Literal["public", "followers"] = "public"


class EditBody(Body):
    """What is to be changed of a tweet: at least one member. What is left out stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    # a factory, and no default: left out is not null, and null is neither a text nor a visibility
    text: str = Field(default_factory=str)
    visibility: Literal["public", "followers"] = Field(default_factory=lambda: "public")

    @model_validator(mode="after")
    def _changes_something(self) -> EditBody:
        if not self.model_fields_set:
            raise ValueError("must say what to change: text, visibility or both")
        return self


class MarkerBody(Body):
    """The reading place: the `position` of an item of home."""

    tweet_id: Id
    rewind: bool = False


class UserBody(Body):
    """A profile to be made or changed."""

    handle: str
    name: str
    # a link that a page may show: not javascript:, and nothing that ends an attribute
    avatar_url: (
        Annotated[str, Field(pattern=r"^(https?://|/)[^\s\x00-\x1f<>\"]+$", max_length=_URL_CHARACTERS_MAX)] | None
    ) = None


AnyBody = TypeVar("AnyBody", bound=Body)


async def read_body(request: web.Request, model: type[AnyBody]) -> AnyBody:
    """The body of this shape. Raises BadRequest: bad-content-type, body-too-large, body-timeout, not-json, invalid-body."""
    limits = request.app[LIMITS]
    _check_type(request)
    return parse(await _read(request, limits), model, limits)


def parse(data: bytes, model: type[AnyBody], limits: Limits) -> AnyBody:
    members, repeated = _decode(data)
    if not isinstance(members, dict):
        raise _invalid((Fault("", "the body must be an object"),))
    faults = [Fault(_pointer((name,)), "given twice") for name in repeated]
    try:
        body = model.model_validate(members)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        faults += [Fault(_pointer(one["loc"]), _detail(one["type"], one["msg"])) for one in wrong]
    if faults:
        raise _invalid(tuple(faults[: limits.faults_max]))
    return body


def _check_type(request: web.Request) -> None:
    charset = (request.charset or "utf-8").lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if request.content_type != "application/json" or charset not in ("utf-8", "utf8") or encoding != "identity":
        raise BadRequest("bad-content-type", "Send application/json in UTF-8, not compressed.")


async def _read(request: web.Request, limits: Limits) -> bytes:
    try:
        async with asyncio.timeout(limits.body_read_seconds):
            return await request.read()  # stops at client_max_size
    except TimeoutError:
        raise BadRequest("body-timeout", f"The body must arrive within {limits.body_read_seconds} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limits) from None


def too_large(limits: Limits) -> BadRequest:
    return BadRequest("body-too-large", f"A body has at most {limits.body_bytes_max} bytes.")


def _decode(data: bytes) -> tuple[Any, list[str]]:
    """The value, and the names that an object in it holds twice: orjson keeps the last of them and says nothing."""
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            repeated.extend(sorted({name for name in names if names.count(name) > 1}))

    try:
        value = orjson.loads(data)  # refuses what is no JSON: lone surrogates, NaN, bytes that are no UTF-8
        json.loads(data, object_pairs_hook=note, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        raise BadRequest("not-json", "The body is not JSON in UTF-8.") from None
    return value, repeated


def _pointer(path: tuple[str | int, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _detail(kind: str, message: str) -> str:
    if kind == "missing":
        return "must be there"
    if kind == "extra_forbidden":
        return "is not known here"
    return message.removeprefix("Value error, ")


def _invalid(faults: tuple[Fault, ...]) -> BadRequest:
    return BadRequest("invalid-body", "The body is not what this call takes; nothing was changed.", faults)
