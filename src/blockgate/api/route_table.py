"""Routes as a module writes them down; FastAPI is given each of them once.

An `APIRouter` builds the checkers of a route's parameters and answers when the route is written
down, and all of them again when it is included in another: of a start's time that was a fourth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_Responses = dict[int | str, dict[str, Any]]


class RouteTable:
    """The routes of one module. What is said of a route is said in FastAPI's words."""

    def __init__(self, *, prefix: str = "", tag: str) -> None:
        self._prefix = prefix
        self._tag = tag
        self._routes: list[tuple[str, str, Callable[..., Any], dict[str, Any]]] = []

    def get(self, path: str, **words: Any) -> Callable[[_Endpoint], _Endpoint]:
        """What is there."""
        return self._route("GET", path, words)

    def post(self, path: str, **words: Any) -> Callable[[_Endpoint], _Endpoint]:
        """Something new, or something to be done."""
        return self._route("POST", path, words)

    def put(self, path: str, **words: Any) -> Callable[[_Endpoint], _Endpoint]:
        """The whole of it."""
        return self._route("PUT", path, words)

    def patch(self, path: str, **words: Any) -> Callable[[_Endpoint], _Endpoint]:
        """What is to change of it."""
        return self._route("PATCH", path, words)

    def delete(self, path: str, **words: Any) -> Callable[[_Endpoint], _Endpoint]:
        """No longer there."""
        return self._route("DELETE", path, words)

    def _route(
        self, method: str, path: str, words: dict[str, Any]
    ) -> Callable[[_Endpoint], _Endpoint]:
        def written_down(endpoint: _Endpoint) -> _Endpoint:
            self._routes.append((method, path, endpoint, words))
            return endpoint

        return written_down

    def add_to(self, app: FastAPI, prefix: str = "", responses: _Responses | None = None) -> None:
        """Give them to `app`, below `prefix`, with `responses` that each of them may give."""
        for method, path, endpoint, words in self._routes:
            app.add_api_route(
                prefix + self._prefix + path,
                endpoint,
                methods=[method],
                tags=[self._tag],
                **{**words, "responses": {**(responses or {}), **words.get("responses", {})}},
            )
