"""A real headless Chromium on the page, which notes whatever it should not do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from playwright.async_api import async_playwright

from tests.lab.requirements import require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Literal

    from playwright.async_api import Page

CHROMIUM = "chromium"
PATIENCE_S = 30.0


@dataclass
class Visit:
    """A page in the browser; `foreign` are requests to other origins, `complaints` errors and console messages."""

    page: Page
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def text(self, selector: str) -> str:
        """What an element says."""
        return await self.page.inner_text(selector)

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression holds. (The page's policy forbids what Playwright's own wait does.)"""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.page.evaluate(expression):
                await asyncio.sleep(0.05)

    async def look(self, directory: Path | None, name: str) -> None:
        """Take a picture, if anybody wants to see it."""
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            await self.page.screenshot(path=directory / f"{name}.png")


@asynccontextmanager
async def visiting(
    url: str, view: str = "", scheme: Literal["light", "dark"] = "light", width: int = 1360, height: int = 860
) -> AsyncIterator[Visit]:
    """Open the page of the agent at `url`. At the end nothing may have been asked elsewhere, and nothing gone wrong."""
    require(CHROMIUM)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", chromium_sandbox=False)
        page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        visit = Visit(page)
        page.on("request", lambda request: None if request.url.startswith(url) else visit.foreign.append(request.url))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on("console", lambda message: visit.complaints.append(message.text))
        page.set_default_timeout(PATIENCE_S * 1000)
        try:
            await page.goto(f"{url}/-/#{view}")
            await visit.until("document.getElementById('tiles').children.length > 0")
            yield visit
        finally:
            await browser.close()
    assert visit.foreign == []
    assert visit.complaints == []
