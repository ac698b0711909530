"""Finding, checking and building policies by name."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pagesim import plugins
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.paged import Paged
from pagesim.blocks import BlockPool
from pagesim.errors import ConfigError, PluginError

ALLOCATOR = '''\
class {name}:
    """{summary}"""

    def __init__(self, pool, factor=2):
        self.pool = pool
        self.factor = factor

    def allocate(self, sequence, num_tokens):
        return None

    def free(self, sequence):
        pass
'''


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def allocator(name: str = "Mine", summary: str = "Mine.") -> str:
    return ALLOCATOR.format(name=name, summary=summary)


def failure(name: str, folder: Path, kind: str = "allocator") -> str:
    with pytest.raises(PluginError) as caught:
        plugins.resolve(kind, name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_known_name(tmp_path: Path) -> None:
    assert plugins.resolve("allocator", "paged", tmp_path) is Paged


@pytest.mark.parametrize("kind", ["allocator", "scheduler", "victim"])
def test_everything_listed_can_be_had(kind: str, tmp_path: Path) -> None:
    listed = plugins.available(kind)
    assert len(listed) >= 3
    for listing in listed:
        found = plugins.resolve(kind, listing.name, tmp_path)
        assert found.__doc__ is not None
        assert listing == (listing.name, "pagesim", found.__doc__.splitlines()[0])


def test_a_listing_imports_nothing(tmp_path: Path) -> None:
    write(tmp_path, "heavy.py", "raise RuntimeError\n\nclass Heavy:\n    '''Heavy, and broken.\n\n    More.\n    '''\n")
    sys.path.insert(0, str(tmp_path))
    try:
        entry = importlib.metadata.EntryPoint("heavy", "heavy:Heavy", "pagesim.allocators")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.metadata, "entry_points", lambda group: (entry,) if "alloc" in group else ())
            assert plugins.available("allocator")[-1] == ("heavy", "heavy", "Heavy, and broken.")
            assert "heavy" not in sys.modules
            assert "cannot be loaded: RuntimeError" in failure("heavy", tmp_path)
            assert "known: contiguous, paged, copy_on_write, swapping, ideal, heavy;" in failure("hevy", tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("heavy", None)


def test_an_entry_point_is_a_name_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("other", "pagesim.allocators.paged:Paged", "pagesim.allocators")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: (entry,))
    assert plugins.resolve("allocator", "other", tmp_path) is Paged


@pytest.mark.parametrize("name", ["mine:Mine", "mine.py:Mine", "./mine.py:Mine"])
def test_a_file_beside_the_experiment(name: str, tmp_path: Path) -> None:
    write(tmp_path, "mine.py", allocator())
    before = (list(sys.path), sys.dont_write_bytecode)
    found = plugins.resolve("allocator", name, tmp_path)
    assert found.__name__ == "Mine"
    assert plugins.resolve("allocator", name, tmp_path) is found
    assert (sys.path, sys.dont_write_bytecode) == before
    assert sorted(os.listdir(tmp_path)) == ["mine.py"], "nothing is left beside the experiment"
    assert sys.modules[found.__module__].__file__ == str(tmp_path / "mine.py"), "pickle and inspect find it"


def test_an_absolute_path_and_a_folder_below(tmp_path: Path) -> None:
    path = write(tmp_path / "policies", "mine.py", allocator())
    absolute = plugins.resolve("allocator", f"{path}:Mine", Path("/"))
    assert plugins.resolve("allocator", "policies/mine.py:Mine", tmp_path) is absolute
    assert plugins.resolve("allocator", "policies.mine:Mine", tmp_path).__name__ == "Mine"


def test_a_package_beside_the_experiment(tmp_path: Path) -> None:
    write(tmp_path / "pack", "__init__.py", "")
    write(tmp_path / "pack", "base.py", allocator("Base"))
    write(tmp_path / "pack" / "deep", "__init__.py", "from ..base import Base\n\nclass Deep(Base):\n    pass\n")
    write(tmp_path / "pack", "mine.py", "from .base import Base\n\nclass Mine(Base):\n    pass\n")
    assert plugins.resolve("allocator", "pack.mine:Mine", tmp_path).__mro__[1].__name__ == "Base"
    assert plugins.resolve("allocator", "pack.deep:Deep", tmp_path).__mro__[1].__name__ == "Base"


def test_files_of_one_name_in_two_folders_are_two_modules_and_so_are_their_neighbours(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder, "helper_of_mine.py", f"NAME = {folder!r}\n")
        write(tmp_path / folder, "mine.py", "from helper_of_mine import NAME\n\n" + allocator() + "    name = NAME\n")
    first = plugins.resolve("allocator", "mine:Mine", tmp_path / "a")
    second = plugins.resolve("allocator", "mine:Mine", tmp_path / "b")
    assert (vars(first)["name"], vars(second)["name"]) == ("a", "b")
    assert plugins.resolve("allocator", "mine:Mine", tmp_path / "a") is first
    assert "helper_of_mine" not in sys.modules
    assert "mine" not in sys.modules


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", allocator())
    first = plugins.resolve("allocator", "mine:Mine", tmp_path)
    write(tmp_path, "mine.py", "\n" + allocator(summary="Another."))
    assert plugins.resolve("allocator", "mine:Mine", tmp_path) is not first
    assert plugins.resolve("allocator", "mine:Mine", tmp_path).__doc__ == "Another."


def test_an_installed_module(tmp_path: Path) -> None:
    assert plugins.resolve("allocator", "pagesim.allocators.paged:Paged", tmp_path) is Paged


def test_what_cannot_be_found(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", "other = 3\n\n" + allocator())
    assert failure("pagd", tmp_path).startswith(
        "unknown allocator 'pagd'; did you mean 'paged'?; known: contiguous, paged, copy_on_write, swapping, ideal"
    )
    assert "did you mean mine.py:Class?" in failure("mine.py", tmp_path)
    assert failure("mien.py:Mine", tmp_path).startswith(
        f"there is no file 'mien.py' in {tmp_path}; did you mean 'mine.py'?"
    )
    assert failure("mien:Mine", tmp_path) == (
        f"there is no module 'mien': no mien.py in {tmp_path}; did you mean 'mine.py'?, and none is installed"
    )
    assert (
        failure("mine:Mien", tmp_path)
        == "allocator 'mine:Mien': mine.py has no 'Mien'; did you mean 'Mine'?; it has Mine"
    )
    assert failure("mine:other", tmp_path) == "allocator 'mine:other': 'other' in mine.py is no class"
    assert failure("mine:", tmp_path) == "'mine:' is no allocator; write module:Class or file.py:Class"
    assert failure("a-b:Mine", tmp_path).startswith("'a-b:Mine': 'a-b' is no module's name")
    with pytest.raises(PluginError, match="there are no 'flavour' policies; known kinds: allocator"):
        plugins.resolve("flavour", "x", tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "x = 1\n\nraise ValueError('no such mode')\n",
            "mine.py, line 3 raises while it is imported: ValueError: no such mode",
        ),
        (
            "import nothing_of_that_name\n",
            "mine.py, line 1 raises while it is imported: ModuleNotFoundError: No module",
        ),
        ("def f():\n    1/0\n\nf()\n", "mine.py, line 2 raises while it is imported: ZeroDivisionError"),
        ("class Mine:\n  def free(:\n", "mine.py, line 2: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2 raises while it is imported: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("folder", ["", "pack"])
def test_a_file_that_raises_is_named_with_the_line(text: str, expected: str, folder: str, tmp_path: Path) -> None:
    write(tmp_path / folder, "mine.py", text)
    name = f"{folder}.mine:Mine" if folder else "mine:Mine"
    before = set(sys.modules)
    assert failure(name, tmp_path).startswith(expected)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("allocator", "class C:\n  pass\n", "C has no method allocate; expected: allocate(self, sequence, num_tokens)"),
        (
            "allocator",
            "class C:\n  def allocate(self, sequence, num_tokens): ...\n  free = 3\n",
            "C.free is no method; expected: free(self, sequence)",
        ),
        (
            "allocator",
            "class C:\n  def allocate(self, sequence): ...\n  def free(self, sequence): ...\n",
            "C.allocate(self, sequence) has the wrong arguments; expected: allocate(self, sequence, num_tokens)",
        ),
        (
            "backend",
            "class C:\n  def execute(self): ...\n",
            "C.execute(self) has the wrong arguments; expected: execute(",
        ),
        ("victim", "class C:\n  pass\n", "C has no method choose; expected: choose(self, candidates)"),
        (
            "scheduler",
            "from abc import ABC, abstractmethod\nclass C(ABC):\n  @abstractmethod\n  def plan(self): ...\n",
            "C leaves plan of its base class to be written",
        ),
    ],
)
def test_a_class_that_lacks_what_its_kind_needs(kind: str, text: str, expected: str, tmp_path: Path) -> None:
    write(tmp_path, "mine.py", text)
    assert failure("mine:C", tmp_path, kind).startswith(f"{kind} 'mine:C': {expected}")


def test_methods_may_take_more_than_is_asked(tmp_path: Path) -> None:
    text = "class C:\n  def allocate(self, *a, **k): ...\n  @staticmethod\n  def free(sequence, hint=None): ...\n"
    write(tmp_path, "mine.py", text)
    assert plugins.resolve("allocator", "mine:C", tmp_path).__name__ == "C"


def test_building() -> None:
    pool = BlockPool(4, 1)
    built = plugins.build(Contiguous, pool, max_model_len=4, reserve="oracle")
    assert (built.pool, built.reserve) == (pool, "oracle")


def test_building_with_wrong_options() -> None:
    pool = BlockPool(4, 1)

    def message(cls: type, **options: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            plugins.build(cls, pool, **options)
        return str(caught.value)

    assert message(Contiguous, max_model_len=4, reservation="max") == (
        "reservation: Contiguous takes no 'reservation'; did you mean 'reserve'?; "
        "it takes max_model_len, reserve, placement"
    )
    assert message(Paged, size=3) == "size: Paged takes no 'size'; it takes no options"
    assert message(Contiguous) == "Contiguous needs max_model_len, which is not given"
    assert message(Contiguous, max_model_len=4, reserve="x").startswith("reserve: 'x' is unknown"), "as it was said"


def test_a_class_that_raises_while_it_is_built(tmp_path: Path) -> None:
    write(tmp_path, "mine.py", allocator().replace("self.pool = pool", "self.pool = pool / factor"))
    cls = plugins.resolve("allocator", "mine:Mine", tmp_path)
    with pytest.raises(PluginError) as caught:
        plugins.build(cls, BlockPool(1, 1), factor=2)
    assert str(caught.value) == (
        "Mine cannot be built: TypeError: unsupported operand type(s) for /: 'BlockPool' and 'int' (mine.py, line 5)"
    )


def test_options_that_pagesim_gives_itself_are_refused() -> None:
    with pytest.raises(PluginError, match="max_model_len: is given to Contiguous by pagesim"):
        plugins.check_options(Contiguous, ["max_model_len"], num_positional=1, given=plugins.given("allocator"))
    plugins.check_options(Contiguous, ["reserve"], num_positional=1, given=plugins.given("allocator"))
    assert plugins.accepts(Contiguous, "max_model_len")
    assert not plugins.accepts(Paged, "max_model_len")
