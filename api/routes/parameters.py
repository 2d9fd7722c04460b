"""What routes take from the application: the opened resources."""

from typing import Annotated

from fastapi import Depends, Request

from api.resources import Resources


async def _resources(request: Request) -> Resources:
    return request.app.state.resources


Opened = Annotated[Resources, Depends(_resources)]
