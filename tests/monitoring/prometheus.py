"""The real Prometheus as a process of its own, from Debian's package `prometheus`."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from tests.server import ROOT, free_port

RULES = ROOT / "infra/prometheus/alerts.yaml"
CONFIG = ROOT / "infra/prometheus/prometheus.yaml"
SCRAPE_S = 1


def tool(name: str) -> str:
    """Find *name* on PATH; without it nothing here is proven, so it fails."""
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install --no-install-recommends prometheus"
    return found


class Prometheus:
    """Scrapes a port by the configuration in infra/, only more often; leaving the context stops it."""

    def __init__(self, folder: Path, *, target: int) -> None:
        """Start it in *folder*, scraping *target*."""
        config = yaml.safe_load(CONFIG.read_text())
        config["global"] |= {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
        config["rule_files"] = [str(RULES)]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            *(
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
            ),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
        ]
        self._log = (folder / "prometheus.log").open("w+")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def __enter__(self) -> Self:
        """Hand it out running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, however the test ended."""
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def get(self, path: str, **params: str) -> Any:
        """Ask its HTTP API and return the data."""
        response = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=10)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def wait_scraped(self, times: int) -> None:
        """Wait until the target has been scraped *times* more."""
        deadline = time.monotonic() + 60
        for _ in range(times):
            begin = self._last_scrape()
            while self._last_scrape() == begin:
                assert self._process.poll() is None, Path(self._log.name).read_text()
                assert time.monotonic() < deadline, "the target is not scraped"
                time.sleep(0.1)

    def _last_scrape(self) -> str:
        try:
            targets = self.get("targets")["activeTargets"]
        except httpx.TransportError:  # not listening yet
            return ""
        up = [target["lastScrape"] for target in targets if target["health"] == "up"]
        return str(up[0]) if up else ""

    def values(self, query: str) -> list[float]:
        """Evaluate *query* now and return the numbers it finds; "not a number" is none."""
        result = self.get("query", query=query)["result"]
        values = [float(entry["value"][1]) for entry in result]
        return [value for value in values if math.isfinite(value)]
