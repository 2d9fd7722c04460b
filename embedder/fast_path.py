"""The way of the requests that come by the thousand: past the router and its layers, a fifth of what one costs."""

from collections.abc import Iterable

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from embedder.errors import ApiError, error_response


class FastPath:
    """Answers POST to these routes itself, and leaves all else, and every bug, to the application."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # as the router would say
        try:
            response = await route.endpoint(Request(scope, receive, send))
        except ApiError as error:
            response = error_response(error)
        await response(scope, receive, send)
