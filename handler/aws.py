"""boto3 clients with this server's own number of attempts, and what their errors mean in a few words."""

from __future__ import annotations

import re
from typing import Any

_USER = re.compile(r"""(\w+://).*@|[^\s"']+@""")


def client(service: str, *, attempts: int, anonymous: bool = False, **config: Any) -> Any:
    """Return boto3's client of *service*; *config* goes into botocore's `Config`.

    The requests of an *anonymous* one say nothing of who asks.

    Raises:
        botocore.exceptions.BotoCoreError: no region, among others.
    """
    import boto3  # noqa: PLC0415 - half a second that only users of AWS pay
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    if anonymous:
        config["signature_version"] = UNSIGNED
    retries = {"total_max_attempts": attempts, "mode": "standard"}
    return boto3.client(service, config=Config(retries=retries, connect_timeout=5, **config))


def has_credentials() -> bool:
    """Whether boto3 finds credentials: in the environment, its files, or the platform's metadata.

    Raises:
        botocore.exceptions.BotoCoreError: what should hold them is broken.
    """
    import boto3  # noqa: PLC0415 - see above

    return boto3.Session().get_credentials() is not None


def refusal(exc: Exception) -> str | None:
    """Return the code with which AWS refused a call, None where the call did not get that far or is not AWS's."""
    from botocore.exceptions import ClientError  # noqa: PLC0415 - see above

    if not isinstance(exc, ClientError):
        return None
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "unknown")
    return str(exc.response.get("Error", {}).get("Code") or status)  # a proxy's answer has only the status


def told(exc: Exception) -> str:
    """Return the message of *exc* without the user and password that a URL of an endpoint or proxy may have."""
    return _USER.sub(r"\1***@", str(exc))
