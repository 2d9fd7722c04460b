"""Pages of a list by keyset: which way to read, between which two rows, and the answer's envelope."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Literal, TypeVar

from api import ids
from api.errors import InvalidRequest
from api.schemas.requests import PageQuery
from api.tables.database import Connection
from api.tables.keyset import Position

T = TypeVar("T")


async def position(
    connection: Connection, id: str | None, *, param: str, find: Callable[[Connection, str], Awaitable[datetime | None]]
) -> Position | None:
    """Where the object with an id stands in the order of creation, be it deleted by now.

    Raises:
        InvalidRequest: it is no object's id, and not one of ours either.
    """
    if id is None:
        return None
    created_at = await find(connection, id) or ids.created_at(id)
    if created_at is None:
        raise InvalidRequest(f"There is nothing with id {id!r} to list from.", param=param)
    return created_at, id


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
