"""How the API says no: one JSON shape for every error, made from the model's errors.

``{"error": {"code": "not-found", "message": "...", "hint": "..."}}``; the HTTP status is the
error's own.  A validation error names the place and the reason, never the value that was sent: the
value may be a secret that landed in the wrong field.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Send

from blockgate.api.requests import known_fields
from blockgate.model.errors import BlockgateError, Forbidden
from blockgate.model.showing import cut

_MAX_NAMED_PROBLEMS = 8
_MAX_FIELD_NAME = 40


class Unauthenticated(Forbidden):
    """The API does not know who is asking (RFC 9110, 15.5.2)."""

    default_code = "unauthenticated"
    http_status = 401


class ErrorDetail(BaseModel):
    """What went wrong and what to do about it."""

    code: str = Field(description="stable, for programs: not-found, in-use, invalid-input, ...")
    message: str = Field(description="for people")
    hint: str = Field(default="", description="what to do or type instead; may be empty")


class ErrorBody(BaseModel):
    """The body of every answer with a status of 400 and above."""

    error: ErrorDetail


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI."""
    return {
        status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
        for status in statuses
    }


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of `app` an `ErrorBody`."""

    @app.exception_handler(BlockgateError)
    async def _known(request: Request, error: BlockgateError) -> JSONResponse:
        return _answer(request, error.http_status, error.code, error.message, error.hint)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, hint = explain_validation(error.errors())
        return _answer(request, 422, "invalid-input", message, hint)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).name.lower().replace("_", "-")
        hint = "The document /openapi.json lists what there is." if error.status_code == 404 else ""
        headers = dict(error.headers or {})
        return _answer(request, error.status_code, code, str(error.detail), hint, headers)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        # Starlette runs this in its outermost layer and then raises `error` again, for the log.
        return _answer(
            request,
            500,
            "internal",
            "The gateway met an error of its own.",
            "The daemon's log has the details. The request may be sent again with the same "
            "Operation-Id.",
        )


def _answer(
    request: Request,
    status: int,
    code: str,
    message: str,
    hint: str,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    request.state.error_code = code  # for the command log
    detail = {"code": code, "message": message, "hint": hint}
    return JSONResponse({"error": detail}, status_code=status, headers=headers)


async def send_error(send: Send, status: int, code: str, message: str, hint: str = "") -> None:
    """The same from an ASGI layer, before the request was read: the connection ends with it."""
    body = json.dumps({"error": {"code": code, "message": message, "hint": hint}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def explain_validation(problems: Sequence[Any]) -> tuple[str, str]:
    """Message and hint for pydantic's list of problems, without any of the values."""
    lines = []
    hint = ""
    for problem in problems[:_MAX_NAMED_PROBLEMS]:
        where = cut(".".join(str(part) for part in problem["loc"])) or "body"
        kind = problem["type"]
        if kind == "extra_forbidden":
            lines.append(_surplus(problem["loc"]))
            hint = "The document /openapi.json lists the fields."
        elif kind == "json_invalid":
            lines.append("the body is not valid JSON")
            hint = hint or "Send JSON; text in it stands in double quotes."
        else:
            lines.append(f"{where}: {_without_value(problem)}")
            hint = hint or "The document /openapi.json says what each field takes."
    if len(problems) > _MAX_NAMED_PROBLEMS:
        lines.append(f"and {len(problems) - _MAX_NAMED_PROBLEMS} more")
    return "; ".join(lines) + ".", hint


def _surplus(place: Sequence[Any]) -> str:
    """A field that is not known. What is not nearly the name of one may be a secret."""
    *above, name = map(str, place)
    where = cut(".".join(map(str, place)))
    if name in known_fields():
        return f"{where}: there is no such field here"
    near = get_close_matches(name, known_fields(), n=1) if len(name) <= _MAX_FIELD_NAME else []
    if near:
        return f"{where}: there is no such field; is it {near[0]}?"
    return f"{cut('.'.join(above)) or 'body'}: it has a field that is not known"


def _without_value(problem: Any) -> str:
    """pydantic's own texts name limits and choices, not values, except those of parsers."""
    if problem["type"] in {"value_error", "assertion_error"}:
        # Raised by our validators, which may quote what they were given; fields that hold secrets
        # have none.
        reason = problem.get("ctx", {}).get("error")
        return str(reason) if reason is not None else "not valid"
    if problem["type"] in {"json_type", "int_parsing", "bool_parsing", "float_parsing"}:
        return str(problem["msg"]).split(",")[0]
    return str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
