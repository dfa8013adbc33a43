"""The engine's bounds, made small for a test, by way of a configuration file."""

from __future__ import annotations

from pathlib import Path


def limits_file(directory: Path, **limits: int) -> Path:
    """A configuration for `blockgated --config` that sets these limits (`blockgated(8)`)."""
    lines = ["[engine.limits]", *(f"{name} = {value}" for name, value in limits.items())]
    path = directory / "limits.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
