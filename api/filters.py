"""Search filters as SQL conditions. Every key and value is a parameter; nothing of a filter becomes SQL text."""

import math

from psycopg import sql

from api.schemas.filters import ComparisonFilter, CompoundFilter, Filter, MetadataEquals, Scalar
from api.wire import dump_json

_ORDER = {"gt": sql.SQL(">"), "gte": sql.SQL(">="), "lt": sql.SQL("<"), "lte": sql.SQL("<=")}
_JOIN = {"and": sql.SQL(" AND "), "or": sql.SQL(" OR ")}

_ORDERED_TEXT = """
(({metadata} -> {key}::text) {operator} {value}::jsonb AND jsonb_typeof({metadata} -> {key}::text) = 'string')
"""

# A text that spells a number counts as one: LiteLLM makes texts of all attributes. Longer ones are no numbers of ours.
_ORDERED_NUMBER = r"""
CASE WHEN jsonb_typeof({metadata} -> {key}::text) = 'number' THEN ({metadata} -> {key}::text) {operator} {value}::jsonb
     WHEN {metadata} ->> {key}::text ~ '^-?\d{{1,40}}(\.\d{{1,40}})?([eE][+-]?\d{{1,3}})?$'
         AND jsonb_typeof({metadata} -> {key}::text) = 'string'
     THEN ({metadata} ->> {key}::text)::numeric {operator} {value}::text::numeric
     ELSE false END
"""


class FilterCompiler:
    """Compiles filters over one jsonb expression and collects their parameters, named `f0`, `f1`, ...

    With `is_plan_kept` the planner is not shown what equality is asked of, which would have it plan every search anew:
    for a statement with one good plan.
    """

    def __init__(self, metadata: sql.Composable, *, is_plan_kept: bool = False) -> None:
        self._metadata = metadata
        self._forms = sql.SQL("(SELECT {}::jsonb[])::jsonb[]" if is_plan_kept else "{}::jsonb[]")
        self.params: dict[str, object] = {}

    def compile(self, filter: Filter) -> sql.Composed:
        match filter:
            case CompoundFilter():
                parts = [self.compile(part) for part in filter.filters]
                return sql.SQL("({})").format(_JOIN[filter.type].join(parts))
            case MetadataEquals():
                return self._flat(filter)
            case ComparisonFilter():
                return self._comparison(filter)

    def _comparison(self, filter: ComparisonFilter) -> sql.Composed:
        value = filter.value
        if not isinstance(value, list) and filter.type in _ORDER:
            return self._ordering(filter.key, _ORDER[filter.type], value)
        values = value if isinstance(value, list) else [value]
        contained = self._param([dump_json({filter.key: form}) for item in values for form in _forms(item)])
        condition = sql.SQL("{} @> ANY({})").format(self._metadata, self._forms.format(contained))
        # IS NOT TRUE and not NOT: a row without the key, or without any metadata, differs from every value.
        return sql.SQL("({}) IS NOT TRUE" if filter.type in ("ne", "nin") else "({})").format(condition)

    def _ordering(self, key: str, operator: sql.SQL, value: Scalar) -> sql.Composed:
        # jsonb orders values of different types too (Boolean > Number > String); the type check keeps like with like.
        return sql.SQL(_ORDERED_TEXT if isinstance(value, str) else _ORDERED_NUMBER).format(
            metadata=self._metadata,
            key=self._param(key),
            operator=operator,
            value=self._param(dump_json(value)),
        )

    def _flat(self, filter: MetadataEquals) -> sql.Composed:
        conditions = [
            sql.SQL("({} ->> {}::text) = {}").format(self._metadata, self._param(key), self._param(_as_text(value)))
            for key, value in filter.values.items()
        ]
        return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("{}").format(sql.SQL("TRUE"))

    def _param(self, value: object) -> sql.Placeholder:
        name = f"f{len(self.params)}"
        self.params[name] = value
        return sql.Placeholder(name)


def _forms(value: Scalar) -> list[Scalar]:
    """What equals the value: of a number also the texts that spell it as JSON and Python do.

    A list of forms can be looked up in the index on the metadata, a comparison of numbers cannot.
    """
    if isinstance(value, bool | str):
        return [value]
    forms = {dump_json(value), repr(value)}
    if math.isfinite(value) and value == int(value):
        forms |= {str(int(value)), f"{int(value)}.0"}
    return [value, *sorted(forms)]


def _as_text(value: Scalar) -> str:
    return value if isinstance(value, str) else dump_json(value)
