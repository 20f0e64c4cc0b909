"""What the OpenAPI description of an application says, to hold answers and requests against."""

from __future__ import annotations

from typing import Any

import jsonschema
from flask.testing import FlaskClient
from openapi_spec_validator import validate


def closed(node: Any) -> Any:
    """Copy a document with every object closed, so that an answer with a field that is not described is found."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: closed(value) for key, value in node.items()}
    return {**copy, "additionalProperties": False} if "properties" in node and "type" in node else copy


class Described:
    """What the description of an application says, to hold answers against."""

    def __init__(self, client: FlaskClient, **headers: str) -> None:
        """Read and check the description."""
        self.client = client
        document = client.get("/openapi.json", headers=headers).json
        assert document is not None
        validate(document)
        self.document: dict[str, Any] = document
        self._closed = closed(document)

    def ask(self, method: str, path: str, *, route: str | None = None, **options: Any) -> int:
        """Ask, find status, content type, headers and body in the description, and return the status."""
        response = self.client.open(path, method=method, **options)
        described = self.document["paths"][route or path][method.lower()]["responses"]
        assert str(response.status_code) in described, (path, response.status_code, response.text)
        answer = self.resolved(described[str(response.status_code)])
        for name, header in answer["headers"].items():
            assert name in response.headers or not header["required"] or name == "Allow", (path, name)
        if "content" in answer:
            content = answer["content"][response.mimetype]
            if response.mimetype == "application/json":
                self.check(content.get("schema", {}), response.json)
        else:
            assert response.data == b""
        return response.status_code

    def resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        """Follow a reference."""
        if "$ref" in node:
            _, *steps = node["$ref"].split("/")
            found = self.document
            for step in steps:
                found = found[step]
            return found
        return node

    def check(self, schema: dict[str, Any], value: Any) -> None:
        """Hold *value* against *schema*."""
        validator = jsonschema.Draft202012Validator(
            {"$id": "urn:x", **closed(schema), "components": self._closed["components"]}
        )
        validator.validate(value)

    def takes(self, path: str, body: Any) -> bool:
        """Whether the description allows *body* in a request."""
        schema = self.document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        components = {"components": self.document["components"]}
        return bool(jsonschema.Draft202012Validator({"$id": "urn:x", **schema, **components}).is_valid(body))
