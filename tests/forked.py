"""The real server, forked off a process that has imported vLLM once for all of them: most of a start is these imports.

Python's own fork server does it. What differs from `python -m handler` is when vLLM is imported, so tests of the start
itself and of what goes on meanwhile take `tests.server.Server`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.server import Server


class ForkedServer(Server):
    """A server process whose imports were done before."""

    def _start(self, variables: dict[str, str]) -> _Forked:  # type: ignore[override]  # as much of Popen as is used
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.forked_imports"])
        module = self._command[-1]
        process = context.Process(target=_run, args=(module, self._environment(variables), self._log.name))
        process.start()
        return _Forked(process)


class _Forked:
    """What tests use of `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.exitcode is None and self.pid is not None:
            os.kill(self.pid, number)


def _run(module: str, environment: dict[str, str], log: str) -> None:
    """Become `python -m MODULE` with this environment and its output in the file *log*."""
    os.environ.clear()
    os.environ.update(environment)
    with Path(log).open("a") as output:
        for standard in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), standard.fileno())
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
