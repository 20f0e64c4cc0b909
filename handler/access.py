"""Who may ask: bearer keys, of which neither text nor length is kept."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from handler.errors import AuthenticationError, NotReadyError


class Access:
    """The keys of this container; none at all means it is open."""

    def __init__(self, keys: Iterable[str], *, pending: bool = False) -> None:
        """Accept *keys*; *pending* keeps the door shut until `use_secret` brings the ones of a secret."""
        self._fixed = tuple(_digest(key) for key in keys)
        self._digests = self._fixed
        self._pending = pending

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask."""
        return not self._pending and not self._digests

    def use_secret(self, keys: Iterable[str]) -> bool:
        """Accept *keys* besides those of the environment, instead of the secret's earlier ones; whether any changed."""
        digests = (*self._fixed, *(_digest(key) for key in keys))
        changed = self._pending or digests != self._digests
        self._digests = digests  # one assignment: a request sees the old keys or the new ones
        self._pending = False
        return changed

    def check(self, authorization: str | None) -> None:
        """Let a request pass by its Authorization header.

        Every key is compared, and digests of one length are: neither time nor order tells anything of a key.

        Raises:
            AuthenticationError: no key or a wrong one.
            NotReadyError: the secret that holds the keys has not been read yet.
        """
        if self._pending:
            message = "the container is still starting; try again"
            raise NotReadyError(message)
        digests = self._digests
        if not digests:
            return
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, digest) for digest in digests]
        if scheme.lower() != "bearer" or not any(matches):
            message = "send a valid key as `Authorization: Bearer KEY`"
            raise AuthenticationError(message)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
