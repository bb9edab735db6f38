"""The files that are read, and the people and texts that are made up."""

from __future__ import annotations

import gzip
import unicodedata
from pathlib import Path

import pytest

from timeline.domain.handles import handle_fault, name_fault
from timeline.domain.ids import ID_MAX
from timeline.domain.limits import Limits
from timeline.domain.tweet_text import normalize, text_faults
from timeline.ops import demo
from timeline.ops.files import BadFile, Kind, read_follows, read_posts
from timeline.ops.people import PEOPLES, handle_of, make_users, name_of
from timeline.ops.texts import text_of


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("1 2\n3\n", "line 2"),
        ("1 2\n\n3 4\n", "line 2"),
        ("1 2\nx 4\n", "line 2"),
        ("0 2\n", "line 1"),
        ("1 2 3\n", "line 1"),
        (f"1 {ID_MAX + 1}\n", "line 1"),
        ("1 2\n-1 4\n", "line 2"),
        ("1 2\n1 é\n", "not ASCII"),
    ],
)
def test_a_line_that_is_no_follow_is_named(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "follows"
    path.write_text(text, "utf-8")
    with pytest.raises(BadFile, match=where):
        read_follows(path)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("1 100 1 P 0\n", "line 1"),
        ("1 100 1 X 0 0\n", "line 1.*P, RT|line 1: kind 'X'"),
        ("1 100 1 P 0 0\n1 101 1 P 0 0\n", "line 2: post_id and time must ascend"),
        ("1 100 1 P 0 0\n2 99 1 P 0 0\n", "line 2: post_id and time must ascend"),
        ("1 100 1 RT 1 1\n", "line 1: ref_post 1 is not above"),
        ("1 100 1 RE 0 1\n", "line 1: a RE without ref_post"),
        ("1 100 0 P 0 0\n", "line 1"),
        ("1 1e2 1 P 0 0\n", "line 1"),
        (f"{ID_MAX + 1} 100 1 P 0 0\n", "line 1"),
    ],
)
def test_a_line_that_is_no_post_is_named(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "posts"
    path.write_text(text)
    with pytest.raises(BadFile, match=where):
        list(read_posts(path))


def test_a_gzip_file_that_breaks_off_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "posts.gz"
    path.write_bytes(gzip.compress(b"1 100 1 P 0 0\n" * 1)[:-6])
    with pytest.raises(BadFile, match="damaged"):
        list(read_posts(path))


def test_plain_and_gzipped_files_read_alike_and_follows_of_oneself_are_left_out(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "a", tmp_path / "b"
    text = f"1 2\n5 5\n{ID_MAX} 1\n"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    for path in (plain, zipped):
        follows = read_follows(path)
        assert (follows.follower.tolist(), follows.followee.tolist(), follows.own) == ([1, ID_MAX], [2, 1], 1)


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    assert len(read_follows(tmp_path / "none").follower) == 0
    assert list(read_posts(tmp_path / "none")) == []


def test_handles_are_unique_and_allowed_up_to_the_largest_id() -> None:
    ids = [*range(1, 30_000), *range(ID_MAX - 1000, ID_MAX + 1)]
    handles = {handle_of(user).lower() for user in ids}
    assert len(handles) == len(ids)
    assert all(handle_fault(handle) is None for handle in handles)


def test_names_are_allowed_and_in_many_scripts() -> None:
    names = [name_of(user) for user in range(1, 3000)]
    assert all(name_fault(name, Limits().name_characters_max) is None for name in names)
    scripts = {unicodedata.name(character).split()[0] for name in names for character in name if character.isalpha()}
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "CJK", "HANGUL", "THAI"}
    assert {people.language for people in PEOPLES} >= {"ar", "he", "ja"}


def test_users_and_texts_are_the_same_every_time() -> None:
    assert list(make_users([7, 8], 5_000_000)) == list(make_users([7, 8], 5_000_000))
    assert text_of(5, 7) == text_of(5, 7) != text_of(6, 7)


def test_texts_are_tweets_whatever_the_ids() -> None:
    for number in range(1, 20_000):
        text = text_of(number, number * 31 % 5000 + 1, ID_MAX if number % 2 else None)
        assert text_faults(normalize(text), limits=Limits(), may_be_empty=False) is None


def test_the_demo_world_is_closed_small_and_has_a_reader_to_look_at() -> None:
    follows, posts = read_follows(demo.FOLLOWS), list(read_posts(demo.POSTS))
    people = set(follows.follower.tolist()) | set(follows.followee.tolist())
    there = {row.post_id: row for row in posts}
    for row in posts:
        assert row.author in people
        assert not row.ref_user or row.ref_user in people
        assert not row.ref_post or there[row.ref_post].author == row.ref_user
    assert {row.kind for row in posts} == set(Kind)
    assert sum(path.stat().st_size for path in (demo.FOLLOWS, demo.POSTS)) < 1_000_000
    followed = set(follows.followee[follows.follower == demo.DEMO_READER].tolist())
    assert sum(row.author in followed for row in posts) > 500
