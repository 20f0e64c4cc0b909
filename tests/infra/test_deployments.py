"""What every deployment file says of this server is true."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, validators

from handler.settings import Settings
from tests.fake_app import build
from tests.infra.files import DEPLOYMENTS, INFRA, PAGES, SCHEMAS, containers, names_of_settings, read, schema
from tests.server import ROOT

SETTINGS = {Settings.variable(field) for field in Settings.model_fields}
SCREEN_LINES = 60


def faults(document: dict[str, Any], name: str) -> list[str]:
    """Validate *document* by a vendored schema; the messages of what is wrong."""
    content = schema(name)
    validator = validators.validator_for(content, default=Draft202012Validator)
    return [error.message for error in validator(content).iter_errors(document)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_follows_its_schema(name: str) -> None:
    """The schema is the one that the platform's project has published."""
    assert faults(read(INFRA / name), SCHEMAS[name]) == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_misspelt_file_is_noticed(name: str) -> None:
    """The schemas refuse an unknown property, deep inside too, and a wrong type."""
    document = read(INFRA / name)
    inner = containers(document)[0] if "compose" not in name else document["services"]["embeddings"]
    broken = copy.deepcopy(document)
    (containers(broken)[0] if "compose" not in name else broken["services"]["embeddings"])["imagge"] = "x"
    assert any("imagge" in fault for fault in faults(broken, SCHEMAS[name]))
    inner["image"] = 5
    assert faults(document, SCHEMAS[name]) != []


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_a_file_names_exists(path: Path) -> None:
    """A misspelt variable would be ignored in silence."""
    named = names_of_settings(path.read_text())
    assert named
    assert named <= SETTINGS


