"""What SageMaker fixes for a container, in its template."""

from __future__ import annotations

import gzip
import json
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from tests.infra.files import INFRA, read
from tests.server import ROOT

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


def shapes(service: str) -> dict[str, Any]:
    """Read the service model in botocore."""
    folder = Path(str(distribution("botocore").locate_file(f"botocore/data/{service}")))
    (model,) = folder.rglob("service-2.json.gz")
    content: dict[str, Any] = json.loads(gzip.decompress(model.read_bytes()))["shapes"]
    return content


def test_bodies_are_as_large_as_the_api_lets_them_be() -> None:
    """By the service model."""
    assert int(VARIABLES["EMBED_MAX_BODY_BYTES"]) == shapes("sagemaker-runtime")["BodyBlob"]["max"]


def test_instances_have_the_driver_that_the_image_needs() -> None:
    """The variant asks for an AMI of the service model, whose CUDA is told there and no older than ours."""
    (locked,) = re.findall(
        r"^cuda-toolkit==(\d+)\.(\d+)", (ROOT / "infra/requirements/gpu.txt").read_text(), re.MULTILINE
    )
    (variant,) = RESOURCES["EndpointConfig"]["Properties"]["ProductionVariants"]
    ami = DOCUMENT["Parameters"][variant["InferenceAmiVersion"]["Ref"]]["Default"]
    model = shapes("sagemaker")
    assert ami in model["ProductionVariantInferenceAmiVersion"]["enum"]
    told = model["ProductionVariant"]["members"]["InferenceAmiVersion"]["documentation"]
    (has,) = re.findall(rf"{ami}</dt>.*?CUDA version: (\d+)\.(\d+)", told, re.DOTALL)
    assert tuple(map(int, has)) >= tuple(map(int, locked))


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
