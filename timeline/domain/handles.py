"""Handles and names: what users may be called."""

from __future__ import annotations

import re

HANDLE_RULE = "a handle is 1 to 15 of a-z A-Z 0-9 _"
_HANDLE = re.compile(r"[A-Za-z0-9_]{1,15}")
# lone surrogates cannot be stored, a line break or any other control character makes a name that is not one
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def handle_fault(handle: str) -> str | None:
    """What is wrong with a handle, as a sentence; None if nothing is."""
    return None if _HANDLE.fullmatch(handle) else HANDLE_RULE


def name_fault(name: str, characters_max: int) -> str | None:
    """What is wrong with a name, as a sentence; None if nothing is."""
    if not 1 <= len(name) <= characters_max or not name.strip():
        return f"a name is 1 to {characters_max} characters, not all of them blank"
    if _NOT_IN_NAMES.search(name):
        return "a name is one line of text, without control characters"
    return None
