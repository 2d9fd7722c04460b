"""Pages of a list by keyset: which way to read, between which two rows, and the answer's envelope."""

from typing import Any, Literal, TypeVar

from api.schemas import PageQuery

T = TypeVar("T")


def direction(query: PageQuery) -> Literal["asc", "desc"]:
    """The order to read in: `before` alone asks for the rows just before it, which lie next to it backwards."""
    if not _is_backwards(query):
        return query.order
    return "desc" if query.order == "asc" else "asc"


def bounds(query: PageQuery, after: T, before: T) -> tuple[T, T]:
    """What the rows lie above and below, whichever way the list runs."""
    return (after, before) if query.order == "asc" else (before, after)


def page(query: PageQuery, rows: list[Any]) -> Any:
    """OpenAI's list object of rows that were fetched with one more than the limit."""
    data = rows[: query.limit]
    if _is_backwards(query):
        data.reverse()
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rows) > query.limit,
    }


def _is_backwards(query: PageQuery) -> bool:
    return query.before is not None and query.after is None
