"""The files below a folder: all of them or an error, since a list that is short of some makes a smaller dataset.

Links to folders are followed. Each folder counts once, under its own path where that lies below the root, so a link
back to where one comes from ends nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from preprocessing.errors import SourceError


def list_files(root: Path, place: Path) -> list[str]:
    """All visible files below `place`, a folder at or below `root`, as sorted paths from the root, with slashes.

    Raises SourceError that names a folder which cannot be listed, or a link that leads nowhere and may be one.
    """
    found = []
    for folder, files in _folders(place):
        prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        found += [f"{prefix}{name}" for name in files if not name.startswith(".")]
    return sorted(found)


def _folders(place: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each visible folder with the names of its files; real folders first, then what links lead to."""
    visited, places = set(), [place]
    while places:
        for folder, subfolders, files in os.walk(places.pop(0), onerror=_cannot_be_listed):
            state = os.stat(folder)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            if (state.st_dev, state.st_ino) in visited:
                subfolders.clear()
                continue
            visited.add((state.st_dev, state.st_ino))
            here = Path(folder)
            places += [here / name for name in subfolders if (here / name).is_symlink()]  # os.walk leaves them alone
            yield here, files


def _cannot_be_listed(error: OSError) -> None:
    raise SourceError(
        f"{error.filename}: this folder cannot be listed ({error.strerror or error}); see to its permissions, the disk "
        "or the network drive, or move it away, then run again"
    ) from error
