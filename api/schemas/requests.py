"""What every request keeps to, and the pages of a list."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.texts import Text


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PageQuery(Request):
    model_config = ConfigDict(strict=False)  # all of a URL is text

    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: Text | None = Field(default=None, description="The last id of the page before.")
    before: Text | None = Field(default=None, description="The first id of the page after.")
