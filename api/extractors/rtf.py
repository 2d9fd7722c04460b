"""The text of RTF."""

from typing import BinaryIO

from striprtf.striprtf import rtf_to_text  # pyright: ignore[reportUnknownVariableType]  # it has no types

from api.extractors.text_file import TextFile


def extract(stream: BinaryIO, out: TextFile) -> None:
    # RTF is ASCII; a byte beyond it stands for itself in the code page that is usual.
    out.write(str(rtf_to_text(stream.read().decode("cp1252", "replace"), errors="replace")))  # pyright: ignore[reportUnknownArgumentType]
