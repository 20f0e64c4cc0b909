"""A stand-in for the Lambda Web Adapter, which cannot be had without a registry.

It does what the adapter documents, and nothing of Lambda's own: poll readiness, then turn events of a function URL into
HTTP requests, several at a time. Source: github.com/awslabs/aws-lambda-web-adapter, its README's configuration table.
"""

from __future__ import annotations

import base64
import json
import time
from types import TracebackType
from typing import Any, Self

import httpx

from tests.image.container import Container, description

_POLL_S = 0.01  # the adapter's own interval
_START_LIMIT_S = 130


class AdapterStandIn:
    """What stands between Lambda and the container's port."""

    def __init__(self, server: Container) -> None:
        """Read the settings that the image brings for the adapter."""
        image = dict(variable.split("=", 1) for variable in description()["config"]["Env"])
        self._healthy = {int(status) for status in image["AWS_LWA_READINESS_CHECK_HEALTHY_STATUS"].split(",")}
        self._path = image["AWS_LWA_READINESS_CHECK_PATH"]
        assert image["AWS_LWA_INVOKE_MODE"] == "response_stream"
        self._server = server
        self._client = httpx.Client(base_url=server.url, timeout=60)

    def __enter__(self) -> Self:
        """Hand out the stand-in."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        self._client.close()

    def wait_ready(self) -> int:
        """Poll until the container is healthy; return how often it answered that it is not yet."""
        begin = time.monotonic()
        refused = 0
        while time.monotonic() - begin < _START_LIMIT_S:
            assert self._server.process.poll() is None, self._server.log()
            try:
                status = self._client.get(self._path).status_code
            except httpx.TransportError:
                status = None  # nobody listens yet
            if status in self._healthy:
                return refused
            refused += status is not None
            time.sleep(_POLL_S)
        raise AssertionError(f"not ready within {_START_LIMIT_S} s: {self._server.log()}")

    def invoke(self, key: str, text: str) -> dict[str, Any]:
        """Pass on one event of a function URL, its body in base64, and read the response as a stream."""
        event: dict[str, Any] = {
            "requestContext": {"http": {"method": "POST", "path": "/v1/embeddings"}},
            "headers": {"authorization": f"Bearer {key}", "content-type": "application/json"},
            "body": base64.b64encode(json.dumps({"input": text}).encode()).decode(),
        }
        http = event["requestContext"]["http"]
        body = base64.b64decode(event["body"])
        with self._client.stream(http["method"], http["path"], headers=event["headers"], content=body) as response:
            content = json.loads(b"".join(response.iter_raw()))
        data = content.get("data")
        return {"statusCode": response.status_code, "embedding": data[0]["embedding"] if data else None}
