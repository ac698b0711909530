"""Importing a user's file: beside the experiment, under a name of its own, with errors that say where."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pagesim.errors import PluginError
from pagesim.suggestions import nearest


def load(module: str, base_dir: Path) -> ModuleType:
    """Import ``pkg.module`` or ``path/to/file.py``; what lies beside the experiment comes first.

    A file beside the experiment is imported under a name made of its own and its folder's, so that
    files of the same name in two folders are two modules.

    Raises PluginError if there is no such file or module, or if it raises while it is imported.
    """
    if module.endswith(".py"):
        path = (base_dir / Path(module).expanduser()).resolve()
        if not path.is_file():
            raise PluginError(f"there is no file {module!r} in {base_dir}{_nearest_file(path)}")
        return _load_file(path)
    top, *rest = module.split(".")
    if not rest and (base_dir / f"{top}.py").is_file():
        return _load_file(base_dir / f"{top}.py")
    if rest and (base_dir / top).joinpath(*rest).with_suffix(".py").is_file():
        return _load_package(base_dir / top, rest)
    if (base_dir / top).joinpath(*rest, "__init__.py").is_file():
        return _load_package(base_dir / top, rest)
    return _load_installed(module, base_dir)


def describe(error: BaseException) -> str:
    """Return an exception as a short sentence: ``ValueError: no such mode``."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def last_line(error: BaseException, file: str | None) -> str:
    """Return `` (file.py, line 12)`` for the last line of ``file`` that was running, or nothing."""
    if file is None:
        return ""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f" ({Path(file).name}, line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if lines else ""


def summary(module: str, class_name: str) -> str | None:
    """Return the first line of a class's docstring, read from its source; None if there is no such module."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _load_file(path: Path) -> ModuleType:
    name = f"{path.stem}_{_digest(path.parent)}"
    stamp = _stamp(path)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__pagesim_stamp__", None) == stamp:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _beside(path.parent), _errors(str(path)):
            # compiled here, not by the loader: its cache would miss an edit within the same second
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    module.__dict__["__pagesim_stamp__"] = stamp
    return module


def _load_package(folder: Path, rest: list[str]) -> ModuleType:
    name = f"{folder.name}_{_digest(folder.parent)}"
    path = folder.joinpath(*rest)
    file = path.with_suffix(".py") if rest and path.with_suffix(".py").is_file() else path / "__init__.py"
    stamp = _stamp(file)
    full = ".".join([name, *rest])
    known = sys.modules.get(full)
    if known is not None and getattr(known, "__pagesim_stamp__", None) == stamp:
        return known
    _forget(name)
    importlib.invalidate_caches()
    try:
        with _beside(folder.parent), _errors(str(file)):
            _begin_package(name, folder)
            module = importlib.import_module(full)
    except BaseException:
        _forget(name)
        raise
    module.__dict__["__pagesim_stamp__"] = stamp
    return module


def _begin_package(name: str, folder: Path) -> None:
    """Import a folder as the package ``name``, with or without an ``__init__.py``."""
    init = folder / "__init__.py"
    if not init.is_file():
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
        return
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)


def _forget(name: str) -> None:
    for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        del sys.modules[loaded]


def _load_installed(module: str, base_dir: Path) -> ModuleType:
    try:
        with _errors(None):
            return importlib.import_module(module)
    except PluginError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing is not None and (module == missing or module.startswith(missing + ".")):
            wanted = base_dir.joinpath(*module.split(".")).with_suffix(".py")
            raise PluginError(
                f"there is no module {module!r}: no {module.replace('.', '/')}.py in {base_dir}"
                f"{_nearest_file(wanted)}, and none is installed"
            ) from None
        raise PluginError(f"module {module!r}: {error}") from cause


def _nearest_file(path: Path) -> str:
    try:
        return nearest(path.name, [file.name for file in path.parent.glob("*.py")])
    except OSError:
        return ""


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _digest(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:8]


@contextlib.contextmanager
def _errors(file: str | None) -> Iterator[None]:
    """Turn whatever a user's file raises while it is imported into one sentence."""
    try:
        yield
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        if file is None:
            raise PluginError(f"raises while it is imported: {describe(error)}") from error
        place = last_line(error, file)
        if isinstance(error, SyntaxError) and place:
            raise PluginError(f"{Path(file).name}, line {error.lineno}: {type(error).__name__}: {error.msg}") from error
        where = place.strip(" ()") or Path(file).name
        raise PluginError(f"{where} raises while it is imported: {describe(error)}") from error


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours while it is imported, and forget them under their plain names after.

    So two folders may each have a ``helpers.py``. The interpreter's path and its byte-code setting are
    afterwards what they were.
    """
    is_on_path = any(Path(entry or ".").resolve() == folder for entry in sys.path)
    before = set(sys.modules)
    write_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = write_bytecode
        if not is_on_path:
            for name in set(sys.modules) - before:
                if _is_neighbour(name, folder):
                    del sys.modules[name]


def _is_neighbour(name: str, folder: Path) -> bool:
    top = name.partition(".")[0]
    if top in ("pagesim", "pagesim_backends"):
        return False
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()
