"""Takes the pictures of the README from the committed example: ``python -m tests.browser.screenshots``."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

from pagesim.explain import cases, page, show
from pagesim.report import write_report
from pagesim.results import Results, layout
from tests.browser import chromium

REPOSITORY: Final = Path(__file__).parents[2]
IMAGES: Final = REPOSITORY / "docs" / "images"
WIDTH: Final = 1120
NUM_COLOURS: Final = 256
"""Enough for flat pictures, and they stay small."""

STEPS_TO_SHOW: Final = 4
"""How far the walk is: both allocators have somebody who waits."""


def main() -> int:
    """Write ``memory-view.png`` and ``explain.png``; return an exit code."""
    program = chromium.find()
    if program is None:
        sys.stderr.write("needs Chromium (Debian: apt-get install chromium)\n")
        return 1
    with tempfile.TemporaryDirectory() as folder, chromium.Browser(program) as browser:
        results = Path(folder) / "example"
        unwanted = shutil.ignore_patterns(layout.PLOTS, layout.REPORT)
        shutil.copytree(REPOSITORY / "results" / "example", results, ignore=unwanted)
        report = write_report(Results.load(results))
        walk = page.write(show.small("batch", cases.Sizes(), (), None, None, Path(folder)), Path(folder) / "walk.html")

        browser.open(report, width=WIDTH, height=2400)
        browser.wait_for("document.getElementById('memory-view').dataset.ready === 'true'")
        browser.evaluate(fullest("paged"))
        view = "document.querySelector('#memory-view')"
        take(browser, "memory-view.png", f"{view}.previousElementSibling", view)

        browser.open(walk, width=WIDTH, height=1200)
        browser.evaluate(f"for (let step = 0; step < {STEPS_TO_SHOW}; step++) document.getElementById('on').click()")
        take(browser, "explain.png", "document.querySelector('nav')", "document.querySelector('section:not([hidden])')")
    return 0


def fullest(name: str) -> str:
    """Return what moves the slider to the instant at which an allocator's pool holds the most live tokens."""
    return f"""(() => {{
      const view = JSON.parse(document.getElementById('memory-data').textContent);
      const row = view.rows.find((row) => row.name === {name!r});
      const most = Math.max(...row.counts.live), time = row.times[row.counts.live.indexOf(most)];
      const slider = document.querySelector('#memory-view input');
      slider.value = view.times.indexOf(time);
      slider.dispatchEvent(new Event('input'));
    }})()"""


def take(browser: chromium.Browser, name: str, first: str, last: str) -> None:
    """Write a picture of what stands from the top of one element to the bottom of another."""
    top, bottom = browser.evaluate(f"[{first}.getBoundingClientRect().top, {last}.getBoundingClientRect().bottom]")
    whole = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    cut = whole.crop((0, max(int(top) - 16, 0), whole.width, min(int(bottom) + 16, whole.height)))
    IMAGES.mkdir(parents=True, exist_ok=True)
    flat = cut.quantize(NUM_COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    flat.save(IMAGES / name, optimize=True)
    sys.stdout.write(f"{IMAGES / name}: {cut.width} x {cut.height}, {(IMAGES / name).stat().st_size:,} bytes\n")


if __name__ == "__main__":
    sys.exit(main())
