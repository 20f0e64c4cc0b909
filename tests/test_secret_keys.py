from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from handler.access import Access
from handler.errors import AuthenticationError, StartError
from handler.secret_keys import SecretKeys


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


@pytest.mark.parametrize(
    "secret",
    [
        *('["a", "b"]', '{"keys": ["a", "b"]}', '{"one": "a", "two": "b"}', "a, b", "a,b,"),
        *('["a", null, true, "", "b"]', '{"x": {"y": ["a"]}, "z": "b"}'),
    ],
)
def test_the_forms_of_a_secret(secrets: Any, secret: str) -> None:
    """A list, an object as the console makes it, or a comma list; null and true are no keys."""
    secrets.create_secret(Name="keys", SecretString=secret)
    assert SecretKeys("keys", attempts=1).read() == ["a", "b"]


@pytest.mark.parametrize("secret", ["[]", "{}", "null", "[null]", '{"keys": null}', "true", " , "])
def test_a_secret_without_a_key_stops_the_start(secrets: Any, secret: str) -> None:
    """An empty list must not mean that everybody may ask, and null is nobody's key."""
    secrets.create_secret(Name="empty", SecretString=secret)
    with pytest.raises(StartError, match="holds no key"):
        SecretKeys("empty", attempts=1).read()


@pytest.mark.usefixtures("secrets")
def test_a_secret_that_cannot_be_read_stops_the_start() -> None:
    """With the reason, without the content."""
    with pytest.raises(StartError, match="ResourceNotFoundException"):
        SecretKeys("none", attempts=1).read()


def test_what_goes_wrong_later_is_told_once_and_the_keys_stay(secrets: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it begins and one when it ends; an emptied secret shuts nobody out and lets nobody in."""
    caplog.set_level(logging.INFO, "handler")
    secrets.create_secret(Name="keys", SecretString='["old"]')
    keys, access = SecretKeys("keys", attempts=1), Access([], pending=True)
    access.use_secret(keys.read())
    for content in ("[]", "[]", "[]", '["new"]'):
        access.check("Bearer old")
        secrets.put_secret_value(SecretId="keys", SecretString=content)
        keys.refresh(access)
    access.check("Bearer new")
    with pytest.raises(AuthenticationError):
        access.check("Bearer old")
    assert [record.message for record in caplog.records] == [
        "keys_not_refreshed",
        "keys_refreshed_again",
        "keys_changed",
    ]
    assert "holds no key; the keys so far stay valid" in vars(caplog.records[0])["reason"]
