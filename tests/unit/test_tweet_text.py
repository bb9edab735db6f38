"""How long a text is, and which texts are refused. Cases made up after twitter-text's rules; it was run on its own suite as well."""

from __future__ import annotations

import gzip
import json
import os
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import emoji
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeline.domain.limits import Limits
from timeline.domain.tweet_text import normalize, text_faults, weighted_length
from timeline.domain.urls import find_urls

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
FLAG = "\U0001f1e8\U0001f1ed"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
KEYCAP = "1\ufe0f\u20e3"
WAVE = "\U0001f44b\U0001f3fe"
SUN = "\u2600\ufe0f"
SEQUENCES = (FAMILY, FLAG, SCOTLAND, KEYCAP, "1\u20e3", WAVE, SUN, "\U0001f3f3\ufe0f\u200d\U0001f308", "\xa9\ufe0f")


def faults(text: str, *, may_be_empty: bool = False) -> str | None:
    return text_faults(normalize(text), limits=Limits(), may_be_empty=may_be_empty)


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("", 0),
        ("plain", 5),
        ("Привет, Ελλάδα, שלום, سلام, नमस्ते", 34),
        ("語", 2),
        ("한글", 4),
        ("ไทย", 3),
        ("\u201cquoted\u201d \u2014 and so on", 20),
        ("\u2026", 2),
        ("\xa9\xae", 2),
        ("1 # *", 5),
        ("a\u200db", 3),
        ("\ufe0f", 2),
        (SUN[0], 2),
        ("\U0001f600", 2),
        ("\U0001f600\U0001f600", 4),
        ("\U0001f1e8", 2),
        (FLAG + "\U0001f1e8", 4),
        (FAMILY + "\u200d" + FAMILY, 5),
        ("see example.com", 27),
        ("see https://example.com/a/very/long/path?that=goes&on=and#on for more", 36),
        ("語example.com語", 27),
        ("see http://語.com/ now", 31),
        ("see 語.com now", 14),
    ],
)
def test_a_text_weighs_what_twitter_says(text: str, weight: int) -> None:
    assert weighted_length(normalize(text)) == weight


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_an_emoji_of_several_code_points_weighs_two(sequence: str) -> None:
    assert weighted_length(sequence) == 2
    assert weighted_length(f"a{sequence}b") == 4


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_140_emoji_are_a_tweet_and_one_more_letter_is_not(sequence: str) -> None:
    assert faults(sequence * 140) is None
    assert faults(sequence * 139 + "ab") is None
    assert faults(sequence * 140 + "a") == "weighs 281 by Twitter's count, of 280 allowed"
    assert faults("a" + sequence * 140) is not None


def test_every_sequence_that_unicode_lists_weighs_two() -> None:
    heavy = {e for e in emoji.EMOJI_DATA if weighted_length(normalize(e)) != 2}
    assert heavy == {"\xa9", "\xae"}


def test_the_limit_is_at_280() -> None:
    assert faults("x" * 280) is None
    assert faults("x" * 281) is not None
    assert faults("語" * 140) is None
    assert faults("語" * 140 + "x") is not None
    assert faults("x" * 256 + " https://example.com/" + "y" * 900) is None
    assert faults("x" * 257 + " https://example.com/" + "y" * 900) is not None


def test_the_length_is_taken_after_composition() -> None:
    assert normalize("A\u0301") == "\xc1"
    assert faults("e\u0301" * 280) is None
    assert weighted_length(normalize("\ufb2c")) == 3  # a letter that composition takes apart


@pytest.mark.parametrize("character", ["\ud800", "\ufeff", "\ufffe", "\uffff"])
def test_what_is_no_character_is_refused_by_name_and_place(character: str) -> None:
    assert faults(f"ab{character}") == f"U+{ord(character):04X} at 2 is not a character that a text may hold"


def test_marks_of_direction_are_allowed() -> None:
    text = "\u2066\u202ahttp://foo.example.com/\u202c\u2069"
    assert faults(text) is None
    assert weighted_length(text) == 4 * 2 + 23


