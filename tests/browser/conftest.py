"""A browser for these tests; without one they are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[chromium.Browser]:
    """Return a headless Chromium with the network off."""
    program = chromium.find()
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with chromium.Browser(program) as browser:
        yield browser
