"""Vectors and the arithmetic on them: by numpy, or in Python alone where numpy is not installed.

numpy takes 70 MB with its BLAS, more than all the rest of what answers requests on AWS Lambda; the few vectors of a
request are no hardship without it. A vector has a `size`, `nbytes` and `copy()`; rows have a `shape`, are iterated over
and picked by a list of positions. Whatever else is done with them is a function here, and there in both modules.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING or find_spec("numpy") is not None:
    from api.vectors.arrays import (
        Vector,
        Vectors,
        as_rows,
        cosine,
        from_bytes,
        from_numbers,
        from_stored,
        have_directions,
        joined,
        norm,
        pack,
        packed,
        rows_from_bytes,
        rows_from_doubles,
    )
else:
    from api.vectors.plain import (
        Vector,
        Vectors,
        as_rows,
        cosine,
        from_bytes,
        from_numbers,
        from_stored,
        have_directions,
        joined,
        norm,
        pack,
        packed,
        rows_from_bytes,
        rows_from_doubles,
    )

__all__ = [
    "Vector",
    "Vectors",
    "as_rows",
    "cosine",
    "from_bytes",
    "from_numbers",
    "from_stored",
    "have_directions",
    "joined",
    "norm",
    "pack",
    "packed",
    "rows_from_bytes",
    "rows_from_doubles",
]
