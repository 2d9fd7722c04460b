"""What routes take from the application: the opened resources, of which the caller sees what is theirs."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from api.resources import Resources, Settle
from api.services.keys import Caller
from api.tables.scope import NOTHING


async def opened(request: Request) -> Resources:
    """The resources within the caller's scope: there is no other way to them for a route."""
    return opened_in(request.scope)


def opened_in(scope: Scope) -> Resources:
    """The same, by a request's ASGI scope."""
    caller: Caller | None = scope["state"].get("caller")
    resources: Resources = scope["app"].state.resources
    resources = resources.within(NOTHING if caller is None else caller.scope)
    settle: Settle | None = scope["state"].get("settle")
    return resources if settle is None else replace(resources, settle=settle)


Opened = Annotated[Resources, Depends(opened)]
