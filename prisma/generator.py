"""The Prisma generator behind `make prisma`: writes the names of tables and columns to api/tables/columns.py.

It reads what the Prisma CLI sends (names with `@map` and `@@map` applied) and runs without any engine.
"""

import json
import re
from pathlib import Path

from pydantic import BaseModel, Field
from typing_extensions import override

from prisma.generator import GenericGenerator, Manifest

HEADER = '''"""The names of Quiver's tables and columns, generated from prisma/schema.prisma by `make prisma`."""

from typing import Final, final
'''

# A field of a type that Prisma does not know is missing from the model it sends; the schema's text has it.
UNSUPPORTED_FIELD = re.compile(
    r"""^\s* (?P<name>\w+) \s+ Unsupported\( "[^"]*" \) (?: .* @map\( (?P<column>"(?:[^"\\]|\\.)*") )?""",
    re.MULTILINE | re.VERBOSE,
)


class Column(BaseModel):
    name: str
    db_name: str | None = Field(default=None, alias="dbName")


class Model(BaseModel):
    name: str
    db_name: str | None = Field(default=None, alias="dbName")
    fields: list[Column]


class Datamodel(BaseModel):
    models: list[Model]


class Dmmf(BaseModel):
    datamodel: Datamodel


class Output(BaseModel):
    value: Path


class Target(BaseModel):
    output: Output


class Request(BaseModel):
    """The part of Prisma's request that is read here."""

    generator: Target
    dmmf: Dmmf
    datamodel: str


class ColumnsGenerator(GenericGenerator[Request]):
    @override
    def get_manifest(self) -> Manifest:
        return Manifest(name="table and column names", default_output="columns.py")

    @override
    def generate(self, data: Request) -> None:
        classes = [render(model, text=data.datamodel) for model in data.dmmf.datamodel.models]
        data.generator.output.value.write_text("\n\n".join([HEADER, *classes]))


def render(model: Model, *, text: str) -> str:
    lines = [
        f"    {constant(column.name)}: Final = {quoted(column.db_name or column.name)}"
        for column in columns(model, text)
    ]
    return "\n".join(
        [
            "@final",
            f"class {plural(model.name)}:",
            f"    TABLE: Final = {quoted(model.db_name or model.name)}",
            *lines,
            "",
        ]
    )


def columns(model: Model, text: str) -> list[Column]:
    """The columns of a model in the order of the schema, those of unsupported types included."""
    body = re.search(rf"^model {model.name} \{{$(.*?)^\}}$", text, re.MULTILINE | re.DOTALL)
    assert body is not None  # Prisma read the model from this text
    unsupported = [
        Column(name=field["name"], dbName=json.loads(field["column"] or "null"))
        for field in UNSUPPORTED_FIELD.finditer(body[1])
    ]
    order = re.findall(r"^\s*(\w+)\s", body[1], re.MULTILINE)
    return sorted([*model.fields, *unsupported], key=lambda column: order.index(column.name))


def constant(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def plural(name: str) -> str:
    return name + ("es" if name.endswith(("ch", "s", "x")) else "s")


def quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)  # its escapes are Python's


if __name__ == "__main__":
    ColumnsGenerator.invoke()
