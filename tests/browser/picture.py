"""The picture of /docs in the README: `python -m tests.browser.picture` takes it anew."""

from __future__ import annotations

import io
import os

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.test_docs import CHROMIUM
from tests.server import ROOT, Server

PLACE = ROOT / "infra" / "docs.png"


def main() -> None:
    """Start the server, embed the texts that the page comes with, and keep the upper part of the page."""
    named = {"EMBED_API_KEYS": "test-key", "EMBED_MODEL_NAME": "all-MiniLM-L6-v2"}
    with Server(**named) as server, sync_playwright() as playwright:
        server.wait_ready()
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1160, "height": 900})
        page.goto(f"{server.url}/docs")
        page.fill("#key", "test-key")
        for _ in range(3):
            with page.expect_response("**/v1/embeddings"):
                page.click("#embed")
            page.wait_for_selector("#embed:enabled")
        height = page.evaluate("document.querySelector('.routes').getBoundingClientRect().top + scrollY")
        picture = page.screenshot(clip={"x": 0, "y": 0, "width": 1160, "height": height}, full_page=True)
        browser.close()
    colours = Image.open(io.BytesIO(picture)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    colours.save(PLACE, optimize=True)
    print(f"{PLACE}: {PLACE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
