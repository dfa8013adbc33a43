"""Every error that a user can see: what went wrong, what to do instead, and how it is reported.

`exit_code` is what the command line ends with, `http_status` what the API answers. Both are
documented to users, so they never change for an existing class.
"""

from __future__ import annotations

from typing import ClassVar


class BlockgateError(Exception):
    """The base of all errors that are answered to a caller.

    `code` is a stable word for programs, `message` one sentence for people, `hint` says what to
    type or do instead (it may be empty).
    """

    default_code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 7
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, hint: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InvalidInput(BlockgateError):
    """What was asked for makes no sense as written."""

    default_code = "invalid-input"
    exit_code = 2
    http_status = 400


class NotFound(BlockgateError):
    """The thing that was named does not exist."""

    default_code = "not-found"
    exit_code = 3
    http_status = 404


class Conflict(BlockgateError):
    """The request is well formed, but what exists stands against it."""

    default_code = "conflict"
    exit_code = 4
    http_status = 409


class InUse(Conflict):
    """Somebody uses the thing: a client, an export, or another daemon."""

    default_code = "in-use"


class Refused(BlockgateError):
    """It could be done and is not, because it would lose something or is not allowed."""

    default_code = "refused"
    exit_code = 5
    http_status = 403


class Forbidden(Refused):
    """The caller's role does not reach that far."""

    default_code = "forbidden"


class Unavailable(BlockgateError):
    """A thing that is needed is away at the moment; the same request may succeed later."""

    default_code = "unavailable"
    exit_code = 6
    http_status = 503


class Failed(BlockgateError):
    """It was tried and could not be done."""


_BY_CODE: dict[str, type[BlockgateError]] = {
    cls.default_code: cls
    for cls in (InvalidInput, NotFound, Conflict, InUse, Refused, Forbidden, Unavailable, Failed)
}


def to_record(error: BlockgateError) -> dict[str, str]:
    """The error as plain values, for an operation's record; `from_record` is its inverse."""
    kind = type(error).default_code
    return {"kind": kind, "code": error.code, "message": error.message, "hint": error.hint}


def from_record(record: dict[str, str]) -> BlockgateError:
    """The error that `to_record` wrote down. A kind that is not known becomes `Failed`."""
    cls = _BY_CODE.get(record["kind"], Failed)
    return cls(record["message"], record["hint"], code=record["code"])
