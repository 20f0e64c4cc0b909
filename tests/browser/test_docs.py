"""The page at /docs in a real browser, against the real server; nothing is downloaded for it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests import models
from tests.server import Server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
TEXTS = ["A cat sleeps.", "It's a kitten's nap, isn't it?", "Shares fell.", "東京は日本の首都です。"]
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def minilm() -> Iterator[Server]:
    """The packaged default model."""
    with Server(EMBED_API_KEYS="test-key", EMBED_MODEL_ALIASES="alias-of-minilm") as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of the system, without a window."""
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # root has no sandbox; the page is our own
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Visit:
    """One tab, and everything that it asked for and complained of."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        """Open a tab; nothing but the server's own machine is let through."""
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.route("**/*", self._watch)

    def _watch(self, route: Route) -> None:
        self.asked.append(route.request.url)
        route.continue_()

    def embed(self, texts: list[str], *, key: str = "test-key") -> None:
        """Type a key and texts, press the button, and wait for the answer."""
        if self.page.locator("#key").is_visible():
            self.page.fill("#key", key)
        self.page.fill("#texts", "\n".join(texts))
        with self.page.expect_response("**/v1/embeddings"):
            self.page.click("#embed")
        self.page.wait_for_selector("#answer .summary")

    def heat(self) -> list[list[str]]:
        """Return the numbers of the heat map as they are read."""
        rows = self.page.locator(".heat tbody tr")
        return [rows.nth(row).locator("td").all_inner_texts() for row in range(rows.count())]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Any]:
    """Make tabs, and close them."""
    made: list[Visit] = []

    def open_tab(url: str, **options: Any) -> Visit:
        made.append(Visit(browser, **options))
        made[-1].page.goto(f"{url}/docs")
        made[-1].page.wait_for_selector("details")
        made[-1].page.wait_for_selector(".state.ready")
        return made[-1]

    yield open_tab
    for tab in made:
        tab.context.close()


def cosines(server: Server, texts: list[str], **body: Any) -> list[list[str]]:
    """Ask the API for vectors and write their cosines as the page does."""
    data = server.embed(input=texts, **body).json()["data"]
    rows = np.array([row["embedding"] for row in data])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [[f"{value:.2f}" for value in row] for row in rows @ rows.T]


def close_to(shown: list[list[str]], computed: list[list[str]]) -> bool:
    """Whether both tables say the same but for the last digit, which a batch of another shape may round."""
    return bool(np.allclose(np.array(shown, float), np.array(computed, float), atol=0.0101)) and len(shown) > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_heat_map_shows_the_cosines_of_the_api(minilm: Server, visit: Any, scheme: str) -> None:
    """No request leaves the origin, the browser complains of nothing, every number can be read."""
    tab = visit(minilm.url, color_scheme=scheme)
    tab.embed(TEXTS)
    assert close_to(tab.heat(), cosines(minilm, TEXTS))
    assert [row[index] for index, row in enumerate(tab.heat())] == ["1.00"] * 4
    assert {url.removeprefix(minilm.url) for url in tab.asked if not url.startswith("data:")} == {
        *("/docs", "/v1/models", "/health", "/openapi.json", "/v1/embeddings")
    }
    assert tab.complaints == []
    assert min(tab.page.evaluate(CONTRASTS)) >= 4.5
    assert (
        tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(246, 247, 245)",
            "dark": "rgb(15, 22, 21)",
        }[scheme]
    )


# Contrast of the text on its ground (WCAG 2.2, 1.4.3) for heat map cells of every share, then for other texts.
CONTRASTS = """() => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    pixel.fillStyle = color; pixel.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...pixel.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const style = (element) => getComputedStyle(element);
  const found = [];
  const rows = Array.from({ length: 101 }, (_, share) => [share / 100, Math.sqrt(1 - (share / 100) ** 2)]);
  const texts = rows.map(String);
  const map = rows.map((row) => heatMap([texts[0], "x"], [[1, 0], row]));
  document.body.append(...map);
  for (const cell of map.flatMap((box) => [...box.querySelectorAll("td")]))
    found.push(ratio(style(cell).color, style(cell).backgroundColor));
  map.forEach((box) => box.remove());
  const card = style(document.querySelector(".card")).backgroundColor;
  for (const name of [".card", ".card .soft", ".hint", ".summary .status", ".method", ".key"])
    found.push(ratio(style(document.querySelector(name)).color, card));
  const button = style(document.querySelector("#embed"));
  found.push(ratio(button.color, button.backgroundColor));
  return found;
}"""


