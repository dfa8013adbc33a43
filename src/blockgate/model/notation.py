"""Reading a document's text, YAML or JSON, that anybody may have written.

YAML is taken without anchors and aliases, by which a page of text can stand for gigabytes, and to
a small depth: the reader of nested nodes is recursive C.
"""

from __future__ import annotations

import json
from typing import Any

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import cut

DEPTH_MAX = 32
"""How deep lists and mappings may stand in one another; a real document needs four levels."""

_REASON_MAX = 300


def read_notation(text: str | bytes, name: str = "The document") -> object:
    """The values that YAML or JSON text writes, or `InvalidInput`; `name` is what to call it."""
    try:
        if text.lstrip()[:1] in ("{", b"{"):
            try:
                return json.loads(text, object_pairs_hook=_unique)
            except json.JSONDecodeError:
                pass  # YAML's flow style begins like this, too
        return _read_yaml(text)
    except (ValueError, RecursionError, OverflowError) as error:
        reason = cut(" ".join(str(error).split()), _REASON_MAX)
        raise InvalidInput(
            f"{name} is not valid YAML or JSON: {reason}.", "Correct it at that place."
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise InvalidInput("The document has a key twice in one mapping.", "Remove one of them.")
    return made


def _read_yaml(text: str | bytes) -> object:
    import yaml  # only when it is needed: it takes memory

    # The one in C is ten times faster.
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """YAML's last of several equal keys wins; here it is a mistake."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if len({str(key) for key in keys}) != len(keys):
                raise InvalidInput(
                    f"The mapping at line {node.start_mark.line + 1} has a key twice.",
                    "Remove one of them.",
                )
            return super().construct_mapping(node, deep)

    try:
        _check_events(yaml, text, base)
        return yaml.load(text, Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


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
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX:
            raise InvalidInput(
                f"Line {event.start_mark.line + 1} is nested more than {DEPTH_MAX} levels deep.",
                "`blockgate config export` shows what a document looks like.",
            )
