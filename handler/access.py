"""Who may ask: bearer keys, of which neither text nor length is kept."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from contextlib import suppress

from handler.errors import AuthenticationError, NotReadyError, PageAuthenticationError

_QUOTES = "\"'"


class Access:
    """The keys of this container; none at all means it is open."""

    def __init__(self, keys: Iterable[str], *, pending: bool = False) -> None:
        """Accept *keys*; *pending* keeps the door shut until `use_secret` brings the ones of a secret."""
        self._fixed = tuple(_digest(key) for key in keys)
        self._digests = self._fixed
        self._pending = pending
        self._guarded = pending or bool(self._digests)  # stays so when the secret's keys are revoked

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask."""
        return not self._guarded

    def use_secret(self, keys: Iterable[str]) -> bool:
        """Accept *keys* besides those of the environment, instead of the secret's earlier ones; whether any changed.

        None at all lets nobody in: who keeps keys in a secret never means an open server.
        """
        digests = (*self._fixed, *(_digest(key) for key in keys))
        changed = self._pending or digests != self._digests
        self._digests = digests  # one assignment: a request sees the old keys or the new ones
        self._pending = False
        self._guarded = True
        return changed

    def check(self, authorization: str | None) -> None:
        """Let a request pass by its Authorization header.

        Every key is compared, and digests of one length are: neither time nor order tells anything of a key.

        Raises:
            AuthenticationError: no key or a wrong one.
            NotReadyError: the secret that holds the keys has not been read yet.
        """
        scheme, key = _credentials(authorization)
        if not self._opens(key, bears=scheme == "bearer"):
            raise AuthenticationError("send a valid key as `Authorization: Bearer KEY`")

    def check_page(self, authorization: str | None) -> None:
        """Let a browser pass as well, which sends a key as the password of HTTP's Basic scheme (RFC 7617).

        Raises:
            PageAuthenticationError: no key or a wrong one.
            NotReadyError: as `check`.
        """
        scheme, key = _credentials(authorization)
        key = _password(key) if scheme == "basic" else key
        if not self._opens(key, bears=scheme in ("basic", "bearer")):
            message = "send a valid key as `Authorization: Bearer KEY`, or as the password of Basic with any name"
            raise PageAuthenticationError(message)

    def _opens(self, key: str, *, bears: bool) -> bool:
        """Whether *key* opens; not unless it came in a scheme that *bears* one."""
        if self._pending:
            raise NotReadyError("the container is still starting; try again")
        if self.is_open:
            return True
        given = _digest(key)
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return bears and key != "" and any(matches)


def key_problem(key: str) -> str | None:
    """Say why *key*, which is not shown, cannot be one that somebody has meant; None where it can."""
    if not key.strip():
        return "is empty"
    if any(char.isspace() or not char.isprintable() for char in key):
        return "has white space or a control character in it"
    if key[0] in _QUOTES or key[-1] in _QUOTES:
        return "has quotes around it, which would be part of it; env files of Docker know no quotes"
    if key.startswith("{") or key == "null":
        return "is a piece of JSON"
    return None


def _credentials(authorization: str | None) -> tuple[str, str]:
    """Return scheme and credentials of a header, which WSGI reads as Latin-1; most clients send UTF-8."""
    header = authorization or ""
    with suppress(UnicodeError):
        header = header.encode("latin-1").decode()
    scheme, _, credentials = header.partition(" ")
    return scheme.lower(), credentials.strip()


def _password(credentials: str) -> str:
    """Return what stands behind the first colon of Basic *credentials*, nothing where they cannot be read."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2].decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
