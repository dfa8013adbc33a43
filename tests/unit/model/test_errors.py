"""Errors: their documented numbers, and that a record brings them back."""

from __future__ import annotations

import pytest

from blockgate.model import errors
from blockgate.model.callers import Caller, Role


@pytest.mark.parametrize(
    ("kind", "exit_code", "status"),
    [
        (errors.InvalidInput, 2, 400),
        (errors.NotFound, 3, 404),
        (errors.Conflict, 4, 409),
        (errors.InUse, 4, 409),
        (errors.Refused, 5, 403),
        (errors.Forbidden, 5, 403),
        (errors.Unavailable, 6, 503),
        (errors.Failed, 7, 500),
    ],
)
def test_documented_numbers(kind: type[errors.BlockgateError], exit_code: int, status: int) -> None:
    error = kind("It is so.", "Do this.", code="some-code")
    assert (error.exit_code, error.http_status) == (exit_code, status)
    again = errors.from_record(errors.to_record(error))
    assert type(again) is kind
    assert (again.code, again.message, again.hint) == ("some-code", "It is so.", "Do this.")


def test_roles_include_those_before_them() -> None:
    operator = Caller("op", Role.OPERATE)
    operator.require(Role.VIEW)
    operator.require(Role.OPERATE)
    with pytest.raises(errors.Forbidden, match="op has the role 'operate'"):
        operator.require(Role.ADMINISTER)
