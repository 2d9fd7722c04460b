"""The text of an e-mail: who wrote to whom, when, about what, the message, and what its attachments are called."""

from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import BinaryIO

from api.extractors import html
from api.extractors.errors import InvalidFile
from api.extractors.text_file import TextFile

HEADERS = ("Subject", "From", "To", "Cc", "Date")


def extract(stream: BinaryIO, out: TextFile) -> None:
    message = BytesParser(EmailMessage, policy=policy.default).parse(stream)
    headers = {name: value for name in HEADERS if (value := _header(message, name))}
    if not headers:
        raise InvalidFile("The file is no e-mail: it has neither a sender nor a subject.")
    for name, value in headers.items():
        out.write(f"{name}: {value}\n")
    out.write("\n")
    body = message.get_body(preferencelist=("plain", "html"))
    if isinstance(body, EmailMessage):
        text = _decoded(body)
        if body.get_content_subtype() == "html":
            html.write([text], out)
        else:
            out.paragraph(text)
    names = [name for part in message.iter_attachments() if (name := part.get_filename())]
    if names:
        out.paragraph(f"Attachments: {', '.join(names)}")


def _header(message: EmailMessage, name: str) -> str:
    try:
        value = str(message[name] or "")
    except (ValueError, LookupError, AttributeError, TypeError):  # what the standard library makes of malformed ones
        value = next(value for key, value in message.raw_items() if key.lower() == name.lower())
    return " ".join(value.split())


def _decoded(body: EmailMessage) -> str:
    data = body.get_payload(decode=True)
    assert isinstance(data, bytes)  # it is one part, not several
    try:
        return data.decode(body.get_content_charset("utf-8"), "replace")
    except LookupError:  # an encoding that nobody knows
        return data.decode("cp1252", "replace")
