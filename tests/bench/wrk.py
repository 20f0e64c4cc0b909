"""Load by wrk, a compiled client: closed loops on a number of connections, every text new."""

from __future__ import annotations

import re
import resource
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# A text begins with a number of its own, up to eight tokens, and the tokenizer adds two.
_SCRIPT = """
local words = {%(words)s}
local shapes = {%(shapes)s}
local count = %(seed)d
math.randomseed(%(seed)d)
function init(args) end
request = function()
  local shape = shapes[math.random(#shapes)]
  local texts = {}
  for i = 1, shape[1] do
    count = count + 1
    local text = {tostring(count)}
    for j = 2, shape[2] - 9 do text[j] = words[math.random(#words)] end
    texts[i] = '"' .. table.concat(text, " ") .. '"'
  end
  local body = '{"model":"model","encoding_format":"%(encoding)s","input":[' .. table.concat(texts, ",") .. ']}'
  return wrk.format("POST", "/v1/embeddings", {["Content-Type"] = "application/json"}, body)
end
"""
# Where requests differ, those answered within the time are not those sent: the long ones are missing.
_COUNT_VECTORS = """
vectors = 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
response = function(status, headers, body)
  local at = 0
  while true do
    at = body:find('"embedding":', at + 1, true)
    if not at then return end
    vectors = vectors + 1
  end
end
done = function(summary)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get("vectors") end
  print("Vectors/sec: " .. 1e6 * sum / summary.duration)
end
"""
# One token each in BERT's vocabulary.
WORDS = ["river", "stone", "market", "quiet", "signal", "north", "paper", "glass"]
WORDS += ["window", "garden", "copper", "letter", "winter", "engine", "harbor", "silver"]
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What clients send: each request is one of *shapes*, (texts, tokens in each), by chance."""

    name: str
    connections: int
    shapes: tuple[tuple[int, int], ...]
    encoding: str = "base64"
    longer: int = 1  # times the usual duration, where a request takes a second or more

    @property
    def texts(self) -> float:
        """Texts per request, on average."""
        return sum(texts for texts, _ in self.shapes) / len(self.shapes)


@dataclass(frozen=True, slots=True)
class Result:
    """What came back."""

    texts_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    driver_cpu: float  # share of one core that wrk itself used


def drive(url: str, load: Load, *, seconds: float, seed: int) -> Result:
    """Send *load* to *url* for *seconds*; texts differ for each *seed*.

    Raises:
        RuntimeError: wrk printed no result.
    """
    shapes = ",".join(f"{{{texts},{tokens}}}" for texts, tokens in load.shapes)
    words = ",".join(f'"{word}"' for word in WORDS)
    script = _SCRIPT % {"words": words, "shapes": shapes, "seed": seed * 1_000_000, "encoding": load.encoding}
    if len(set(load.shapes)) > 1:
        script += _COUNT_VECTORS
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "--threads", "1", "--connections", str(load.connections), "--duration", f"{seconds:g}s"]
        done = subprocess.run(
            [*command, "--timeout", "60s", "--latency", "--script", str(Path(file.name)), url],
            capture_output=True,
            text=True,
            check=True,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _read(done.stdout, load, driver_cpu=used / seconds)


def _read(printed: str, load: Load, *, driver_cpu: float) -> Result:
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    p50 = re.search(r"50%\s+([\d.]+)([a-z]+)", printed)
    p99 = re.search(r"99%\s+([\d.]+)([a-z]+)", printed)
    if rate is None or p50 is None or p99 is None:
        raise RuntimeError(printed)
    vectors = re.search(r"Vectors/sec:\s+([\d.]+)", printed)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    errors = int(refused[1]) if refused else 0
    errors += sum(int(number) for number in broken.groups()) if broken else 0
    return Result(
        texts_per_s=float(vectors[1]) if vectors else float(rate[1]) * load.texts,
        p50_ms=float(p50[1]) * _UNITS_MS[p50[2]],
        p99_ms=float(p99[1]) * _UNITS_MS[p99[2]],
        errors=errors,
        driver_cpu=driver_cpu,
    )
