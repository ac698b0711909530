"""The lines of a text file, plain or compressed, with errors that say how far reading came."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pagesim.errors import TraceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BYTE_ORDER_MARK = "\ufeff"


class CompressionError(Exception):
    """Compressed data is damaged."""


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends; ``.gz`` and ``.zst`` are decompressed on the way.

    Raises TraceError where the file cannot be read, is damaged, ends early or is no UTF-8 text.
    """
    number = 0
    try:
        with _open(path) as file:
            for line in file:
                number += 1
                text = line.decode("utf-8")
                yield text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}:{number}: byte {error.start + 1}: is no UTF-8 text; a trace is CSV or JSON lines"
        ) from None
    except EOFError:
        raise TraceError(
            f"{path}:{number + 1}: the compressed data ends early, after {number} lines: the file is truncated; "
            "get it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error, CompressionError) as error:
        raise TraceError(f"{path}:{number + 1}: the compressed data is damaged: {error}; get the file again") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]  # a GzipFile, which reads lines as any binary file does
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path.open("rb")), 1 << 20)
    return path.open("rb")


class _Zstandard(io.RawIOBase):
    """Decompresses all frames of a file; unlike the library's reader it notices that the last one is cut off."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._error = zstandard.ZstdError
        self._new_frame: Any = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._compressed = b""
        self._text = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._text:
            self._compressed = self._compressed or self._file.read(1 << 18)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._frame = self._frame or self._new_frame()
            try:
                self._text = self._frame.decompress(self._compressed)
            except self._error as error:
                raise CompressionError(str(error)) from None
            self._compressed = b""
            if self._frame.eof:
                self._compressed = self._frame.unused_data
                self._frame = None
        view = memoryview(buffer)
        size = min(len(view), len(self._text))
        view[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
