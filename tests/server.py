"""The real server as a process of its own, the way a user starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

ROOT = Path(__file__).parents[1]
READY_TIMEOUT_S = 240.0


def free_port() -> int:
    """Let the kernel choose a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether a TCP connection to *port* succeeds."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Any, timeout_s: float = 60) -> None:
    """Poll *condition* until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Server:
    """A server process; leaving the context stops it."""

    def __init__(
        self, *, module: str = "handler", port: str | None = None, executable: str = sys.executable, **settings: str
    ) -> None:
        """Start `python -m MODULE` with *settings* as environment variables; nothing of `EMBED_` is inherited.

        A *port* that is given is one that the server chooses by itself: the variable is not set then.
        """
        self.port = free_port() if port is None else int(port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [executable, "-m", module]
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by `stop`
        self.process = self._start({**({"PORT": str(self.port)} if port is None else {}), **settings})

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EMBED_")}
        return {**inherited, "PYTHONWARNINGS": "ignore", **variables}

    def _start(self, variables: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment(variables),
            stdout=self._log,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Self:
        """Hand out the running server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server, however the test ended."""
        self.stop()

    def wait_ready(self) -> Self:
        """Wait until embeddings would succeed."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log()}"
            if self.status("/ready") == 200:
                return self
            time.sleep(0.1)
        raise AssertionError(f"not ready after {READY_TIMEOUT_S} s:\n{self.log()}")

    def status(self, path: str) -> int | None:
        """GET *path*; None while nobody listens."""
        try:
            return httpx.get(self.url + path, timeout=5).status_code
        except httpx.TransportError:
            return None

    def embed(self, *, key: str = "test-key", **body: Any) -> httpx.Response:
        """POST *body* to /v1/embeddings."""
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{self.url}/v1/embeddings", json=body, headers=headers, timeout=120)

    def log(self) -> str:
        """Everything the process has written so far."""
        return Path(self._log.name).read_text()

    def events(self, event: str) -> list[dict[str, Any]]:
        """The JSON log lines of one event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def worker(self) -> psutil.Process:
        """The gunicorn worker, which holds the engine."""
        return psutil.Process(self.process.pid).children()[0]

    def wait_exit(self, timeout_s: float = 30) -> int:
        """Wait for the process to end by itself and return its exit code."""
        return self.process.wait(timeout_s)

    def terminate(self) -> None:
        """Ask the process to stop, as a platform does."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the process and all of its children."""
        family = [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        family += [child for parent in family for child in parent.children(recursive=True)]
        if family:
            self.terminate()
        _, left = psutil.wait_procs(family, timeout=15)
        for process in left:
            process.kill()
        self.process.wait()
        self._log.close()
