"""The page of a walk in a browser: the arrow keys go from step to step."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagesim.explain import cases, page, show
from tests.browser.chromium import Browser


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    return page.write(show.small("fork", cases.Sizes(), (), None, None, tmp_path), tmp_path / "walk.html")


def shown(browser: Browser) -> list[str]:
    found: list[str] = browser.evaluate(
        "[...document.querySelectorAll('main > section')].filter((step) => !step.hidden).map((step) => step.ariaLabel)"
    )
    return found


def test_one_step_is_shown_at_a_time_and_keys_move_on(browser: Browser, walk: Path) -> None:
    browser.open(walk)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("file:")] == []
    assert shown(browser) == ["step 0"]
    browser.press("ArrowRight", 39)
    assert shown(browser) == ["step 1"]
    browser.press("End", 35)
    assert shown(browser) == ["end"]
    browser.press("ArrowRight", 39)
    assert shown(browser) == ["end"]
    browser.press("Home", 36)
    browser.evaluate("document.getElementById('on').click()")
    assert shown(browser) == ["step 1"]
    browser.evaluate("document.getElementById('at').focus()")
    browser.press("ArrowRight", 39)
    assert shown(browser) == ["step 2"]


def test_pointing_at_a_sequence_shows_its_blocks(browser: Browser, walk: Path) -> None:
    browser.open(walk)
    browser.press("ArrowRight", 39)
    place = browser.evaluate(
        "(() => { const step = document.querySelectorAll('main > section')[1];"
        "const holder = step.querySelectorAll('.holders div')[1]; holder.scrollIntoView({block: 'center'});"
        "const box = holder.getBoundingClientRect(); return [box.left + 5, box.top + 5]; })()"
    )
    browser.point_at(*place)
    bright = (
        "[...document.querySelectorAll('main > section')[1].querySelectorAll('article')[0].querySelectorAll('.pool i')]"
    )
    marks = browser.evaluate(
        f"{bright}.filter((cell) => !cell.classList.contains('dim')).map((cell) => cell.textContent)"
    )
    assert "".join(marks) == "BBBBBBBBBB+."


@pytest.mark.parametrize("width", [420, 900, 1120])
def test_pools_fit_narrow_windows(browser: Browser, walk: Path, width: int) -> None:
    browser.open(walk, width=width)
    browser.press("ArrowRight", 39)
    wide = "[...document.querySelectorAll('.pool')].filter((pool) => pool.scrollWidth > pool.clientWidth + 1).length"
    assert browser.evaluate(wide) == 0
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_on_paper_all_steps_are_light_and_there(browser: Browser, walk: Path) -> None:
    browser.open(walk, dark=True, width=720)
    browser.print_media(dark=True)
    steps = "[...document.querySelectorAll('main > section')]"
    assert browser.evaluate(f"{steps}.every((step) => step.checkVisibility())")
    assert browser.evaluate(f"{steps}.length") > 5
    assert not browser.evaluate("document.querySelector('nav').checkVisibility()")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_without_scripts_all_steps_are_there(walk: Path) -> None:
    text = walk.read_text(encoding="utf-8")
    assert "<nav hidden" in text
    assert "<section hidden" not in text
