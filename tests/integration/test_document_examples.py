"""The three client examples of PhariaInference's embeddings page, changed in nothing but host and token.

Source: https://docs.aleph-alpha.com/phariaai-admin-guide/latest/pharia-inference/embeddings.html
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.integration.pharia_client import TOKEN
from tests.server import Server

HOST = "https://inference-api.pharia.example.com"
NUMBERS = re.compile(r"embedding=\[([^\]]*)\]")

ALEPH_ALPHA = """\
import os
from aleph_alpha_client import Client, EmbeddingV2Request
client = Client(host="https://inference-api.pharia.example.com/v1", token=os.environ["PHARIA_TOKEN"])
request = EmbeddingV2Request(
    input="Input text to be embedded",
    encoding_format="float",
)
response = client.embeddings(request=request, model="qwen3-embedding-8b")
print(response)
"""
CURL = """\
curl https://inference-api.pharia.example.com/v1/embeddings \\
  -H "Authorization: Bearer $PHARIA_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '{
    "input": "Input text to be embedded",
    "encoding_format": "float",
    "model": "qwen3-embedding-8b"
  }' | jq
"""
OPENAI = """\
import os
from openai import OpenAI
client = OpenAI(
    base_url="https://inference-api.pharia.example.com/v1",
    api_key=os.environ["PHARIA_TOKEN"],
)
response = client.embeddings.create(
    input="Input text to be embedded",
    model="qwen3-embedding-8b",
    encoding_format="float",
)
print(response)
"""


def run(command: list[str], server: Server) -> str:
    """Run an example against *server* and return what it prints."""
    assert HOST in command[-1]
    command[-1] = command[-1].replace(HOST, server.url)
    environment = {**os.environ, "PHARIA_TOKEN": TOKEN, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize(
    ("example", "shown"), [(ALEPH_ALPHA, "EmbeddingV2Response("), (OPENAI, "CreateEmbeddingResponse(")]
)
def test_the_python_examples(qwen3: Server, example: str, shown: str) -> None:
    """Each prints the response as its client shows it: 160 numbers of the model under the document's name."""
    printed = run([sys.executable, "-c", example], qwen3)
    assert printed.startswith(shown)
    (numbers,) = NUMBERS.findall(printed)
    assert len(numbers.split(",")) == 160
    assert "model='qwen3-embedding-8b'" in printed
    assert "prompt_tokens=" in printed


def test_the_curl_example(qwen3: Server) -> None:
    """The body is OpenAI's; jq, where it is not installed, is left out."""
    example = CURL if shutil.which("jq") else CURL.replace(" | jq", "")
    printed = json.loads(run(["bash", "-c", example], qwen3))
    assert (printed["object"], printed["model"]) == ("list", "qwen3-embedding-8b")
    assert len(printed["data"][0]["embedding"]) == 160