def test_an_empty_text_needs_media() -> None:
    assert faults("") is not None
    assert faults("", may_be_empty=True) is None
    assert faults("x" * 281, may_be_empty=True) is not None


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("nothing. at all, e.g. this", []),
        ("example.com", ["example.com"]),
        ("Example.COM and www.example.co.uk", ["Example.COM", "www.example.co.uk"]),
        ("(http://example.com)", ["http://example.com"]),
        ("HTTPS://EXAMPLE.ORG/X", ["HTTPS://EXAMPLE.ORG/X"]),
        ("a.b.c.example.museum:8080/x", ["a.b.c.example.museum:8080/x"]),
        ("no.such-top-level-domain-x", []),
        ("http://no-tld http://short.x", []),
        ("me@example.com example.com@me #example.com $example.com", []),
        ("xhttp://example.com", []),
        ("http://-example.com http://example-.com http://under_score.com http://_a.example.com", []),
        ("http://sub_domain.example.com", ["http://sub_domain.example.com"]),
        ("http://example.com-and-on", []),
        ("first.example.com, then two.example.org.", ["first.example.com", "two.example.org"]),
        ("http://example.com/a_(b)", ["http://example.com/a_(b)"]),
        ("http://example.com/a_(b(c)d)e", ["http://example.com/a_(b(c)d)e"]),
        ("http://example.com/a.,!", ["http://example.com/a"]),
        ("http://example.com/?q=1&r=.", ["http://example.com/?q=1&r="]),
        ("http://example.com?", ["http://example.com"]),
        ("example.com?a=b", ["example.com"]),
        ("http://example.com/дом/\u2013x", ["http://example.com/дом/\u2013x"]),
        ("これはexample.comです", ["example.com"]),
        ("example.comてすと.みんな", ["example.com"]),
        ("http://дом.みんな/", ["http://дом.みんな/"]),
        ("http://語.example.xn--p1ai", ["http://語.example.xn--p1ai"]),
        ("https://t.co/abc's", ["https://t.co/abc"]),
        ("https://t.co/" + "a" * 41, []),
        ("https://" + "a" * 63 + ".com", ["https://" + "a" * 63 + ".com"]),
        ("https://" + "a" * 64 + ".com", []),
        ("https://example.com/" + "a" * 5000, []),
        ("one.com\ntwo.com", ["one.com", "two.com"]),
        ("tar.bz2 a.b.c 3.14 v1.2.3", []),
        ("hidden.onion", ["hidden.onion"]),
    ],
)
def test_urls_are_found_where_twitter_finds_them(text: str, urls: list[str]) -> None:
    assert [text[start:stop] for start, stop in find_urls(text)] == urls


plain = st.text(st.sampled_from("abcXYZ 019,!?é語дא한ไ\U0001f600"), max_size=60)
parts = st.one_of(plain, st.sampled_from([*SEQUENCES, "https://example.com/x"]))


@given(st.lists(parts, max_size=12))
def test_the_weight_of_a_whole_is_the_sum_of_its_parts(texts: list[str]) -> None:
    # spaces between, so that parts do not make a longer URL or sequence together
    whole = " ".join(texts)
    spaces = max(0, len(texts) - 1)
    assert weighted_length(whole) == sum(map(weighted_length, texts)) + spaces


@given(st.text(max_size=400))
def test_composed_once_is_composed_for_good_and_weighs_the_same(text: str) -> None:
    composed = normalize(text)
    assert normalize(composed) == composed == unicodedata.normalize("NFC", text)
    assert weighted_length(composed) == weighted_length(normalize(unicodedata.normalize("NFD", text)))


@given(st.text(st.sampled_from("ab.-_:/?#@(語é\u200d\ufe0f \U0001f468"), max_size=200))
def test_urls_lie_in_order_and_apart_and_nothing_weighs_below_zero(text: str) -> None:
    urls = find_urls(text)
    edges = [0, *(edge for url in urls for edge in url), len(text)]
    assert edges == sorted(edges)
    assert all(start < stop for start, stop in urls)
    assert weighted_length(text) >= 0


@pytest.mark.parametrize(
    "unit",
    ["a.", "a.com..", "a.com-", "a.com_", "a.co/(x", "a.com語", "é.", "語", FAMILY, "\u200d", "http://a.", "._-"],
)
def test_time_is_linear_in_a_text_made_to_be_slow(unit: str) -> None:
    text = (unit * (60_000 // len(unit)))[:60_000] + ".com"
    began = time.process_time()
    weighted_length(text)
    assert time.process_time() - began < 2.0  # measured: 0.1; anything square would take minutes


def data_dir() -> Path:
    return Path(os.environ.get("TIMELINE_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))


def texts_of(name: str) -> Iterator[str]:
    path = data_dir() / name
    if not path.exists():
        return
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["x"]


@pytest.mark.parametrize("name", ["health.jsonl.gz", "xlmt.jsonl.gz", "emoji.jsonl.gz"])
def test_real_tweets_fit(name: str) -> None:
    """Texts that Twitter took are taken, and what is stored is what was counted.

    Reads TIMELINE_DATA_DIR, or ../shared/data beside the clone, every tenth line. No tweet's text is shipped: without those
    files there is nothing to read here, and the cases above stand alone.
    """
    too_long = total = 0
    for number, text in enumerate(texts_of(name)):
        if number % 10:
            continue
        composed = normalize(text)
        total += 1
        too_long += text_faults(composed, limits=Limits(), may_be_empty=False) is not None
        assert weighted_length(composed) == weighted_length(normalize(unicodedata.normalize("NFD", text)))
        assert len(find_urls(composed)) >= composed.count("http://t.co/")
    # addresses and names were replaced in these texts, some by longer ones
    assert too_long <= total // 1000
