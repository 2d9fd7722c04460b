"""The text of PDF, page by page."""

import logging
from typing import BinaryIO

from pypdf import PasswordType, PdfReader
from pypdf.errors import LimitReachedError

from api.extractors.errors import ExtractionError, FileTooHeavy, InvalidFile
from api.extractors.text_file import TextFile


def extract(stream: BinaryIO, out: TextFile) -> None:
    logging.disable()  # pypdf tells of every oddity it overcomes
    try:
        reader = PdfReader(stream)
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise InvalidFile("The PDF is encrypted; save it without a password.")
        for page in reader.pages:
            out.paragraph(page.extract_text())
    except LimitReachedError as error:
        raise FileTooHeavy(
            "The PDF nests, repeats or unpacks beyond what is read; print it to a new PDF.", detail=str(error)
        ) from error
    except (ExtractionError, MemoryError, OSError):
        raise
    except Exception as error:  # pypdf lets through whatever a broken object provokes
        raise InvalidFile(
            "The PDF is damaged and cannot be read; print it to a new PDF.", detail=f"{type(error).__name__}: {error}"
        ) from error
    if out.is_blank:
        raise InvalidFile("The PDF holds no text, as a scan does; run text recognition (OCR) on it first.")
