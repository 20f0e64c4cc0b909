"""Who may ask: bearer keys from the environment or from a Secrets Manager secret."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable

from handler.aws import client, refusal
from handler.errors import AuthenticationError, NotReadyError, PageAuthenticationError, StartError


class Access:
    """The keys of this container; none at all means it is open."""

    def __init__(self, keys: Iterable[str], *, pending: bool = False) -> None:
        """Accept *keys*; *pending* keeps the door shut until `add` brings the ones of a secret."""
        self._digests = tuple(_digest(key) for key in keys)
        self._pending = pending

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask."""
        return not self._pending and not self._digests

    def add(self, keys: Iterable[str]) -> None:
        """Accept *keys* too, and stop waiting for more."""
        self._digests = (*self._digests, *(_digest(key) for key in keys))
        self._pending = False

    def check(self, authorization: str | None) -> None:
        """Let a request pass by its Authorization header.

        Every key is compared, and digests of one length are: neither time nor order tells anything of a key.

        Raises:
            AuthenticationError: no key or a wrong one.
            NotReadyError: the secret that holds the keys has not been read yet.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if not self._opens(key.strip(), bears=scheme.lower() == "bearer"):
            message = "send a valid key as `Authorization: Bearer KEY`"
            raise AuthenticationError(message)

    def check_page(self, authorization: str | None) -> None:
        """Let a browser pass as well, which sends a key as the password of HTTP's Basic scheme (RFC 7617).

        Raises:
            PageAuthenticationError: no key or a wrong one.
            NotReadyError: as `check`.
        """
        scheme, _, key = (authorization or "").partition(" ")
        key = _password(key.strip()) if scheme.lower() == "basic" else key.strip()
        if not self._opens(key, bears=scheme.lower() in ("basic", "bearer")):
            message = "send a valid key as `Authorization: Bearer KEY`, or as the password of Basic with any name"
            raise PageAuthenticationError(message)

    def _opens(self, key: str, *, bears: bool) -> bool:
        """Whether *key* opens; not unless it came in a scheme that *bears* one."""
        if self._pending:
            message = "the container is still starting; try again"
            raise NotReadyError(message)
        if not self._digests:
            return True
        given = _digest(key)
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return bears and any(matches)


def _password(credentials: str) -> str:
    """Return what stands behind the first colon of Basic *credentials*, nothing where they cannot be read."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2].decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_secret(secret_id: str, *, attempts: int) -> list[str]:
    """Read the keys in a Secrets Manager secret: a JSON list, a JSON object with values, or a comma list.

    Raises:
        StartError: it cannot be read or holds no key; its content is not shown.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - only users of a secret pay for it

    try:
        answer = client("secretsmanager", attempts=attempts).get_secret_value(SecretId=secret_id)
    except (BotoCoreError, ClientError) as exc:
        code = refusal(exc)
        reason = f" ({code}); grant secretsmanager:GetSecretValue" if code else f": {exc}"
        message = f"EMBED_API_KEYS_SECRET_ID: {secret_id} cannot be read{reason}"
        raise StartError(message) from exc
    keys = _secret_keys(answer.get("SecretString") or "")
    if not keys:
        message = f"EMBED_API_KEYS_SECRET_ID: {secret_id} holds no key"
        raise StartError(message)
    return keys


def _secret_keys(secret: str) -> list[str]:
    try:
        content = json.loads(secret)
    except ValueError:
        content = secret.split(",")
    if isinstance(content, dict):
        content = [item for value in content.values() for item in (value if isinstance(value, list) else [value])]
    elif not isinstance(content, list):
        content = [content]
    return [str(key).strip() for key in content if str(key).strip()]
