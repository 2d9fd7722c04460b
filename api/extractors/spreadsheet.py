"""The text of XLSX: each sheet's name as a heading, then its rows, a tab between cells."""

import datetime
from typing import BinaryIO

from openpyxl import Workbook, load_workbook

from api.extractors import xml
from api.extractors.errors import FileTooHeavy
from api.extractors.text_file import TextFile

MIDNIGHT = datetime.time()


def extract(stream: BinaryIO, out: TextFile, *, max_cells: int) -> None:
    try:
        workbook = load_workbook(stream, read_only=True, data_only=True, keep_links=False)
        _write(workbook, out, max_cells=max_cells)
    except SyntaxError as error:  # XML's, of either parser that openpyxl uses
        raise xml.refusal("workbook", error) from error


def _write(workbook: Workbook, out: TextFile, *, max_cells: int) -> None:
    cells = 0
    for sheet in workbook.worksheets:
        out.paragraph(f"# {sheet.title}")
        sheet.reset_dimensions()  # what a sheet says of its size is not to be trusted
        for row in sheet.iter_rows(values_only=True):
            cells += max(1, len(row))  # a gap between rows costs time, too
            if cells > max_cells:
                raise FileTooHeavy(f"The workbook has more than {max_cells} cells; split it into smaller files.")
            line = "\t".join(_cell(value) for value in row).rstrip()
            if line:
                out.write(f"{line}\n")
        out.write("\n")


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "TRUE" if value else "FALSE"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case datetime.datetime() if value.time() == MIDNIGHT:
            return value.date().isoformat()
        case datetime.datetime():
            return value.isoformat(sep=" ")
        case _:
            return " ".join(str(value).split())
