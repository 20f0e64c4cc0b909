"""One shape on one GPU: starts, throughput over HTTP, vLLM's own server, the engine alone, and what settings change.

`python -m tests.bench.gpu --shape bge-base`, again until it says that all is done, then `--table`. Each measurement is
a file under `--out`; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.gpu_load import Load, Window
from tests.bench.gpu_plan import TWO, Variant, dtype, variants
from tests.bench.gpu_report import Results, table
from tests.bench.gpu_servers import CACHES, GIL_S, ROOT, Family, Gpu, Server, free_port, gil_share, gpu_name, machine
from tests.bench.gpu_shapes import SHAPES, WORDS, Shape, write_model

_START_S = 60.0  # guessed for a start of which nothing is known
_ENDING_S = 8.0
# Ids without [CLS] or an end mark, which the vector would be made of: random weights move little from token to token.
_CHECK = [list(range(start, start + 20)) for start in range(10, 800, 100)]
_CPU_MEMORY = 1 << 30  # bytes of KV cache; vLLM would ask for nearly all


class OutOfTimeError(Exception):
    """The budget does not reach for the next measurement."""


@dataclass(slots=True)
class Bench:
    """A shape, where its figures go, and how long that may take."""

    shape: Shape
    results: Results
    scratch: Path  # model folders and caches
    gpu: bool
    seconds: float
    deadline: float
    loads: list[str] | None  # their keys; all if None

    def run(self, variant: Variant) -> None:
        """Measure what is missing of *variant*.

        Raises:
            OutOfTimeError: there is not enough time left.
        """
        missing = self.results.missing(self.shape, variant)
        if self.loads is not None:
            missing = [item for item in missing if item == "start" or item in self.loads]
        if not missing:
            return
        known = self.results.load(self.shape, variant.name, "start") or {}
        self._need(1.3 * known.get("first_embedding_s", _START_S if self.gpu else 20))
        warm = self._cache(variant).exists() and not variant.own_cache
        if variant.kind == "ours" and "start" in missing and not variant.cold and not warm:
            print("  a start to fill the caches", flush=True)
            with self._server(variant) as server:
                self._first(server)
        if variant.cold:
            shutil.rmtree(self._cache(variant), ignore_errors=True)
        self._cache(variant).mkdir(parents=True, exist_ok=True)
        try:
            if variant.kind == "alone":
                self._alone(variant)
            else:
                self._serve(variant, missing)
        except RuntimeError as exc:
            print(f"  {variant.name} failed: {exc}", flush=True)
            self._save(variant, "start", {"failed": str(exc)})

    def _need(self, seconds: float) -> None:
        if time.monotonic() + seconds + _ENDING_S > self.deadline:
            raise OutOfTimeError

    def _left(self) -> float:
        return max(1.0, self.deadline - _ENDING_S - time.monotonic())

    def _cache(self, variant: Variant) -> Path:
        return self.scratch / f"cache-{variant.kind}" / self.shape.name

    def _save(self, variant: Variant, item: str, figures: dict[str, Any]) -> None:
        self.results.save(self.shape, variant.name, item, figures)
        shown = {key: round(value, 3) for key, value in figures.items() if isinstance(value, float)}
        print(f"  {variant.name} {item}: {shown}", flush=True)

    def _server(self, variant: Variant) -> Server:
        model = str(write_model(self.shape, self.scratch / "models"))
        port, cache = free_port(), str(self._cache(variant))
        kind = dtype(self.shape, gpu=self.gpu)
        if variant.kind == "ours":
            settings = {
                "PORT": str(port),
                "EMBED_MODEL_PATH": model,
                "EMBED_MODEL_NAME": "model",
                "LOG_LEVEL": "WARNING",
            }
            settings |= {"EMBED_LOAD_FORMAT": "dummy", "EMBED_DTYPE": kind, "EMBED_CACHE_DIR": cache}
            return Server(["-m", "handler"], settings | variant.settings, port)
        flags = ["--host", "127.0.0.1", "--port", str(port), "--model", model, "--served-model-name", "model"]
        flags += ["--runner", "pooling", "--load-format", "dummy", "--dtype", kind, *variant.flags]
        flags += [] if self.gpu else ["--kv-cache-memory-bytes", str(_CPU_MEMORY)]
        return Server(["-m", "vllm.entrypoints.openai.api_server", *flags], _caches(cache), port)

    def _first(self, server: Server) -> float:
        try:
            return server.first_embedding_s(self._left())
        except TimeoutError as exc:
            raise OutOfTimeError from exc

    def _serve(self, variant: Variant, missing: list[str]) -> None:
        with self._server(variant) as server:
            taken = self._first(server)
            if "start" in missing:
                phases = server.ask("/health")[1].get("phases_s")
                figures = {"first_embedding_s": taken, "phases_s": phases, "vectors": server.embed(_CHECK)}
                self._save(variant, "start", figures)
            for load in variant.loads:
                if load.key in missing:
                    seconds = self._seconds(load)
                    self._need(2 * Window.around_s(seconds) + seconds + GIL_S + 4)
                    self._save(variant, load.key, self._drive(server, load, gil_of_busiest=variant.kind == "ours"))

    def _seconds(self, load: Load) -> float:
        return self.seconds * (self.shape.longer if load.tokens == TWO[1].tokens else 1)

    def _drive(self, server: Server, load: Load, *, gil_of_busiest: bool) -> dict[str, Any]:
        tail = GIL_S + 1 if shutil.which("py-spy") else 0
        special = self.shape.special_tokens
        seconds = self._seconds(load)
        window = Window(server.port, load, special=special, vocabulary=WORDS, seconds=seconds, tail=tail)
        try:
            time.sleep(max(0.0, window.begin - time.monotonic()))
            gpu, before, begin = Gpu(), server.cpu_s(), time.monotonic()
            time.sleep(max(0.0, window.end - time.monotonic()))
            after, seconds = server.cpu_s(), time.monotonic() - begin
            seen = gpu.stop()
            used = [used - before.get(pid, 0.0) for pid, used in after.items()]
            seen["server_cores"] = sum(used) / seconds
            seen["server_busiest"] = max(used, default=0.0) / seconds
            seen["gil"] = gil_share(server.busiest(before) if gil_of_busiest else server.process.pid)
            return {**window.result(), **seen}
        finally:
            window.kill()

    def _alone(self, variant: Variant) -> None:
        self._need(2 * self.seconds * len(variant.loads))
        lengths = [load.tokens for load in variant.loads]
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder, "result.json")
            plan = {
                "model": str(write_model(self.shape, self.scratch / "models")),
                "dtype": dtype(self.shape, gpu=self.gpu),
                "arguments": {} if self.gpu else {"kv_cache_memory_bytes": _CPU_MEMORY},
                "tokens": lengths,
                "call_tokens": (1 << 19) // self.shape.longer if self.gpu else 1 << 14,
                "ids": 1000,
                "seconds": self.seconds,
                "check": _CHECK,
                "result": str(result),
            }
            with Family(
                ["-m", "tests.bench.gpu_alone"], _caches(str(self._cache(variant))), stdin=json.dumps(plan)
            ) as alone:
                if (code := alone.wait(self._left())) is None:
                    raise OutOfTimeError
                if code:
                    raise RuntimeError(f"it ended with {code}:\n{alone.log_tail()}")
            found = json.loads(result.read_text())
        self._save(variant, "start", found["start"])
        for load in variant.loads:
            self._save(variant, load.key, found[str(load.tokens)])


def _caches(folder: str) -> dict[str, str]:
    """Keep vLLM's caches where the server would keep them."""
    return {"VLLM_NO_USAGE_STATS": "1", **{name: f"{folder}/{path}" for name, path in CACHES.items()}}


