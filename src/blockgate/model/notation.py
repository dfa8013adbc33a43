"""Reading a document's text, YAML or JSON, that anybody may have written.

YAML is taken without anchors and aliases, by which a page of text can stand for gigabytes, without
tags, and to a small depth: the reader of nested nodes is recursive C.
"""

from __future__ import annotations

import json
import math
from typing import Any

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import cut

DEPTH_MAX = 32
"""How deep lists and mappings may stand in one another; a real document needs four levels."""

_REASON_MAX = 300
_TAG = "tag:yaml.org,2002:"
_KINDS = frozenset({"str", "int", "float", "bool", "null", "seq", "map"})
"""The tags of what JSON has, too; the others that YAML finds by itself are:"""
_OTHER_KINDS = {
    "timestamp": "a date",
    "merge": "<<, which merges mappings",
    "value": "a lone =",
}


def read_notation(text: str | bytes, name: str = "The document") -> object:
    """The values that YAML or JSON text writes, or `InvalidInput`; `name` is what to call it.

    Only values that JSON has, too, come back. No error quotes the text: it may hold secrets.
    """
    try:
        if text.lstrip()[:1] in ("{", b"{"):
            try:
                return json.loads(
                    text, object_pairs_hook=_unique, parse_float=_number, parse_constant=_number
                )
            except json.JSONDecodeError:
                pass  # YAML's flow style begins like this, too
        return _read_yaml(text)
    except RecursionError as error:
        raise _too_deep(name) from error
    except (ValueError, OverflowError) as error:
        reason = cut(" ".join(str(error).split()), _REASON_MAX)
        if "integer string conversion" in reason:  # Python's own advice is not for who writes it
            reason = "it holds a number of thousands of digits"
        raise InvalidInput(
            f"{name} is not valid YAML or JSON: {reason}.", "Correct it at that place."
        ) from error


def _too_deep(where: str) -> InvalidInput:
    return InvalidInput(
        f"{where} is nested more than {DEPTH_MAX} levels deep.",
        "`blockgate config export` shows what a document looks like.",
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise InvalidInput("The document has a key twice in one mapping.", "Remove one of them.")
    return made


def _number(text: str) -> float:
    """JSON has neither NaN nor Infinity (RFC 8259 6), though Python's reader takes them."""
    value = float(text)
    if not math.isfinite(value):
        raise json.JSONDecodeError("no number of JSON", text, 0)
    return value


def _read_yaml(text: str | bytes) -> object:
    import yaml  # only when it is needed: it takes memory

    # The one in C is ten times faster.
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml, text, base)
        return yaml.load(text, _strict(base))  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        raise ValueError(_reason(error)) from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _reason(error: Any) -> str:
    """What is wrong, and where; not the line itself, which the error in full may show."""
    words = [word for word in (error.context, error.problem) if word]
    mark = error.problem_mark or error.context_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return ", ".join(words) + place


def _strict(base: Any) -> Any:
    """A loader that takes fewer liberties than `base`."""

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """YAML's last of several equal keys wins; here it is a mistake."""
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if len({str(key) for key in keys}) != len(keys):
                raise InvalidInput(
                    f"The mapping at line {node.start_mark.line + 1} has a key twice.",
                    "Remove one of them.",
                )
            return super().construct_mapping(node, deep)

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            """YAML 1.1 knows more kinds of values than JSON, also without a tag."""
            kind = node.tag.removeprefix(_TAG)
            if kind not in _KINDS:
                raise _no_value(node, _OTHER_KINDS.get(kind, "a value of another kind"))
            made = super().construct_object(node, deep)
            if isinstance(made, float) and not math.isfinite(made):
                raise _no_value(node, "a number that is not finite")
            return made

    return Loader


def _no_value(node: Any, what: str) -> InvalidInput:
    return InvalidInput(
        f"Line {node.start_mark.line + 1} holds {what}, and that is not taken.",
        "Put quotes around it if it is text.",
    )


def _check_events(yaml: Any, text: str | bytes, loader: Any) -> None:
    """Refuse what would cost more than its length; events are read one by one."""
    depth = 0
    for event in yaml.parse(text, loader):
        if getattr(event, "anchor", None) is not None:
            raise InvalidInput(
                f"Line {event.start_mark.line + 1} holds an anchor or alias (& or *), and "
                "those are not taken.",
                "Write the value out at each place, or put quotes around text with & or *.",
            )
        if getattr(event, "tag", None) not in (None, _TAG + "str"):
            raise InvalidInput(
                f"Line {event.start_mark.line + 1} holds a tag (!), and those are not taken.",
                "Put quotes around text that begins with !.",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX:
            raise _too_deep(f"Line {event.start_mark.line + 1}")
