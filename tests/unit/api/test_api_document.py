"""What is documented is what is served, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from timeline.api.errors import KINDS

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def document(http: ClientSession) -> dict[str, Any]:
    answer = await http.get("/openapi.json")
    assert answer.status == 200
    found: dict[str, Any] = await answer.json()
    return found


async def test_every_route_is_documented_and_every_documented_route_is_served(
    app: web.Application, document: dict[str, Any]
) -> None:
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert served == documented
    assert document["openapi"] == "3.1.0"


async def test_every_reference_leads_somewhere_and_every_name_is_one(document: dict[str, Any]) -> None:
    text = str(document)
    schemas = document["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == set(schemas)
    assert {"Tweet", "User", "Page", "Problem", "TweetBody", "UserBody"} <= set(schemas)
    operations = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(operations) == len(set(operations))


async def test_every_call_says_its_path_parameters_and_answers(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            in_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            assert all(each["required"] for each in operation["parameters"] if each["in"] == "path")
            assert any(int(status) < 300 for status in operation["responses"])


async def test_a_required_body_forbids_what_is_unknown(document: dict[str, Any]) -> None:
    body = document["components"]["schemas"]["TweetBody"]
    assert (body["required"], body["additionalProperties"]) == (["text"], False)


async def test_an_answer_says_what_is_always_there(document: dict[str, Any]) -> None:
    tweet = document["components"]["schemas"]["Tweet"]
    assert set(tweet["properties"]) - set(tweet["required"]) == {"why"}
    assert not re.search(r"View\b", str(document))


def test_every_problem_is_in_the_documentation_and_no_other() -> None:
    listed = set(re.findall(r"`/problems/([a-z-]+)`", (ROOT / "docs/errors.md").read_text()))
    assert listed == set(KINDS)


def test_every_problem_that_is_raised_is_in_the_table() -> None:
    raised = set()
    for path in (ROOT / "timeline").rglob("*.py"):
        raised |= set(re.findall(r"BadRequest\(\s*\"([a-z-]+)\"", path.read_text()))
    assert raised <= set(KINDS)
