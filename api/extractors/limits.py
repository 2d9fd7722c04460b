"""What one file may cost. Beyond any of these it fails, and only it."""

from typing import NamedTuple

MIB = 1024 * 1024


class Limits(NamedTuple):
    memory_bytes: int = 1024 * MIB  # of address space; a PDF of 1,000 pages needs 61 MiB
    seconds: int = 120  # of the processor; a PDF of 1,000 dense pages takes 6
    wall_seconds: int = 600  # of the clock; passed only on a machine that has no time for us, so not the file's fault
    text_bytes: int = 64 * MIB  # as UTF-8; some 16 million tokens, three times what the contract allows a file
    unpacked_bytes: int = 1024 * MIB  # of everything in a zip archive together
    cells: int = 5_000_000  # of a spreadsheet, empty ones between others included
