"""Finding, making and naming results folders."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from pagesim.errors import ConfigError
from pagesim.results import files, layout


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest.

    Raises ConfigError if there is none, if it is damaged, or if a newer version of pagesim wrote it.
    """
    path = folder / layout.MANIFEST
    if not path.is_file():
        raise ConfigError(f"{str(folder)!r} is no results folder: it has no {layout.MANIFEST}")
    manifest = files.read_json(path)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or not isinstance(manifest.get("runs"), list):
        raise ConfigError(f"{str(path)!r} is damaged: it names no schema_version and no runs")
    if version > layout.SCHEMA_VERSION:
        raise ConfigError(
            f"{str(folder)!r} was written by a newer pagesim ({manifest.get('pagesim', 'unknown version')}): "
            f"its schema version is {version}, this one reads up to {layout.SCHEMA_VERSION}; update pagesim to read it"
        )
    if not all(isinstance(run, dict) and isinstance(run.get("run"), str) for run in manifest["runs"]):
        raise ConfigError(f"{str(path)!r} is damaged: an entry of runs has no name")
    return dict(manifest)


def new_folder(parent: Path, now: datetime, config_hash: str) -> Path:
    """Make ``parent/<UTC time>-<config hash>``, with a number behind it if there is one already."""
    base = f"{now:%Y%m%dT%H%M%SZ}-{config_hash}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = parent / (base if number == 1 else f"{base}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise ConfigError(f"cannot make a results folder in {str(parent)!r}: {error.strerror or error}") from None
    raise ConfigError(f"{str(parent)!r} has a thousand results of this second; name another folder with --out")


def own_folder(out: Path) -> Path:
    """Return ``out``, made or emptied of earlier results."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        entries = sorted(path.name for path in out.iterdir())
        foreign = [name for name in entries if name not in layout.OWN and not name.endswith(files.TEMPORARY)]
        if foreign or (entries and layout.MANIFEST not in entries):
            raise ConfigError(
                f"{str(out)!r} holds files that are no results ({', '.join((foreign or entries)[:3])}); "
                "name a new or empty folder"
            )
        if entries:
            read_manifest(out)
        for name in entries:
            remove(out / name)
        probe = out / f".probe.{os.getpid()}{files.TEMPORARY}"
        probe.touch()
        probe.unlink()
    except FileExistsError:
        raise ConfigError(f"{str(out)!r} is a file; results need a folder") from None
    except OSError as error:
        raise ConfigError(f"cannot write results to {str(out)!r}: {error.strerror or error}") from None
    return out


def point_latest(folder: Path) -> None:
    """Let ``latest`` beside the folder name it: a link, or where there are none a text file with its name."""
    latest = folder.parent / layout.LATEST
    with files.whole(latest) as temporary:
        try:
            temporary.symlink_to(folder.name, target_is_directory=True)
        except (OSError, NotImplementedError):
            temporary.write_text(folder.name + "\n", encoding="utf-8")


def latest_of(parent: Path) -> Path | None:
    """Return the folder that ``latest`` in ``parent`` names, None if there is none."""
    latest = parent / layout.LATEST
    if latest.is_dir():
        return latest.resolve()
    if latest.is_file():
        folder = parent / latest.read_text(encoding="utf-8").strip()
        return folder if folder.is_dir() else None
    return None


def known_names(root: Path) -> list[str]:
    """Return the experiments that have results under ``root``."""
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
