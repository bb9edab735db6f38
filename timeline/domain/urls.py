"""Where the URLs of a text are, by twitter-text's rules: with http(s):// any domain counts, without it one of Latin letters only.

A domain is labels joined by dots and ends in a top-level domain (of IANA's list) that no Latin letter, digit, `@`, `+` or `-` follows;
so it may touch Japanese, but not be the middle of a word or of an address. What follows it (port, path, query) belongs to the URL.

Texts come from outside, so everything here takes time linear in the text: no expression below can backtrack over more than it
has just matched, and a run of labels is looked at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

URL_CHARACTERS_MAX = 4096  # twitter-text's own
LABEL_BYTES_MAX = 63  # of the DNS, counted in Punycode
TCO_SLUG_CHARACTERS_MAX = 40

_ACCENTED = (
    "\xc0-\xd6\xd8-\xf6\xf8-\u024f\u0253\u0254\u0256\u0257\u0259\u025b\u0263\u0268\u026f\u0272\u0289"
    "\u028b\u02bb\u0300-\u036f\u1e00-\u1eff"
)
_SPACES = "\x09-\x0d\x20\x85\xa0\u1680\u180e\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_DIRECTIONS = "\u202a-\u202e\u061c\u200e\u200f\u2066-\u2069"
_INVALID = "\ufffe\ufeff\uffff"
_NO_DOMAIN = r"!'#%&()*+,/:;<=>?@\[\\\]^{|}~$" + _SPACES + _DIRECTIONS + _INVALID

_RUN = re.compile(rf"[^{_NO_DOMAIN}]+")  # what domains are made of: labels' characters, and . _ -
_START = re.compile(rf"(?<![A-Za-z0-9@＠$#＃{_INVALID}])[^._\-{_NO_DOMAIN}]")
_PROTOCOL = re.compile(rf"(?<![A-Za-z0-9@＠$#＃{_INVALID}])https?://$", re.IGNORECASE)
_PORT = re.compile(r":[0-9]+")
_PATH_CHARACTER = rf"[A-Za-z0-9\u0400-\u04ff{_ACCENTED}!*';:=+,.$/%#\[\]\-\u2013_~@|&]"
_PARENTHESES = rf"\((?:{_PATH_CHARACTER}++\)|{_PATH_CHARACTER}*+\({_PATH_CHARACTER}++\){_PATH_CHARACTER}*+\))"
_PATH = re.compile(rf"/(?:{_PATH_CHARACTER}++|{_PARENTHESES})*+")
_PATH_NOT_LAST = "!*';:,.$%[]\u2013~@|&"
_QUERY = re.compile(r"\?[A-Za-z0-9!?*'@();:&=+$/%#\[\]\-_.,~|]++")
_QUERY_NOT_LAST = "!?*'@();:+$%[].,~|"
_TCO = re.compile(
    r"https?://t\.co/([a-z0-9]+)(?:\?[a-z0-9!?*'@();:&=+$/%#\[\]\-_.,~|]*[a-z0-9\-_&=#/])?", re.IGNORECASE
)
_LATIN_LABEL = re.compile(rf"[\-A-Za-z0-9{_ACCENTED}]+\Z")
_LATIN_END = re.compile(rf"[^\-A-Za-z0-9{_ACCENTED}]")
_WORD = re.compile("[A-Za-z0-9]+")
_PUNYCODE = re.compile(r"xn--[-0-9a-z]+", re.IGNORECASE)
_GOES_ON = re.compile("[A-Za-z0-9@+-]")


def _read_tlds() -> frozenset[str]:
    text = (resources.files("timeline.domain") / "tlds-alpha-by-domain.txt").read_text("ascii")
    names = [line.lower() for line in text.split("\n") if line and not line.startswith("#")]
    spelled = [name[4:].encode().decode("punycode") for name in names if name.startswith("xn--")]
    return frozenset([*names, *spelled, "onion"])  # onion is reserved, not assigned; twitter-text knows it


TLDS = _read_tlds()
_FOREIGN_LENGTHS = sorted({len(name) for name in TLDS if not name.isascii()}, reverse=True)


def find_urls(text: str) -> list[tuple[int, int]]:
    """Begin and end of every URL, in order, without overlap."""
    if "." not in text:
        return []
    found: list[tuple[int, int]] = []
    free_from = 0  # what is before belongs to a URL, or precedes one
    run = _RUN.search(text)
    while run is not None:
        end = run.end()
        if text.find(".", run.start(), end) >= 0:
            for start, stop in _domains(text, run.start(), end, free_from):
                whole = _Url.read(text, start, stop)
                found += whole.parts(text)
                # the character before a domain is none of another URL's
                free_from = whole.end + 1
                if whole.end > stop:
                    end = whole.end
                    break
        run = _RUN.search(text, end)
    return found


@dataclass(frozen=True, slots=True)
class _Url:
    """What was found: the domain, where path and all end, and the protocol's length (0: there is none)."""

    domain: int
    domain_end: int
    path_end: int
    end: int
    protocol: int

    @staticmethod
    def read(text: str, start: int, stop: int) -> _Url:
        protocol = _PROTOCOL.search(text, max(0, start - 8), start)
        end = stop
        port = _PORT.match(text, end)
        if port:
            end = port.end()
        path_end = end = _until(_PATH.match(text, end), _PATH_NOT_LAST, end)
        end = _until(_QUERY.match(text, end), _QUERY_NOT_LAST, end)
        return _Url(start, stop, path_end, end, len(protocol[0]) if protocol else 0)

    def parts(self, text: str) -> Iterator[tuple[int, int]]:
        """The URLs in it: itself, or, without protocol, every Latin domain, the last one with what follows."""
        length = self.end - self.domain + self.protocol
        if length + (self.protocol or len("https://")) > URL_CHARACTERS_MAX or not _is_dns(
            text[self.domain : self.domain_end]
        ):
            return
        if self.protocol:
            yield from self._with_protocol(text)
        elif self.domain == 0 or text[self.domain - 1] not in "-_./":
            latin = list(_latin_domains(text, self.domain, self.domain_end))
            yield from latin[:-1]
            if latin:
                start, stop = latin[-1]
                has_path = "/" in text[self.domain_end : self.path_end]
                yield start, self.end if has_path else stop

    def _with_protocol(self, text: str) -> Iterator[tuple[int, int]]:
        start = self.domain - self.protocol
        short = _TCO.match(text, start, self.end)
        if short is None:
            yield start, self.end
        elif len(short[1]) <= TCO_SLUG_CHARACTERS_MAX:
            yield start, short.end()