def test_what_is_served_and_every_route_is_told(minilm: Server, visit: Any) -> None:
    """From /v1/models, /health and /openapi.json; a click on a route shows its fields and answers."""
    tab = visit(minilm.url)
    head = tab.page.inner_text("header")
    for word in ("all-MiniLM-L6-v2", "alias-of-minilm", "384", "ready"):
        assert word in head, head
    listed = tab.page.locator("#routes").text_content()
    assert all(path in listed for path in tab.page.request.get(f"{minilm.url}/openapi.json").json()["paths"])
    details = tab.page.locator("details").first
    details.locator("summary").click()
    shown = details.inner_text()
    for word in ("/invocations", "input", "encoding_format", "431", "All slots are taken"):
        assert word in shown


def test_the_call_in_a_shell_does_the_same(minilm: Server, visit: Any) -> None:
    """Quotes in a text are quoted; the key is not in the line, nor anywhere else in the page or its address."""
    tab = visit(minilm.url)
    tab.embed(TEXTS)
    line = tab.page.inner_text("#curl")
    ran = subprocess.run(
        ["bash", "-c", line], env={**os.environ, "KEY": "test-key"}, capture_output=True, text=True, check=True
    )
    assert len(json.loads(ran.stdout)["data"]) == len(TEXTS)
    assert "test-key" not in tab.page.content() + tab.page.url
    assert tab.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_errors_are_told(minilm: Server, visit: Any) -> None:
    """No key, a wrong one, nothing to embed; then it works."""
    tab = visit(minilm.url)
    for key, texts, words in (
        ("", TEXTS, ("401", "invalid_api_key", "valid key")),
        ("wrong", TEXTS, ("401", "invalid_api_key")),
        ("test-key", [], ("400", "input", "must not be empty")),
    ):
        tab.embed(texts, key=key)
        told = tab.page.inner_text("#answer")
        assert all(word in told for word in words), told
        assert "req-" in told
    tab.embed(TEXTS)
    told = tab.page.inner_text("#answer")
    assert all(
        word in told for word in ("200 OK", "tokens", "4 \N{MULTIPLICATION SIGN} 384", "tokenize", "engine", "encode")
    ), told


def test_a_phone_needs_no_scrolling_aside(minilm: Server, visit: Any) -> None:
    """360 points wide, with the longest content there is."""
    tab = visit(minilm.url, viewport={"width": 360, "height": 740})
    tab.embed(["word " * 40, *TEXTS, *TEXTS, *TEXTS, *TEXTS])
    for details in tab.page.locator("summary").all()[:3]:
        details.click()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert "the first 12 of 17 texts" in tab.page.inner_text("#answer")


def test_prompts_sizes_and_pages_behind_a_key(folders: Path, visit: Any) -> None:
    """A model with both gets fields for them; a browser sends the key as the password of a name of its own choice."""
    folder = models.build("bert-matryoshka", folders)
    settings = {"EMBED_MODEL_PATH": str(folder), "EMBED_API_KEYS": "test-key", "EMBED_PAGES_NEED_KEY": "true"}
    with Server(**settings) as server:
        server.wait_ready()
        assert server.status("/docs") == 401
        tab = visit(server.url, http_credentials={"username": "me", "password": "test-key"})
        tab.page.select_option("#prompt", "prompt_name:query")
        tab.page.fill("#dimensions", "16")
        tab.embed(TEXTS[:2])
        assert close_to(tab.heat(), cosines(server, TEXTS[:2], prompt_name="query", dimensions=16))
        assert "2 \N{MULTIPLICATION SIGN} 16 numbers" in tab.page.inner_text("#answer")
        assert '"prompt_name":"query","dimensions":16' in tab.page.inner_text("#curl")
        credentials = base64.b64encode(b"me:test-key").decode()
        assert credentials not in server.log()
        assert "test-key" not in server.log()
