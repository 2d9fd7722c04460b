"""`/keys`: what makes a caller's key, and what is told of it."""

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import TypedDict

from api.schemas.requests import Request
from api.schemas.texts import Name, Text

Role = Literal["admin", "write", "read"]

TENANT = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MAX_STORES = 1000  # of one key; they are part of every statement
LAST_SECOND = 253_402_300_799  # of the year 9999

Tenant = Annotated[str, Field(pattern=TENANT)]


def _distinct(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


class CreateApiKeyRequest(Request):
    name: Name = Field(description="What it is for, to tell it by.")
    role: Role = Field(description="`read` reads and searches, `write` changes as well, `admin` makes keys as well.")
    tenant: Tenant | None = Field(
        default=None,
        description="Whose stores and files it sees. Unset: the tenant of the key that makes it; if that has none, "
        "`default` for `read` and `write`, and for `admin` all tenants.",
    )
    vector_store_ids: (
        Annotated[list[Text], Field(min_length=1, max_length=MAX_STORES), AfterValidator(_distinct)] | None
    ) = Field(default=None, description="The only stores that it sees. Unset: all of its tenant's.")
    expires_at: Annotated[int, Field(ge=0, le=LAST_SECOND)] | None = Field(
        default=None, description="Unix time in seconds from which on it is refused. Unset: never."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Unset: the server's `MAX_REQUESTS_PER_MINUTE`."
    )

    @model_validator(mode="after")
    def _admins_see_all_stores(self) -> "CreateApiKeyRequest":
        if self.role == "admin" and self.vector_store_ids is not None:
            raise ValueError("a key with the role admin cannot be kept to some stores; leave vector_store_ids out")
        return self


class ApiKey(TypedDict):
    id: str
    object: Literal["api_key"]
    name: str
    redacted_value: str
    role: Role
    tenant: str | None
    vector_store_ids: list[str] | None
    requests_per_minute: int | None
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    value: NotRequired[str]  # the key itself, in the answer to its creation only


class ApiKeyPage(TypedDict):
    object: Literal["list"]
    data: list[ApiKey]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ApiKeyDeleted(TypedDict):
    id: str
    object: Literal["api_key.deleted"]
    deleted: Literal[True]
