"""RunPod's documented rules for a load-balancing endpoint.

Sources: docs.runpod.io, the page on load-balancing endpoints, and the description of REST API v2
(`api-reference-v2/openapi.json`, `CreateTemplateRequest` and `CreateEndpointRequest`), written out here as far as our
files go. Both take no other field.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.fake_app import build
from tests.infra.files import INFRA, read
from tests.server import ROOT

_NAME = {"type": "string", "minLength": 1}
TEMPLATE: dict[str, Any] = {
    "additionalProperties": False,
    "required": ["name", "image"],
    "properties": {
        "name": _NAME,
        "image": {"type": "string"},
        "serverless": {"const": True},  # of any other no endpoint can be made
        "disk": {"type": "integer", "minimum": 1},
        "ports": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
ENDPOINT: dict[str, Any] = {
    "additionalProperties": False,
    "required": ["name", "type", "scaling", "templateId", "gpu"],
    "properties": {
        "name": _NAME,
        "type": {"const": "LOAD_BALANCER"},
        "templateId": _NAME,
        "gpu": {
            "additionalProperties": False,
            "required": ["pools"],
            "properties": {
                "pools": {"type": "array", "minItems": 1, "items": {"enum": ["AMPERE_24", "ADA_24"]}},
                "count": {"type": "integer", "minimum": 1},
                "minCudaVersion": {"type": "string", "pattern": r"^\d+\.\d+$"},
            },
        },
        "networkVolumes": {"type": "array", "items": {"type": "string"}},
        "workers": {
            "additionalProperties": False,
            "properties": {
                "min": {"type": "integer", "minimum": 0},
                "max": {"type": "integer", "minimum": 0},
                "idleTimeout": {"type": "integer", "minimum": 1, "maximum": 3600},
            },
        },
        "scaling": {  # the only one that a load balancer has
            "additionalProperties": False,
            "required": ["type", "requestCount"],
            "properties": {"type": {"const": "REQUEST_COUNT"}, "requestCount": {"type": "integer", "minimum": 1}},
        },
        "timeout": {"type": "integer"},
        "flashboot": {"enum": ["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"]},
    },
}
MAX_BODY_BYTES = 30_000_000
MAX_REQUEST_MS = 330_000
FILES = {"template.json": TEMPLATE, "endpoint.json": ENDPOINT}


def faults(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Name what is wrong with *document*."""
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.parametrize("name", FILES)
def test_a_body_is_what_the_api_takes(name: str) -> None:
    """Every field is one of the API's, of its type, in its range; a field of API v1 would be noticed."""
    document = read(INFRA / "runpod" / name)
    assert faults(document, FILES[name]) == []
    for old in ("gpuTypeIds", "imageName", "workersMin", "isServerless"):
        assert faults({**document, old: 1}, FILES[name])
    for field in FILES[name]["required"]:
        broken = copy.deepcopy(document)
        del broken[field]
        assert faults(broken, FILES[name])


def test_the_endpoint() -> None:
    """Workers and times are in the platform's ranges, and no worker has an older CUDA than the image."""
    endpoint = read(INFRA / "runpod/endpoint.json")
    assert endpoint["workers"]["min"] <= endpoint["workers"]["max"]
    assert endpoint["timeout"] <= MAX_REQUEST_MS
    lock = (ROOT / "infra/requirements/gpu.txt").read_text()
    (locked,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)", lock, re.MULTILINE)
    assert endpoint["gpu"]["minCudaVersion"] == locked


def test_the_template() -> None:
    """Ports and probe are those that the load balancer asks, the body limit is its own, weights lie on its volume."""
    template = read(INFRA / "runpod/template.json")
    variables = template["env"]
    assert template["ports"] == [f"{variables['PORT']}/http"]
    assert variables["PORT_HEALTH"] == variables["PORT"]
    assert variables["HEALTH_CHECK_PATH"] in {str(rule) for rule in build().application.url_map.iter_rules()}
    assert int(variables["EMBED_MAX_BODY_BYTES"]) <= MAX_BODY_BYTES
    assert variables["EMBED_MODEL_PATH"].startswith("/runpod-volume/")
    slots = int(variables["EMBED_MAX_CONCURRENT_REQUESTS"])
    assert 0 < read(INFRA / "runpod/endpoint.json")["scaling"]["requestCount"] < slots


def test_the_page_sends_each_body_to_its_route() -> None:
    """API v1 is retired; both bodies are sent to v2."""
    page = (INFRA / "runpod/README.md").read_text()
    sent = re.findall(r"https://(\S*runpod\.io/\S+)(?:[^@]|\\\n)*?@infra/runpod/(\w+\.json)", page)
    assert sent == [
        ("api.runpod.io/v2/templates", "template.json"),
        ("api.runpod.io/v2/serverless", "endpoint.json"),
    ]
