"""RunPod's documented rules for a load-balancing endpoint; it publishes no schema of its files.

Sources: docs.runpod.io, the pages on load-balancing endpoints and on POST /endpoints and /templates of its REST API.
"""

from __future__ import annotations

from tests.fake_app import build
from tests.infra.files import INFRA, read

ENDPOINT = {
    "name": str,
    "templateId": str,
    "gpuTypeIds": list,
    "gpuCount": int,
    "networkVolumeId": str,
    "workersMin": int,
    "workersMax": int,
    "idleTimeout": int,
    "scalerType": str,
    "scalerValue": int,
    "executionTimeoutMs": int,
    "flashboot": bool,
}
TEMPLATE = {
    "name": str,
    "imageName": str,
    "isServerless": bool,
    "containerDiskInGb": int,
    "ports": list,
    "env": dict,
}
MAX_BODY_BYTES = 30_000_000
MAX_REQUEST_MS = 330_000


def test_the_endpoint() -> None:
    """Every field is one of the API's, of its type; workers and times are in its ranges."""
    endpoint = read(INFRA / "runpod/endpoint.json")
    assert {name: type(value) for name, value in endpoint.items()} == ENDPOINT
    assert endpoint["scalerType"] in {"QUEUE_DELAY", "REQUEST_COUNT"}
    assert 0 <= endpoint["workersMin"] <= endpoint["workersMax"]
    assert 1 <= endpoint["idleTimeout"] <= 3600
    assert endpoint["executionTimeoutMs"] <= MAX_REQUEST_MS


def test_the_template() -> None:
    """Ports and probe are those that the load balancer asks, the body limit is its own, weights lie on its volume."""
    template = read(INFRA / "runpod/template.json")
    assert {name: type(value) for name, value in template.items()} == TEMPLATE
    assert template["isServerless"]
    variables = template["env"]
    assert all(isinstance(value, str) for value in variables.values())
    assert template["ports"] == [f"{variables['PORT']}/http"]
    assert variables["PORT_HEALTH"] == variables["PORT"]
    assert variables["HEALTH_CHECK_PATH"] in {str(rule) for rule in build().application.url_map.iter_rules()}
    assert int(variables["EMBED_MAX_BODY_BYTES"]) <= MAX_BODY_BYTES
    assert variables["EMBED_MODEL_PATH"].startswith("/runpod-volume/")
    slots = int(variables["EMBED_MAX_CONCURRENT_REQUESTS"])
    assert 0 < read(INFRA / "runpod/endpoint.json")["scalerValue"] < slots