@pytest.mark.parametrize(
    "path", [*PAGES, INFRA / "scaling.md", INFRA / "monitoring.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_page_is_one_screen_and_true(path: Path) -> None:
    """Settings exist, links lead somewhere, and a deploy page is short."""
    text = path.read_text()
    assert names_of_settings(text) <= SETTINGS
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / target).exists(), target
    for named in re.findall(r"(?<![\w/])(?:infra|tests|handler)/[\w./-]+\w", text):
        assert (ROOT / named).exists(), named
    if path in PAGES:
        assert len(text.splitlines()) <= SCREEN_LINES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_a_page_names_the_driver_that_the_image_needs(path: Path) -> None:
    """CUDA 13 starts on 580 and newer; a lock with another CUDA needs other pages."""
    lock = (ROOT / "infra/requirements/gpu.txt").read_text()
    assert re.findall(r"^cuda-toolkit==(\d+)", lock, re.MULTILINE) == ["13"]
    assert "driver of 580 or newer" in path.read_text()


@pytest.mark.parametrize("name", ["cloudrun/service.yaml", "knative/service.yaml", "knative/kserve.yaml"])
def test_probes_ask_what_is_served(name: str) -> None:
    """Each probe's path answers GET, on the port that the container listens on; start and slots fit the settings."""
    routes = {str(rule) for rule in build().application.url_map.iter_rules() if "GET" in (rule.methods or ())}
    document = read(INFRA / name)
    container = containers(document)[0]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.model_fields["port"].default
    probes = [container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in container]
    assert len(probes) >= 2
    for probe in probes:
        assert probe["httpGet"]["path"] in routes
        assert probe["httpGet"]["port"] == port["containerPort"]
    slots = {entry["name"]: entry.get("value") for entry in container["env"]}["EMBED_MAX_CONCURRENT_REQUESTS"]
    spec = document["spec"].get("predictor") or document["spec"]["template"]["spec"]
    assert spec["containerConcurrency"] == int(slots)


def test_cloud_run_waits_as_long_as_it_can() -> None:
    """The startup probe's window is the 240 s that Cloud Run allows, and a probe ends before the next begins."""
    probe = containers(read(INFRA / "cloudrun/service.yaml"))[0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 240
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def test_cloud_run_has_a_gpu_whose_driver_the_image_can_use() -> None:
    """By its page on GPUs the RTX PRO 6000 has CUDA 13.0 and takes 20 CPUs and 80 GiB or more; an L4 has CUDA 12.2."""
    template = read(INFRA / "cloudrun/service.yaml")["spec"]["template"]["spec"]
    assert template["nodeSelector"]["run.googleapis.com/accelerator"] == "nvidia-rtx-pro-6000"
    limits = template["containers"][0]["resources"]["limits"]
    assert int(limits["cpu"]) >= 20
    assert int(limits["memory"].removesuffix("Gi")) >= 80


def test_compose_starts_the_image_as_it_wants_to_be_started() -> None:
    """The published port is the server's, the weights lie where the image looks, only mounts are written."""
    service = read(INFRA / "compose.yaml")["services"]["embeddings"]
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    bind = service["volumes"][0]
    assert f"EMBED_MODEL_PATH={bind['target']}" in dockerfile
    assert bind["read_only"]
    assert service["read_only"]
    cache = service["environment"]["EMBED_CACHE_DIR"]
    assert f"install -d -o embed -g embed {cache}" in dockerfile
    assert f"cache:{cache}" in service["volumes"]
    assert set(service["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_a_page_asks_routes_that_exist(path: Path) -> None:
    """Whatever follows the host in a curl line for this server."""
    asked = re.findall(r"""(?:localhost:\d+|\.api\.runpod\.ai|status\.ur[l}][^"]*")(/[\w/]+)""", path.read_text())
    asked += re.findall(r"""\)(/v1/\w+)" """, path.read_text())
    routes = {str(rule) for rule in build().application.url_map.iter_rules()}
    assert set(asked) <= routes
    assert asked or path.parent.name in ("lambda", "sagemaker")  # their outputs print the first call


@pytest.mark.parametrize("name", ["cloudrun/service.yaml", "knative/service.yaml", "knative/kserve.yaml"])
def test_weights_lie_where_a_volume_is(name: str) -> None:
    """The model's path is a mount's or below it; every mount has its volume, and a read-only root leaves /tmp."""
    document = read(INFRA / name)
    container = containers(document)[0]
    spec = document["spec"].get("predictor") or document["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in spec["volumes"]}
    storage = [storage["mountPath"] for storage in spec.get("storageUris", [])]
    (path,) = [entry["value"] for entry in container["env"] if entry["name"] == "EMBED_MODEL_PATH"]
    weights = [mount for mount in [*mounts, *storage] if mount != "/tmp"]
    assert [mount for mount in weights if f"{path}/".startswith(f"{mount}/")] == weights
    if "knative" in name:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert "/tmp" in mounts


@pytest.mark.parametrize("name", ["service.yaml", "kserve.yaml"])
def test_knative_adds_a_pod_at_sixty_percent_of_the_slots(name: str) -> None:
    """Knative multiplies its target, the slots where none is told, by the utilization."""
    document = read(INFRA / "knative" / name)
    spec = document["spec"].get("predictor") or document["spec"]["template"]["spec"]
    annotated = document["spec"].get("template", document)["metadata"]["annotations"]
    utilization = int(annotated["autoscaling.knative.dev/target-utilization-percentage"]) / 100
    assert spec.get("scaleTarget", spec["containerConcurrency"]) * utilization == 0.6 * spec["containerConcurrency"]


def test_knative_waits_as_long_as_the_startup_probe() -> None:
    """The progress deadline would end a revision before the probe does."""
    document = read(INFRA / "knative/service.yaml")
    probe = containers(document)[0]["startupProbe"]
    window = probe["periodSeconds"] * probe["failureThreshold"]
    assert document["metadata"]["annotations"]["serving.knative.dev/progress-deadline"] == f"{window}s"
    assert window == Settings.model_fields["start_timeout_s"].default
