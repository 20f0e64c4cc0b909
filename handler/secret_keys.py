"""Keys in a Secrets Manager secret: read at the start, then again in the background, so that they can be rotated."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterable
from typing import Any

from handler.access import Access, key_problem
from handler.aws import client, refusal, told
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
        self._problem: str | None = None

    def read(self) -> list[str]:
        """Read the keys: a JSON list, a JSON object with values, a comma list, or one key a line.

        Raises:
            StartError: it cannot be read, holds no key, or holds what cannot be one; its content is not shown.
        """
        keys, problem = self._read()
        if problem is not None:
            raise StartError(problem)
        return keys

    def _read(self) -> tuple[list[str], str | None]:
        """Return the keys, and what is wrong with the others.

        Raises:
            StartError: the secret cannot be read, or not be understood.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - only users of a secret pay for it

        about = f"EMBED_API_KEYS_SECRET_ID: {self._secret_id}"
        try:
            if self._client is None:
                self._client = client("secretsmanager", attempts=self._attempts)
            answer = self._client.get_secret_value(SecretId=self._secret_id)
        except (BotoCoreError, ClientError, ValueError) as exc:  # the last of an endpoint that is none
            code = refusal(exc)
            grant = "; grant secretsmanager:GetSecretValue" if code and code.startswith("AccessDenied") else ""
            reason = f" ({code}){grant}" if code else f": {told(exc)}"
            message = f"{about} cannot be read{reason}"
            raise StartError(message) from exc
        try:
            keys, problem = _keys(answer.get("SecretString"))
        except ValueError as exc:
            message = f"{about} {exc}"
            raise StartError(message) from None
        return keys, problem and f"{about} {problem}"

    def keep_fresh(self, access: Access, every_s: float) -> None:
        """Read again every *every_s* seconds in a thread of its own; *access* keeps its keys where that fails."""

        def refresh_for_ever() -> None:
            while True:
                time.sleep(every_s)
                self.refresh(access)

        threading.Thread(target=refresh_for_ever, name="secret-keys", daemon=True).start()

    def refresh(self, access: Access) -> None:
        """Read again once; what goes wrong is logged when it begins and when it ends, and is never raised.

        A secret without keys revokes them all; one that cannot be understood is a slip, and the keys so far go on.
        """
        try:
            keys, problem = self._read()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the keys that are there go on
            if not self._failing:
                reason = str(exc) if isinstance(exc, StartError) else f"{type(exc).__name__} ({where(exc)})"
                log.warning("keys_not_refreshed", extra={"reason": f"{reason}; the keys so far stay valid"})
            self._failing = True
            return
        changed = access.use_secret(keys)
        if self._failing:
            log.info("keys_refreshed_again")
        if problem is not None and problem != self._problem:
            log.warning("keys_refused" if keys else "keys_revoked", extra={"reason": problem})
        elif changed:
            log.info("keys_changed")
        self._failing, self._problem = False, problem


def _keys(secret: str | None) -> tuple[list[str], str | None]:
    """Return the keys in a *secret*'s text, and why it has none, or fewer than it seems; nothing of it is shown.

    Raises:
        ValueError: nobody can have meant it so.
    """
    if secret is None:
        message = "is binary; write the keys as text"
        raise ValueError(message)
    leaves = list(_leaves(_content(secret)))
    texts = [leaf.strip() for leaf in leaves if isinstance(leaf, str) and leaf.strip()]
    if not texts and {int, float} & {type(leaf) for leaf in leaves}:
        message = "holds numbers only; write the keys as text"
        raise ValueError(message)
    if not texts:
        return [], "holds no key"
    problems = {text: key_problem(text) for text in texts}
    keys = [text for text in texts if problems[text] is None]
    refused = next((f"holds a key that {problem}" for problem in problems.values() if problem is not None), None)
    if not keys:
        raise ValueError(refused)
    return keys, refused


def _content(secret: str) -> Any:
    """Read JSON, or else a comma list or lines.

    Raises:
        ValueError: it begins as JSON's lists and objects do, and is none.
    """
    plain = re.split(r"[,\r\n]", secret)
    try:
        content = json.loads(secret)
    except (ValueError, RecursionError) as exc:
        if secret.lstrip().startswith(("[", "{")):
            message = "is not valid JSON"
            raise ValueError(message) from exc
        return plain
    # As a number a key would become another text: 123e4567 infinity, which is easy to guess.
    return content if content is None or isinstance(content, (bool, str, list, dict)) else plain


def _leaves(content: Any) -> Iterable[Any]:
    """List what is in the lists and objects of *content*, however deep; only strings are keys."""
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else None
    return [content] if inner is None else [leaf for item in inner for leaf in _leaves(item)]
