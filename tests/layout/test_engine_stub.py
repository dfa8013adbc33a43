"""_engine.pyi says exactly what the built module holds: names, parameters, properties."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

STUB = Path(__file__).parents[2] / "src" / "blockgate" / "_engine.pyi"
# What every extension class has and no stub repeats.
ORDINARY = set(dir(object)) | {"__module__", "__weakref__", "__dict__"}


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    return importlib.import_module("blockgate._engine")


def stub_classes() -> dict[str, ast.ClassDef]:
    tree = ast.parse(STUB.read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def stub_names() -> set[str]:
    """Public names at the stub's top level, type aliases apart."""
    names = set()
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and ast.unparse(node.annotation) != "TypeAlias"
        ):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def stub_members(node: ast.ClassDef) -> dict[str, ast.FunctionDef | None]:
    """A class's members: functions by definition, attributes and properties as None."""
    members: dict[str, ast.FunctionDef | None] = {}
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            decorators = {ast.unparse(decorator) for decorator in item.decorator_list}
            members[item.name] = None if "property" in decorators else item
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            members[item.target.id] = None
    return members


def parameters(arguments: ast.arguments) -> list[tuple[str, str]]:
    """(name, kind) of each parameter but self."""
    listed = [(one.arg, "positional only") for one in arguments.posonlyargs]
    listed += [(one.arg, "positional") for one in arguments.args]
    if arguments.vararg:
        listed.append((arguments.vararg.arg, "variadic"))
    listed += [(one.arg, "keyword only") for one in arguments.kwonlyargs]
    return [entry for entry in listed if entry[0] not in ("self", "cls")]


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.VAR_POSITIONAL: "variadic",
    inspect.Parameter.KEYWORD_ONLY: "keyword only",
}


def real_parameters(function: object) -> list[tuple[str, str]]:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return [
        (parameter.name, KINDS[parameter.kind])
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]


def test_the_same_names(engine: ModuleType) -> None:
    real = {name for name in vars(engine) if not name.startswith("_")}
    assert stub_names() == real


@pytest.mark.parametrize("name", sorted(stub_classes()))
def test_the_same_members(engine: ModuleType, name: str) -> None:
    real_class = getattr(engine, name)
    if issubclass(real_class, BaseException):
        return
    stub = stub_members(stub_classes()[name])
    stub.pop("__init__", None)
    stub.pop("__new__", None)
    real = {
        member
        for member in vars(real_class)
        if member not in ORDINARY and member not in ("__new__", "__match_args__", "__init__")
    }
    assert {member for member in stub if member not in ORDINARY} == real


@pytest.mark.parametrize("name", sorted(stub_classes()))
def test_the_same_parameters(engine: ModuleType, name: str) -> None:
    real_class = getattr(engine, name)
    if issubclass(real_class, BaseException):
        return
    for member, definition in stub_members(stub_classes()[name]).items():
        if definition is None:
            continue
        if member in ("__init__", "__new__"):
            assert parameters(definition.args) == real_parameters(real_class), f"{name}()"
        elif not member.startswith("__"):
            real = real_parameters(getattr(real_class, member))
            assert parameters(definition.args) == real, f"{name}.{member}"