def _until(found: re.Match[str] | None, not_last: str, otherwise: int) -> int:
    """Where the match ends without the characters that do not end it; `otherwise` if nothing but its first is left of a query."""
    if found is None:
        return otherwise
    kept = found[0].rstrip(not_last)
    return found.start() + len(kept) if kept else otherwise


def _domains(text: str, low: int, high: int, free_from: int) -> Iterator[tuple[int, int]]:
    """Domains in a run, from the left, each as long as possible."""
    labels = _labels(text, low, high)
    tlds = [_tld_end(text, start, stop) for start, stop in labels]
    inner = [start < stop and text[start] not in "_-" and text[stop - 1] not in "_-" for start, stop in labels]
    last = [good and text.find("_", *label) < 0 for good, label in zip(inner, labels, strict=True)]
    furthest = _furthest(inner, last, tlds)
    for number, (start, stop) in enumerate(labels[:-1]):
        if start == stop or text[stop - 1] in "_-":
            continue
        tail = furthest[number + 1]
        if tail is None and not tlds[number + 1]:
            continue
        if tail is None:  # the label is the domain's own name, in which there is no underscore
            start = max(start, text.rfind("_", start, stop) + 1)
        begins = _begin(text, max(start, free_from), stop, low)
        if begins is not None:
            domain_end = tlds[(number if tail is None else tail) + 1]
            yield begins, domain_end
            free_from = domain_end + 1


def _begin(text: str, start: int, stop: int, low: int) -> int | None:
    """The first place from `start` where a domain may begin."""
    if start == low and start < stop and text[start] not in "_-" and text.startswith("://", max(0, start - 3), start):
        return start
    found = _START.search(text, start, stop)
    return found.start() if found else None


def _latin_domains(text: str, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Domains of Latin labels within a domain; their top-level domain may be of any script."""
    labels = _labels(text, low, high)
    tlds = [_tld_end(text, start, stop) for start, stop in labels]
    whole = [_LATIN_LABEL.match(text, start, stop) is not None for start, stop in labels]
    furthest = _furthest(whole, whole, tlds)
    free_from = low
    for number, (start, stop) in enumerate(labels[:-1]):
        begins = _latin_tail(text, max(start, free_from), stop)
        tail = furthest[number + 1]
        if begins < stop and (tail is not None or tlds[number + 1]):
            free_from = tlds[(number if tail is None else tail) + 1]
            yield begins, free_from


def _latin_tail(text: str, start: int, stop: int) -> int:
    """Where the Latin characters begin that the stretch ends in."""
    begins = start
    for other in _LATIN_END.finditer(text, start, stop):
        begins = other.end()
    return begins


def _labels(text: str, low: int, high: int) -> list[tuple[int, int]]:
    labels = []
    while (dot := text.find(".", low, high)) >= 0:
        labels.append((low, dot))
        low = dot + 1
    return [*labels, (low, high)]


def _furthest(inner: list[bool], last: list[bool], tlds: list[int]) -> list[int | None]:
    """For each label, if a domain goes on with it: which label is the last before the top-level domain, the furthest one possible."""
    furthest: list[int | None] = [None] * len(inner)
    for number in range(len(inner) - 2, -1, -1):
        if inner[number] and furthest[number + 1] is not None:
            furthest[number] = furthest[number + 1]
        elif last[number] and tlds[number + 1]:
            furthest[number] = number
    return furthest


def _tld_end(text: str, start: int, stop: int) -> int:
    """Where the top-level domain ends that the label begins with; 0 if it begins with none."""
    word = _WORD.match(text, start, stop)
    if word:
        encoded = _PUNYCODE.match(text, start, stop)
        if encoded:
            return encoded.end()
        if word.end() == stop or text[word.end()].isascii():
            return word.end() if word[0].lower() in TLDS and not _GOES_ON.match(text, word.end()) else 0
    for length in _FOREIGN_LENGTHS:
        end = start + length
        if end <= stop and text[start:end].lower() in TLDS and not _GOES_ON.match(text, end):
            return end
    return word.end() if word and word[0].lower() in TLDS else 0


def _is_dns(domain: str) -> bool:
    """Whether every label fits into the DNS."""
    if domain.startswith("xn--") and not domain.isascii():
        return False
    return all(0 < _dns_length(label) <= LABEL_BYTES_MAX for label in domain.split("."))


def _dns_length(label: str) -> int:
    # Punycode is never shorter than what it encodes; encoding a long label would take time square in its length
    if label.isascii() or len(label) > LABEL_BYTES_MAX:
        return len(label)
    return len("xn--") + len(label.encode("punycode"))
