"""The OpenAPI 3.1 document, made from the route table and the models that check requests, so that it cannot say anything else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from timeline.api.answers import PageView, ProblemView, TweetView, UserView
from timeline.api.bodies import ID_PATTERN
from timeline.api.errors import KINDS, PROBLEM_TYPE
from timeline.api.params import described
from timeline.api.routing import Asks, Route
from timeline.domain.limits import Limits

_REFERENCE = "#/components/schemas/{model}"
_ALWAYS = ("internal-error", "unavailable", "overloaded")
_OF_A_BODY = ("not-json", "body-timeout", "body-too-large", "bad-content-type", "invalid-body")


def document(routes: Sequence[Route], limits: Limits) -> bytes:
    """The whole document as JSON."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, limits)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Timeline",
                "version": version("timeline"),
                "description": "Post, follow, read a home timeline. Ids are decimal strings, times RFC 3339 in UTC.",
            },
            "paths": paths,
            "components": {"schemas": _schemas(routes), "securitySchemes": _WAYS},
        }
    )


_WAYS = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "gateway": {"type": "apiKey", "in": "header", "name": "X-User-Id"},
}


def _operation(route: Route, limits: Limits) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": _parameters(route, limits),
        "responses": _answers(route) | _problems(route),
        "security": _security(route.asks),
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _refer(route.body)}}}
    return operation


def _parameters(route: Route, limits: Limits) -> list[dict[str, Any]]:
    identifier = {"type": "string", "pattern": ID_PATTERN}
    named = re.findall(r"{(\w+)}", route.path)
    known = described(limits)
    return [
        *({"name": name, "in": "path", "required": True, "schema": identifier} for name in named),
        *({"name": name, "in": "query", **known[name]} for name in route.query),
        *({"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in route.headers),
    ]


def _answers(route: Route) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, model in route.answers.items():
        answer: dict[str, Any] = {"description": "As asked." if status < 300 else "Nothing has changed."}
        if model is not None:
            answer["content"] = {"application/json": {"schema": _refer(model)}}
        answers[str(status)] = answer
    return answers


def _problems(route: Route) -> dict[str, Any]:
    kinds = list(route.problems)
    if route.asks is not Asks.nobody:
        kinds += (*_ALWAYS, "bad-credentials")
    if route.asks is Asks.must:
        kinds.append("unauthenticated")
    if route.body is not None:
        kinds += _OF_A_BODY
    by_status: dict[str, list[str]] = {}
    for kind in sorted(kinds):
        by_status.setdefault(str(KINDS[kind].status), []).append(kind)
    content = {PROBLEM_TYPE: {"schema": _refer(ProblemView)}}
    return {
        status: {"description": ", ".join(f"/problems/{kind}" for kind in of_status), "content": content}
        for status, of_status in sorted(by_status.items())
    }


def _security(asks: Asks) -> list[dict[str, list[str]]]:
    ways: list[dict[str, list[str]]] = [{"bearer": []}, {"gateway": []}]
    if asks is Asks.must:
        return ways
    return [{}, *ways] if asks is Asks.may else []


def _schemas(routes: Sequence[Route]) -> dict[str, Any]:
    shown = {model for route in routes for model in route.answers.values() if model is not None}
    shown |= {TweetView, UserView, PageView, ProblemView}
    taken = {route.body for route in routes if route.body is not None}
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation")  # not serialization, which calls a member with a default required
        for model in sorted(shown | taken, key=lambda model: model.__name__)
    ]
    _, schema = models_json_schema(models, ref_template=_REFERENCE)
    return {_named(name): _renamed(value) for name, value in sorted(schema["$defs"].items())}


def _named(model: str) -> str:
    return model.removesuffix("View")


def _refer(model: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=_named(model.__name__))}


def _renamed(value: Any) -> Any:
    """The same schema under the names that the document uses. Strings are titles and references, or do not hold our names."""
    if isinstance(value, dict):
        return {key: _renamed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner) for inner in value]
    return _named(value) if isinstance(value, str) else value
