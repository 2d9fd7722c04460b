"""Search filters as SQL conditions. Every key and value is a parameter; nothing of a filter becomes SQL text."""

from psycopg import sql

from api.schemas import ComparisonFilter, CompoundFilter, Filter, MetadataEquals, Scalar
from api.wire import dump_json

_ORDER = {"gt": sql.SQL(">"), "gte": sql.SQL(">="), "lt": sql.SQL("<"), "lte": sql.SQL("<=")}
_JOIN = {"and": sql.SQL(" AND "), "or": sql.SQL(" OR ")}


class FilterCompiler:
    """Compiles filters over one jsonb expression and collects their parameters, named `f0`, `f1`, ..."""

    def __init__(self, metadata: sql.Composable) -> None:
        self._metadata = metadata
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
        if isinstance(value, list):
            contained = self._param([dump_json({filter.key: item}) for item in value])
            condition = sql.SQL("{} @> ANY({}::jsonb[])").format(self._metadata, contained)
        elif filter.type in _ORDER:
            return self._ordering(filter.key, _ORDER[filter.type], value)
        else:
            contained = self._param(dump_json({filter.key: value}))
            condition = sql.SQL("{} @> {}::jsonb").format(self._metadata, contained)
        # IS NOT TRUE and not NOT: a row without the key, or without any metadata, differs from every value.
        return sql.SQL("({}) IS NOT TRUE" if filter.type in ("ne", "nin") else "({})").format(condition)

    def _ordering(self, key: str, operator: sql.SQL, value: Scalar) -> sql.Composed:
        # jsonb orders values of different types too (Boolean > Number > String); the type check keeps like with like.
        return sql.SQL(
            "(({metadata} -> {key}::text) {operator} {value}::jsonb"
            " AND jsonb_typeof({metadata} -> {key}::text) = {type})"
        ).format(
            metadata=self._metadata,
            key=self._param(key),
            operator=operator,
            value=self._param(dump_json(value)),
            type=sql.Literal("string" if isinstance(value, str) else "number"),
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


def _as_text(value: Scalar) -> str:
    return value if isinstance(value, str) else dump_json(value)
