"""`/uploads`: large files, which come in parts."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from api.schemas.files import FileExpiresAfter, FileObject, UploadPurpose
from api.schemas.requests import Request
from api.schemas.texts import Text, without_nul

MAX_UPLOAD_BYTES = 8 * 1024**3
Filename = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(without_nul)]


class CreateUploadRequest(Request):
    filename: Filename
    purpose: UploadPurpose
    bytes: int = Field(ge=1, le=MAX_UPLOAD_BYTES)
    mime_type: Text = Field(description="Not kept: what a file is, is told from its name and its bytes.")
    expires_after: FileExpiresAfter | None = None


class AddUploadPartRequest(Request):
    """The fields of the form beside its `data`: none."""


class PresignUploadPartRequest(Request):
    bytes: int = Field(ge=1, le=5 * 1024**3, description="Of the part. S3 takes 5 GiB in one request.")


class CompleteUploadRequest(Request):
    part_ids: Annotated[list[Text], Field(min_length=1, max_length=10_000)]
    md5: Text | None = Field(default=None, description="Of the whole file, in hexadecimal digits.")


class Upload(TypedDict):
    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None


class UploadPart(TypedDict):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


class PresignedPart(TypedDict):
    id: str
    object: Literal["upload.presigned_part"]
    created_at: int
    expires_at: int
    upload_id: str
    bytes: int
    method: Literal["PUT"]
    url: str
