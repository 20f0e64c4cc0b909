"""The README's examples, as they stand there, against the real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT, Server

README = (ROOT / "README.md").read_text()


def blocks(language: str, word: str) -> list[str]:
    """Return the code blocks of *language* that hold *word*."""
    return [code for code in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if word in code]


def run(command: list[str], server: Server) -> str:
    """Run an example with only host and key changed; the key comes from the environment there."""
    command = [part.replace("http://localhost:8080", server.url) for part in command]
    environment = {**os.environ, "KEY": "test-key", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_example(minilm: Server) -> None:
    """It prints 384 numbers."""
    (example,) = blocks("sh", "curl")
    assert len(json.loads(run(["bash", "-c", example], minilm))["data"][0]["embedding"]) == 384


@pytest.mark.parametrize("word", ["from openai", "from aleph_alpha_client"])
def test_the_client_examples(minilm: Server, word: str, tmp_path: Path) -> None:
    """Each prints the number of dimensions and of tokens."""
    (example,) = blocks("python", word)
    file = tmp_path / "example.py"
    file.write_text(example.replace("http://localhost:8080", minilm.url))
    assert run([sys.executable, str(file)], minilm) == "384 7\n"
