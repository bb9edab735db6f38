"""Columns as the driver's numpy decoder gives them: masked where a value is NULL.

cassandra-driver 3.30 calls a method of arrays that numpy 2 has not any more, swallows the error, and answers None for a page of rows.
So its last step, from network order to ours, is replaced here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cassandra.numpy_parser
import numpy as np
import numpy.typing as npt
from cassandra.protocol import NumpyProtocolHandler

from timeline.domain.entries import UserIds

__all__ = ["Columns", "NumpyProtocolHandler", "ints", "joined", "standing"]

Columns = dict[str, Any]  # one array a column, all of one length


def _native_order(column: Any) -> Any:
    return column if column.dtype.kind == "O" else column.byteswap().view(column.dtype.newbyteorder())


cassandra.numpy_parser.make_native_byteorder = _native_order


def ints(column: Any) -> UserIds:
    """The values, with 0 where NULL."""
    return np.asarray(np.ma.filled(column, 0), np.int64)


def standing(ended: Any) -> npt.NDArray[np.bool_]:
    """For each row whether its `ended` is NULL."""
    return np.ma.getmaskarray(ended)


def joined(pages: Sequence[Columns]) -> Columns:
    """The rows of several pages, in their order."""
    return {name: np.ma.concatenate([page[name] for page in pages]) for name in pages[0]}  # type: ignore[no-untyped-call]
