"""What SageMaker fixes for a container, in its template."""

from __future__ import annotations

import gzip
import json
from importlib.metadata import distribution
from pathlib import Path

from tests.infra.files import INFRA, read

DOCUMENT = read(INFRA / "sagemaker/template.yaml")
RESOURCES = DOCUMENT["Resources"]
VARIABLES = RESOURCES["Model"]["Properties"]["PrimaryContainer"]["Environment"]
# Actions that know no resources, and those of interfaces that SageMaker makes with the role.
_ANYWHERE = {"ecr:GetAuthorizationToken", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"}


def test_the_container_is_as_sagemaker_wants_it() -> None:
    """Its folder, its port, an answer before it gives up, and slots as many as the platform counts."""
    assert (VARIABLES["EMBED_MODEL_PATH"], VARIABLES["PORT"]) == ("/opt/ml/model", "8080")
    assert float(VARIABLES["EMBED_REQUEST_TIMEOUT_S"]) < 60
    assert VARIABLES["EMBED_MAX_CONCURRENT_REQUESTS"] == {"Ref": "Concurrency"}
    slots, target = (DOCUMENT["Parameters"][name]["Default"] for name in ("Concurrency", "TargetConcurrency"))
    assert 0 < target < slots
    assert RESOURCES["Model"]["Properties"]["EnableNetworkIsolation"]
    assert RESOURCES["EndpointConfig"]["Properties"]["EnableNetworkIsolation"]


def test_bodies_are_as_large_as_the_api_lets_them_be() -> None:
    """By the service model in botocore."""
    folder = Path(str(distribution("botocore").locate_file("botocore/data/sagemaker-runtime")))
    (model,) = folder.rglob("service-2.json.gz")
    shapes = json.loads(gzip.decompress(model.read_bytes()))["shapes"]
    assert int(VARIABLES["EMBED_MAX_BODY_BYTES"]) == shapes["BodyBlob"]["max"]


def test_the_role_may_do_little() -> None:
    """No wildcard action, and everywhere only what knows no resources."""
    (policy,) = RESOURCES["Role"]["Properties"]["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    assert len(statements) >= 6
    for statement in statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert all("*" not in action for action in actions)
        if statement["Resource"] == "*":
            others = {action.removesuffix("Permission") for action in actions} - _ANYWHERE
            assert [action for action in others if not action.startswith("ec2:Describe")] == []
