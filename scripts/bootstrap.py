"""Make ``.venv`` with pagesim and what it needs, from nothing but Python 3.11 and its standard library.

    python3 scripts/bootstrap.py [--extra test]... [--venv-only]

The second run finds its stamp and returns at once. The stamp names what the environment was made
from (dependencies, constraints, extras, interpreter, folder), so a change of any of them sets it up
anew; a change of the code does not, because the install is editable.
"""

# No ``from __future__ import annotations`` and quoted annotations only: an old interpreter has to
# get as far as the sentence that says it is too old.

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "pagesim-setup.json"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
NEEDS = (3, 11)
OFFLINE = (
    "name resolution",
    "NewConnectionError",
    "Failed to establish",
    "dns error",
    "Connection refused",
    "ConnectTimeout",
    "Network is unreachable",
    "ProxyError",
)


class SetupError(Exception):
    """What is missing on this machine, and the cure, in one sentence."""


def main() -> int:
    """Set up; return 0, or 1 after one sentence on standard error."""
    parser = argparse.ArgumentParser(description="Make .venv with pagesim and what it needs.")
    parser.add_argument("--extra", action="append", default=[], help="an extra of pyproject.toml, such as test")
    parser.add_argument("--venv-only", action="store_true", help="make the empty environment and stop")
    arguments = parser.parse_args()
    try:
        check_python()
        if arguments.venv_only:
            make_venv()
        else:
            set_up(set(arguments.extra))
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    return 0


def check_python() -> None:
    """Raise SetupError unless this interpreter can make the environment."""
    if sys.version_info < NEEDS:
        found = ".".join(str(part) for part in sys.version_info[:3])
        raise SetupError(
            f"pagesim needs Python 3.11 or newer and this is Python {found} ({sys.executable}); "
            "install a newer one, or name it: make PYTHON=/path/to/python3.11"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(
                f"the module {module!r} is missing from {sys.executable}; "
                "install it (on Debian and Ubuntu: apt install python3-venv)"
            )


def set_up(extras: "set[str]") -> None:
    """Install pagesim with ``extras``, unless the stamp says that this has been done.

    Extras of earlier runs are kept, so that alternating between two targets installs nothing.
    """
    digest = fingerprint()
    installed = read_stamp(digest)
    if installed is not None and extras <= installed:
        return
    extras |= installed or set()
    make_venv()
    say("installing pagesim and what it needs into .venv (under a minute; later runs skip this) ...")
    started = time.monotonic()
    target = "." + (f"[{','.join(sorted(extras))}]" if extras else "")
    install(target)
    write_stamp(digest, extras)
    say(f"ready after {time.monotonic() - started:.0f} s")


def fingerprint() -> str:
    """Return a hash of everything that decides what is installed, and where."""
    digest = hashlib.sha256()
    for part in (
        (ROOT / "pyproject.toml").read_bytes(),
        CONSTRAINTS.read_bytes(),
        Path(__file__).read_bytes(),
        str(ROOT).encode(),
        sys.version.encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def read_stamp(digest: str) -> "set[str] | None":
    """Return the extras of a finished set-up with this fingerprint, None if there is none."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        done = stamp["digest"] == digest and PYTHON.exists()
        return set(stamp["extras"]) if done else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_stamp(digest: str, extras: "set[str]") -> None:
    """Record a finished set-up; the file is renamed into place, so it is whole or not there."""
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps({"digest": digest, "extras": sorted(extras)}) + "\n", encoding="utf-8")
    partial.replace(STAMP)


def make_venv() -> None:
    """Make ``.venv`` with pip, unless it is there, works, and is of this interpreter's version."""
    STAMP.unlink(missing_ok=True)
    wanted = list(sys.version_info[:2])
    probe = "import sys, pip; print(list(sys.version_info[:2]))"
    if PYTHON.exists() and run([str(PYTHON), "-c", probe])[1].strip() == str(wanted):
        return
    if VENV.is_symlink() or VENV.is_file():
        raise SetupError(f"{VENV} is a link or a file; remove it and run this again")
    if VENV.exists():
        shutil.rmtree(VENV)
    say(f"making .venv with Python {sys.version.split()[0]} ...")
    code, output = run([sys.executable, "-m", "venv", str(VENV)])
    if code:
        raise SetupError(f"the virtual environment cannot be made: {complaint(output)}")


def install(target: str) -> None:
    """Install ``target`` from the project folder with uv, or with pip where uv cannot be had or fails."""
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--retries", "2"]
    code, output = run([*pip, "install", "--quiet", "-c", str(CONSTRAINTS), "uv"])
    if not code:
        uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(PYTHON), "--compile-bytecode"]
        code, output = run([*uv, "-c", str(CONSTRAINTS), "-b", str(CONSTRAINTS), "-e", target])
        if not code:
            return
    say(f"uv did not do it ({complaint(output)}); trying pip, which takes longer ...")
    code, output = run([*pip, "install", "--quiet", "-c", str(CONSTRAINTS), "-e", target])
    if not code:
        return
    if any(sign in output for sign in OFFLINE):
        raise SetupError(
            "the package index cannot be reached; connect to the network, or tell pip about a mirror or "
            "a folder of wheels (PIP_INDEX_URL, PIP_FIND_LINKS), and run this again"
        )
    sys.stderr.write(output)
    raise SetupError("pip could not install the dependencies; its own words stand above")


def run(command: "list[str]") -> "tuple[int, str]":
    """Run ``command`` in the project folder; return its exit code and all that it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            cwd=str(ROOT),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def complaint(output: str) -> str:
    """Return the first line of ``output`` that calls itself an error, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines[-1:] or ["it gave no reason"])[0]


def say(message: str) -> None:
    """Tell the user what is going on."""
    sys.stderr.write(f"setup: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
