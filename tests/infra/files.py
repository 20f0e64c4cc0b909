"""Reading the deployment files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.server import ROOT

INFRA = ROOT / "infra"
TEMPLATE = ROOT / "template.yaml"
PATCH = INFRA / "lambda/cfn-lint-patch.json"
SCHEMAS = {
    "cloudrun/service.yaml": "knative-service.json",
    "knative/service.yaml": "knative-service.json",
    "knative/kserve.yaml": "kserve-inferenceservice.json",
    "compose.yaml": "compose-spec.json",
}
DEPLOYMENTS = [
    TEMPLATE,
    INFRA / "sagemaker/template.yaml",
    INFRA / "runpod/template.json",
    *(INFRA / name for name in SCHEMAS),
]
PAGES = [INFRA / folder / "README.md" for folder in ("lambda", "cloudrun", "knative", "runpod", "sagemaker", "compose")]


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's functions: `!Ref x` becomes {"Ref": x}, `!Sub x` becomes {"Fn::Sub": x}."""


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _function)


def read(path: Path) -> dict[str, Any]:
    """Read a deployment file, CloudFormation's functions in their long form."""
    text = path.read_text()
    content: dict[str, Any] = (
        json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    )
    return content


def schema(name: str) -> dict[str, Any]:
    """Read one of the vendored schemas."""
    content: dict[str, Any] = json.loads((INFRA / "schemas" / name).read_text())
    return content


def names_of_settings(text: str) -> set[str]:
    """Find the variables of ours that *text* names."""
    return set(re.findall(r"\bEMBED_[A-Z0-9_]+", text))


def walk(node: Any) -> Iterator[Any]:
    """Yield every node of a document."""
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from walk(child)


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Find the containers of a Kubernetes-like document."""
    found = [node["containers"] for node in walk(document) if isinstance(node, dict) and "containers" in node]
    return [container for group in found for container in group]


def alarm_terms(template: dict[str, Any]) -> list[str]:
    """Read the terms of the metric filter on failed starts, of which any counts; spaces stand in quotes."""
    pattern = template["Resources"]["StartFailures"]["Properties"]["FilterPattern"]
    terms = [quoted or plain for quoted, plain in re.findall(r'\?(?:"([^"]+)"|(\w+))', pattern)]
    assert terms, pattern
    return terms
