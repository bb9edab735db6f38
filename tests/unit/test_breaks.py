"""The breaks still break something: what each replaces stands in the code, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.breaks import BREAKS, Break, Rotten, check


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_a_break_finds_the_text_that_it_replaces(broken: Break) -> None:
    check(broken)
    assert len({edit.old for edit in broken.edits}) == len(broken.edits)


def test_a_break_whose_text_is_gone_says_so() -> None:
    (edit,) = BREAKS[1].edits
    rotten = replace(BREAKS[1], edits=[replace(edit, old="a text that stands nowhere")])
    with pytest.raises(Rotten, match="a text that stands nowhere"):
        check(rotten)
