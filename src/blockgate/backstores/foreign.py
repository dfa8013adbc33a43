"""Files that another pool's label names: a pool above or below knows them as its volume."""

from __future__ import annotations

import json
import os
from pathlib import Path

from blockgate.backstores.labels import LABEL_BYTES_MAX, LABEL_DIRECTORY
from blockgate.model.errors import Conflict, Refused


def check_unclaimed(path: str, root: str) -> None:
    """Refuse a file that the label of another pool than the one at `root` names.

    Both are real paths. Looked at are the directories that the file is in, for only a pool there
    can have it. It does not matter whether some daemon serves that pool at the moment.
    """
    for directory in Path(path).parents:
        if str(directory) == root:
            continue
        labels = directory / LABEL_DIRECTORY
        try:
            names = sorted(n for n in os.listdir(labels) if n.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise Refused(
                f"{path} may be a volume of the pool {directory}, whose labels cannot be read: "
                f"{error.strerror}.",
                "Give this user the right to read them, or use a file elsewhere.",
            ) from error
        for name in names:
            if _names(labels / name, directory, path):
                raise Conflict(
                    f"{path} is the data of volume {name.removesuffix('.json')} of the pool in "
                    f"{directory}.",
                    "Let the gateway that has that pool serve it. To take the pool over: "
                    f"blockgate pool add NAME --directory {directory}; blockgate pool scan NAME. "
                    f"If it is given up, remove {labels / name} first.",
                    code="exists",
                )


def _names(label: Path, directory: Path, path: str) -> bool:
    """Whether the label names the file; one that cannot be read, by its own name."""
    try:
        with label.open("rb") as file:
            named = json.loads(file.read(LABEL_BYTES_MAX + 1))["file"]
        other = directory / named
    except (OSError, ValueError, KeyError, TypeError):
        other = directory / f"{label.stem}.img"
    try:
        return os.path.samefile(other, path)
    except OSError:
        return False
