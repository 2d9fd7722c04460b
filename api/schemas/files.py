"""`/files`: the fields of an upload's form, and a file as it is answered."""

from typing import Literal, NotRequired, get_args

from pydantic import Field
from typing_extensions import TypedDict

from api.schemas.requests import PageQuery, Request
from api.schemas.texts import Text

UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(UploadPurpose)


class FileExpiresAfter(Request):
    anchor: Literal["created_at"]
    seconds: int = Field(strict=False, ge=3600, le=2_592_000)


class CreateFileRequest(Request):
    """The fields of the form beside its file, `expires_after[anchor]` and `expires_after[seconds]` as one."""

    purpose: UploadPurpose
    expires_after: FileExpiresAfter | None = None


class FileQuery(PageQuery):
    limit: int = Field(default=10_000, ge=1, le=10_000)
    purpose: Text | None = None


class FileObject(TypedDict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: NotRequired[int]
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]


class FilePage(TypedDict):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(TypedDict):
    id: str
    object: Literal["file"]
    deleted: Literal[True]
