"""Metadata contexts that can be had, and what a query finds ("Metadata querying")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blockgate.nbd.wire import MalformedError


@dataclass(frozen=True, slots=True)
class MetaContext:
    """A context and the id under which NBD_CMD_BLOCK_STATUS answers for it."""

    id: int
    name: str


BASE_ALLOCATION: Final = MetaContext(1, "base:allocation")
AVAILABLE: Final = (BASE_ALLOCATION,)


def listed(queries: Iterable[str]) -> tuple[MetaContext, ...]:
    """Contexts for NBD_OPT_LIST_META_CONTEXT: all without a query; else those that a query names,
    with "base:" as the wildcard of its namespace ("The `base:` metadata namespace")."""
    wanted = tuple(queries)
    if not wanted:
        return AVAILABLE
    return _matching(wanted, wildcard=True)


def selected(queries: Iterable[str]) -> tuple[MetaContext, ...]:
    """Contexts for NBD_OPT_SET_META_CONTEXT: only those named in full; "base:" alone is ignored
    ("the server MUST ignore this form during NBD_OPT_SET_META_CONTEXT")."""
    return _matching(tuple(queries), wildcard=False)


def _matching(queries: tuple[str, ...], *, wildcard: bool) -> tuple[MetaContext, ...]:
    """Raises MalformedError for a query without a namespace; an unknown namespace or leaf name is
    ignored, as the text says it MUST be. Each context is found once, however often named."""
    found: set[str] = set()
    for query in queries:
        namespace, colon, leaf = query.partition(":")
        if not colon or not namespace:
            raise MalformedError(
                f"the query {query!r:.80} does not begin with a namespace and a colon"
            )
        for context in AVAILABLE:
            if context.name == query or (
                wildcard and not leaf and context.name.startswith(f"{namespace}:")
            ):
                found.add(context.name)
    return tuple(context for context in AVAILABLE if context.name in found)
