"""What media, handles and names may look like."""

from __future__ import annotations

import pytest

from timeline.domain import handles, media


@pytest.mark.parametrize("good", ["image:a", "video:A-b_c.9", "link:" + "x" * 128])
def test_media_ids_are_a_kind_and_a_name(good: str) -> None:
    assert media.is_media_id(good)
    assert media.kind(good) == good.split(":")[0]


@pytest.mark.parametrize(
    "bad", ["", "image:", "image:" + "x" * 129, "audio:x", "Image:x", "image:a/b", "image:é", "image:a\n", " image:a"]
)
def test_anything_else_is_no_media_id(bad: str) -> None:
    assert not media.is_media_id(bad)


def test_the_address_is_made_from_the_template() -> None:
    template = "https://cdn.example/{type}/{name}?i={id}&{other}"
    assert media.url("image:a.b", template) == "https://cdn.example/image/a.b?i=image:a.b&{other}"


@pytest.mark.parametrize("good", ["a", "A_9", "x" * 15])
def test_handles_are_up_to_fifteen_plain_characters(good: str) -> None:
    assert handles.handle_fault(good) is None


@pytest.mark.parametrize("bad", ["", "x" * 16, "é", "a-b", "a b", "a\n", "@a"])
def test_other_handles_are_refused(bad: str) -> None:
    assert handles.handle_fault(bad) == handles.HANDLE_RULE


@pytest.mark.parametrize("good", ["A", "名前", "x" * 50, "\U0001f468\u200d\U0001f469", "שלום עולם"])
def test_names_are_up_to_fifty_characters_of_any_script(good: str) -> None:
    assert handles.name_fault(good, 50) is None


@pytest.mark.parametrize("bad", ["", " ", "x" * 51, "a\nb", "a\x00", "\ud800"])
def test_other_names_are_refused(bad: str) -> None:
    assert handles.name_fault(bad, 50) is not None
