"""Public traces that pagesim reads."""

from __future__ import annotations

from dataclasses import dataclass

from pagesim.catalog import data


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """A published trace.

    Attributes:
        name: for ``pagesim list traces``.
        summary: what it holds.
        file: name of the file that the checksum is of; original data rows, compressed with gzip.
        format: how it is laid out; empty if this version has no reader for it.
        rows: requests, or what a line of it holds.
        repository: on GitHub; commit: of the original; path: of the original within it.
        licence: of the data; attribution: whom to cite.
        sha256: of ``file``.
    """

    name: str
    summary: str
    file: str
    format: str
    rows: int
    repository: str
    commit: str
    path: str
    licence: str
    attribution: str
    sha256: str

    @property
    def origin(self) -> str:
        """Where the original is published."""
        at = f" at {self.commit}" if self.commit else ""
        return f"the GitHub repository {self.repository}{at}: {self.path}"


def traces() -> list[TraceInfo]:
    """Return all known public traces."""
    return [TraceInfo(name=name, **entry) for name, entry in data.load("traces").items()]
