"""Why a file gives no text: each with the contract's code for `last_error` and a sentence its owner can act on."""

from typing import ClassVar, Literal

BLANK = "The file holds no text."

Code = Literal["server_error", "unsupported_file", "invalid_file"]


class ExtractionError(Exception):
    """`detail` is what a library said, for the log; it may quote the file."""

    code: ClassVar[Code] = "server_error"

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class UnsupportedFile(ExtractionError):
    """No extractor reads this type."""

    code = "unsupported_file"


class InvalidFile(ExtractionError):
    """The type is known, but the file is damaged, encrypted or without text."""

    code = "invalid_file"


class FileTooHeavy(ExtractionError):
    """The file asks for more time, memory or space than one file gets."""

    code = "invalid_file"


class ExtractorFailed(ExtractionError):
    """The process died of something that was not the file's doing; trying again may help."""
