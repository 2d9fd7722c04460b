"""What routes take from the application: the opened resources, of which the caller sees what is theirs."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from api.resources import Resources
from api.services.keys import Caller
from api.tables.scope import NOTHING


async def opened(request: Request) -> Resources:
    """The resources within the caller's scope: there is no other way to them for a route."""
    return opened_in(request.scope)


def opened_in(scope: Scope) -> Resources:
    """The same, by a request's ASGI scope."""
    caller: Caller | None = scope["state"].get("caller")
    resources: Resources = scope["app"].state.resources
    return resources.within(NOTHING if caller is None else caller.scope)


Opened = Annotated[Resources, Depends(opened)]
