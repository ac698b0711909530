"""Where a trace lies: beside the experiment, in the folder of traces, or in the download cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pagesim import catalog
from pagesim.errors import TraceError
from pagesim.suggestions import nearest

VARIABLE: Final = "PAGESIM_TRACES"
"""Environment variable that names the folder of traces."""


def cache_dir() -> Path:
    """Return the folder that downloaded traces are kept in; it need not exist."""
    import pooch

    return Path(pooch.os_cache("pagesim")) / "traces"


def find_trace(name: str, base_dir: Path) -> Path:
    """Return the file of a trace.

    Args:
        name: a file name or path; a relative one is looked up in ``base_dir``, in ``$PAGESIM_TRACES``, and in
            the download cache, in this order.
        base_dir: the folder of the experiment file.

    Raises TraceError, which says where it has looked.
    """
    path = Path(name).expanduser()
    variable = os.environ.get(VARIABLE)
    if path.is_absolute():
        folders = [path.parent]
        path = Path(path.name)
    else:
        folders = [base_dir, *([Path(variable).expanduser()] if variable else []), cache_dir()]
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    for folder in folders:
        if (folder / path).is_dir():
            raise TraceError(f"{folder / path} is a folder; name one file of it")
    raise TraceError(_not_found(name, path, folders, bool(variable)))


def _not_found(name: str, path: Path, folders: list[Path], has_variable: bool) -> str:
    names = [file.name for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file()]
    looked = ", ".join(str(folder.absolute()) for folder in dict.fromkeys(folders))
    sentences = [f"there is no trace {name!r}{nearest(path.name, names)}", f"looked in {looked}"]
    if len(folders) > 1 and not has_variable:
        sentences.append(f"set {VARIABLE} to the folder that holds your traces")
    origin = next((known.origin for known in catalog.traces() if known.file == path.name), None)
    if origin is not None:
        sentences.append(f"it is published in {origin}")
    return "; ".join(sentences)
