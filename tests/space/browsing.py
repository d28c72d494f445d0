"""The page in a real browser, Debian's chromium driven by Playwright, for the tests that use it.

Their fixtures are in `browser_fixtures`, a plugin of pytest's.
"""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "--autoplay-policy=no-user-gesture-required",
]

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium: apt-get install chromium"
)


class Page:
    """The page as its visitor sees it, in words that the tests read well with."""

    def __init__(self, context, url: str) -> None:
        self.tab = context.new_page()
        self.tab.set_default_timeout(30_000)
        self.errors: list[str] = []
        self.choosers: list = []
        # From the beginning, as it takes a while to take effect.
        self.tab.on("filechooser", lambda chooser: self.choosers.append(chooser))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.goto(url)
        self.tab.wait_for_selector(".fcn-choose", state="attached")
        self.tab.wait_for_selector(".fcn-snippet", state="attached")
        self.tab.wait_for_selector(".fcn-two [data-weight]", state="attached")

    def __getattr__(self, name):
        return getattr(self.tab, name)

    def wait_for(self, state: str, panel: str = "#stage") -> None:
        self.tab.wait_for_selector(f'{panel} .fcn-stage[data-state="{state}"]')

    def open(self, panel: str) -> "Page":
        self.tab.click(f"#fcn-tab-{panel}")
        self.tab.wait_for_selector(f"#{panel}")
        return self

    def choose(self, picture) -> "Page":
        """Choose a file: an array becomes a PNG."""
        if isinstance(picture, np.ndarray):
            picture = {"name": "picture.png", "mimeType": "image/png", "buffer": png(picture)}
        self.tab.set_input_files(".fcn-file", picture)
        return self

    def segment(self, picture) -> "Page":
        self.choose(picture).wait_for("ready")
        self.settle()
        return self

    def settle(self) -> None:
        """Two frames: what was asked for is painted."""
        frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.tab.evaluate(frame)

    def pixels(self, selector: str = ".fcn-after") -> np.ndarray:
        """A canvas as uint8 [H, W, 3]."""
        url = self.tab.locator(selector).evaluate("canvas => canvas.toDataURL()")
        data = base64.b64decode(url.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def set_slider(self, selector: str, value: float) -> None:
        self.tab.locator(f"{selector}:visible").fill(str(value))
        self.settle()

    def entry(self, name: str):
        return self.tab.locator("button.fcn-entry", has_text=re.compile(f"^{re.escape(name)}$"))

    def show(self, view: str) -> None:
        self.tab.check(f'.fcn-views input[value="{view}"]', force=True)
        self.settle()

    def download(self, selector: str) -> bytes:
        with self.tab.expect_download() as waiting:
            self.tab.click(selector)
        return Path(waiting.value.path()).read_bytes()


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