def _list(results: Results, *, gpu: bool) -> None:
    for shape in SHAPES.values():
        for variant in variants(shape, gpu=gpu):
            missing = results.missing(shape, variant)
            done = len(variant.items) - len(missing)
            print(f"{shape.name:12} {variant.name:18} {done} of {len(variant.items)}  {variant.about}")


def _measure(arguments: argparse.Namespace, results: Results, *, gpu: bool, deadline: float) -> int:
    shape = SHAPES[arguments.shape]
    scratch = arguments.scratch or results.folder / "scratch"
    bench = Bench(shape, results, scratch, gpu=gpu, seconds=arguments.seconds, deadline=deadline, loads=arguments.loads)
    plan = [each for each in variants(shape, gpu=gpu) if arguments.only is None or each.name in arguments.only]
    if arguments.again:
        for variant in plan:
            results.forget(shape, variant)
    if any("start" in results.missing(shape, variant) for variant in plan):
        # Neither side's first start should be the one that reads vLLM from disk and compiles its bytecode.
        with Family(["-c", "import vllm.entrypoints.openai.api_server"], {}) as imports:
            imports.wait(max(1.0, deadline - time.monotonic()))
    try:
        for variant in plan:
            print(f"{shape.name}: {variant.about}", flush=True)
            bench.run(variant)
    except OutOfTimeError:
        print("the time is up; the same command goes on where this one ended")
        return 0
    print("all is done")
    return 0


def main() -> int:
    """Measure, list or print."""
    deadline = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="what to measure")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda where nvidia-smi is"
    )
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="of those that --list shows")
    parser.add_argument("--loads", nargs="+", metavar="LOAD", help="tokens x texts x connections, as 50x32x16")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which nothing new begins")
    parser.add_argument("--seconds", type=float, default=6, help="of each load")
    parser.add_argument("--out", type=Path, default=ROOT / ".bench/gpu", help="folder of the figures")
    parser.add_argument("--scratch", type=Path, help="folder of models and caches; default: under --out")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--list", action="store_true", help="show what there is to measure, and how much is done")
    parser.add_argument("--table", action="store_true", help="print the figures as Markdown")
    arguments = parser.parse_args()
    deadline += arguments.budget
    gpu = gpu_name() is not None if arguments.device == "auto" else arguments.device == "cuda"
    results = Results(arguments.out.resolve(), machine())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if arguments.list:
        _list(results, gpu=gpu)
    if arguments.table:
        print(table(results, TWO, gpu=gpu))
    if arguments.shape:
        return _measure(arguments, results, gpu=gpu, deadline=deadline)
    if not (arguments.list or arguments.table):
        parser.error("name a --shape, or ask for --list or --table")
    return 0


if __name__ == "__main__":
    sys.exit(main())
