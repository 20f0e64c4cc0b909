from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from handler.access import Access, read_secret
from handler.errors import AuthenticationError, NotReadyError, PageAuthenticationError, StartError


@pytest.mark.parametrize("header", ["Bearer one", "bearer one", "Bearer  two ", "BEARER two"])
def test_every_key_opens(header: str) -> None:
    """Several keys at once, so that they can be rotated; the scheme is case-insensitive (RFC 9110)."""
    Access(["one", "two"]).check(header)


@pytest.mark.parametrize(
    "header", [None, "", "one", "Bearer", "Bearer ", "Bearer three", "Basic one", "Bearer one two"]
)
def test_anything_else_does_not(header: str | None) -> None:
    """No key and a wrong one are the same to a client."""
    with pytest.raises(AuthenticationError):
        Access(["one", "two"]).check(header)


def basic(credentials: bytes) -> str:
    """Write what a browser sends for a name and a password."""
    return f"Basic {base64.b64encode(credentials).decode()}"


@pytest.mark.parametrize("header", ["Bearer two", basic(b"anybody:two"), basic(b":one"), basic("ä:k:ü".encode())])
def test_a_browser_sends_a_key_as_a_password(header: str) -> None:
    """With any name, to pages only: a browser sends it with every request, whoever made the browser ask."""
    access = Access(["one", "two", "k:ü"])
    access.check_page(header)
    if header.startswith("Basic"):
        with pytest.raises(AuthenticationError):
            access.check(header)


@pytest.mark.parametrize(
    "header",
    [None, "", "two", "Basic", "Basic two", "Basic !!!", "Basic \xe4", "Bearer x", basic(b"two:"), basic(b"two")],
)
def test_anything_else_opens_no_page(header: str | None) -> None:
    """What is no base64, or holds no password, included."""
    with pytest.raises(PageAuthenticationError):
        Access(["two"]).check_page(header)


def test_no_keys_means_open() -> None:
    """The start warns of it."""
    assert Access([]).is_open
    Access([]).check(None)
    Access([]).check_page(None)


def test_the_door_is_shut_until_the_secret_is_read() -> None:
    """A container that is still starting must not let everybody in."""
    access = Access([], pending=True)
    assert not access.is_open
    with pytest.raises(NotReadyError):
        access.check("Bearer one")
    with pytest.raises(NotReadyError):
        access.check_page(None)
    access.add(["one"])
    access.check("Bearer one")


def test_keys_are_not_in_the_repr() -> None:
    """An object that is logged by accident tells nothing."""
    assert "one" not in repr(vars(Access(["one"])))


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Secrets Manager, played by moto."""
    for name, value in {
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield boto3.client("secretsmanager")


@pytest.mark.parametrize("secret", ['["a", "b"]', '{"keys": ["a", "b"]}', '{"one": "a", "two": "b"}', "a, b", "a,b,"])
def test_the_forms_of_a_secret(secrets: Any, secret: str) -> None:
    """A list, an object as the console makes it, or a comma list."""
    secrets.create_secret(Name="keys", SecretString=secret)
    assert read_secret("keys", attempts=1) == ["a", "b"]


def test_a_secret_that_cannot_be_used_stops_the_start(secrets: Any) -> None:
    """With the reason, without the content."""
    with pytest.raises(StartError, match="ResourceNotFoundException"):
        read_secret("none", attempts=1)
    secrets.create_secret(Name="empty", SecretString="[]")
    with pytest.raises(StartError, match="holds no key"):
        read_secret("empty", attempts=1)
