"""How long a text is for Twitter, and which texts a tweet may have: the rules of twitter_text_config_v3.json, read from that file.

The length is a weight, of the text in NFC: Latin and much of what is written in letters counts 1, everything else 2; an emoji
counts 2, of however many code points it is made; a URL counts 23, however long it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from importlib import resources

import emoji
import orjson

from timeline.domain.limits import Limits
from timeline.domain.urls import find_urls

_CONFIG = orjson.loads((resources.files("timeline.domain") / "twitter_text_config_v3.json").read_bytes())
_SCALE: int = _CONFIG["scale"]
_DEFAULT: int = _CONFIG["defaultWeight"]
_URL: int = _CONFIG["transformedURLLength"] * _SCALE


def _classes() -> list[tuple[int, re.Pattern[str]]]:
    """For every weight that is not the default, what has it."""
    ranges: dict[int, str] = defaultdict(str)
    for one in _CONFIG["ranges"]:
        ranges[one["weight"]] += f"\\U{one['start']:08x}-\\U{one['end']:08x}"
    return [(weight, re.compile(f"[{text}]+")) for weight, text in ranges.items()]


def _emoji_lengths() -> dict[str, tuple[int, ...]]:
    """First code point → how many code points the emoji have that begin with it, if there are any of several; longest first."""
    lengths: dict[str, set[int]] = defaultdict(set)
    for sequence in emoji.EMOJI_DATA:
        if len(sequence) > 1:
            lengths[sequence[0]].add(len(sequence))
    return {first: tuple(sorted(found, reverse=True)) for first, found in lengths.items()}


_CLASSES = _classes()
_LENGTHS = _emoji_lengths()
# An emoji of one code point has the default weight anyway (© and ® do not, and are emoji only with U+FE0F): only sequences are
# looked for, and each contains one of these. Letters followed by one of them are no emoji, so nothing here needs to be exact.
_SIGNS_OF_SEQUENCES = re.compile("[\u200d\u20e3\ufe0f\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_FIRST = re.compile(f"[{re.escape(''.join(_LENGTHS))}]")
_NOT_ALLOWED = re.compile("[\ud800-\udfff\ufeff\ufffe\uffff]")


def normalize(text: str) -> str:
    """The text in NFC, as it is stored and counted."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def weighted_length(text: str) -> int:
    """The weight of a text in NFC. An ASCII text without a dot takes a microsecond; time is linear in the text always."""
    if "." not in text:
        return -(-_plain(text) // _SCALE)
    total, at = 0, 0
    for start, stop in find_urls(text):
        total += _plain(text[at:start]) + _URL
        at = stop
    return -(-(total + _plain(text[at:])) // _SCALE)


def text_faults(text: str, *, limits: Limits, may_be_empty: bool) -> str | None:
    """What is wrong with a text in NFC, as a sentence; None if nothing is."""
    if not text:
        return None if may_be_empty else "a tweet without media needs a text"
    bad = None if text.isascii() else _NOT_ALLOWED.search(text)
    if bad:
        return f"U+{ord(bad[0]):04X} at {bad.start()} is not a character that a text may hold"
    weight = weighted_length(text)
    if weight > limits.tweet_weight_max:
        return f"weighs {weight} by Twitter's count, of {limits.tweet_weight_max} allowed"
    return None


def _plain(text: str) -> int:
    """The weight, times the scale, of a text without URLs."""
    if text.isascii():
        return _each(text)
    if _SIGNS_OF_SEQUENCES.search(text) is None:
        return _each(text)
    return _with_sequences(text)


def _each(text: str) -> int:
    """Every code point by itself."""
    weight = len(text) * _DEFAULT
    for of_class, pattern in _CLASSES:
        weight -= (_DEFAULT - of_class) * sum(map(len, pattern.findall(text)))
    return weight


def _with_sequences(text: str) -> int:
    sequences, rest, at = 0, [], 0
    for first in _FIRST.finditer(text):
        start = first.start()
        if start < at:
            continue
        length = next((n for n in _LENGTHS[first[0]] if text[start : start + n] in emoji.EMOJI_DATA), 0)
        if length:
            sequences += 1
            rest.append(text[at:start])
            at = start + length
    return sequences * _DEFAULT + _each("".join([*rest, text[at:]]))
