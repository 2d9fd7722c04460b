"""Keyset paging over (created_at, id): the condition for the rows between two positions of that order."""

from datetime import datetime
from typing import Any

from psycopg import sql

Position = tuple[datetime, str]


def between(
    table: str, *, above: Position | None, below: Position | None, id: str = "id"
) -> tuple[sql.Composed, dict[str, Any]]:
    """The condition, and its parameters, for the rows of a table strictly between two positions."""
    conditions: list[sql.Composable] = [sql.SQL("TRUE")]
    params: dict[str, Any] = {}
    order = sql.SQL("({}, {})").format(sql.Identifier(table, "created_at"), sql.Identifier(table, id))
    for name, operator, bound in (("above", sql.SQL(">"), above), ("below", sql.SQL("<"), below)):
        if bound is not None:
            position = sql.SQL("({}, {})").format(sql.Placeholder(f"{name}_at"), sql.Placeholder(f"{name}_id"))
            conditions.append(sql.SQL("{} {} {}").format(order, operator, position))
            params |= {f"{name}_at": bound[0], f"{name}_id": bound[1]}
    return sql.SQL(" AND ").join(conditions), params
