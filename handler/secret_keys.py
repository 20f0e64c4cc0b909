"""Keys in a Secrets Manager secret: read at the start, then again in the background, so that they can be rotated."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from typing import Any

from handler.access import Access
from handler.aws import client, refusal
from handler.errors import StartError
from handler.logs import where

log = logging.getLogger(__name__)


class SecretKeys:
    """The keys in one secret; AWS is asked for its current version only.

    A secret holds several keys, so both the old and the new one are in it while clients change over. The version
    before is not honoured: a key that has leaked must be gone once it is out of the secret.
    """

    def __init__(self, secret_id: str, *, attempts: int) -> None:
        """Remember which secret; nothing is asked yet."""
        self._secret_id = secret_id
        self._attempts = attempts
        self._client: Any = None  # boto3's has no types
        self._failing = False

    def read(self) -> list[str]:
        """Read the keys: a JSON list, a JSON object with values, or a comma list.

        Raises:
            StartError: it cannot be read or holds no key; its content is not shown.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - only users of a secret pay for it

        try:
            if self._client is None:
                self._client = client("secretsmanager", attempts=self._attempts)
            answer = self._client.get_secret_value(SecretId=self._secret_id)
        except (BotoCoreError, ClientError) as exc:
            code = refusal(exc)
            reason = f" ({code}); grant secretsmanager:GetSecretValue" if code else f": {exc}"
            message = f"EMBED_API_KEYS_SECRET_ID: {self._secret_id} cannot be read{reason}"
            raise StartError(message) from exc
        keys = _keys(answer.get("SecretString") or "")
        if not keys:
            message = f"EMBED_API_KEYS_SECRET_ID: {self._secret_id} holds no key"
            raise StartError(message)
        return keys

    def keep_fresh(self, access: Access, every_s: float) -> None:
        """Read again every *every_s* seconds in a thread of its own; *access* keeps its keys where that fails."""

        def refresh_for_ever() -> None:
            while True:
                time.sleep(every_s)
                self.refresh(access)

        threading.Thread(target=refresh_for_ever, name="secret-keys", daemon=True).start()

    def refresh(self, access: Access) -> None:
        """Read again once; what goes wrong is logged when it begins and when it ends, and is never raised."""
        try:
            changed = access.use_secret(self.read())
        except Exception as exc:  # noqa: BLE001 - whatever it is, the keys that are there go on
            if not self._failing:
                reason = str(exc) if isinstance(exc, StartError) else f"{type(exc).__name__} ({where(exc)})"
                log.warning("keys_not_refreshed", extra={"reason": f"{reason}; the keys so far stay valid"})
            self._failing = True
            return
        if self._failing:
            log.info("keys_refreshed_again")
        if changed:
            log.info("keys_changed")
        self._failing = False


def _keys(secret: str) -> list[str]:
    try:
        content = json.loads(secret)
    except ValueError:
        content = secret.split(",")
    return [key.strip() for key in _texts(content) if key.strip()]


def _texts(content: Any) -> Iterable[str]:
    """List the strings and numbers in *content*, however deep; null and true are no keys."""
    if isinstance(content, str) or (isinstance(content, (int, float)) and not isinstance(content, bool)):
        return [str(content)]
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return [text for item in inner for text in _texts(item)]
