from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
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
        *('["a", null, true, "", "b"]', '{"x": {"y": ["a"]}, "z": "b"}', '{"one": "a", "two": "b", "version": 1}'),
        *("a\nb\n", "a\r\nb"),
    ],
)
def test_the_forms_of_a_secret(secrets: Any, secret: str) -> None:
    """A list, an object as the console makes it, a comma list, or lines; numbers, null and true are no keys."""
    secrets.create_secret(Name="keys", SecretString=secret)
    assert SecretKeys("keys", attempts=1).read() == ["a", "b"]


@pytest.mark.parametrize("secret", ["123e4567", "0123", "1.50", "1" * 5000, "NaN", "-Infinity"])
def test_a_key_that_looks_like_a_number_stays_as_it_is(secrets: Any, secret: str) -> None:
    """As a number it would be another key: the first of these infinity."""
    secrets.create_secret(Name="keys", SecretString=secret)
    assert SecretKeys("keys", attempts=1).read() == [secret]


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ('["hush", "two hush"]', "holds a key that has white space"),
        ("'hush'", "holds a key that has quotes around it"),
        ('{"a": "{hush}"}', "holds a key that is a piece of JSON"),
        ('{"a": "hush",}', "is not valid JSON"),
        ("[" * 5000 + "hush", "is not valid JSON"),
    ],
)
def test_what_cannot_be_a_key_stops_the_start(secrets: Any, secret: str, said: str) -> None:
    """It is a slip in the secret, which nobody would find behind a 401; nothing of it is shown."""
    secrets.create_secret(Name="keys", SecretString=secret)
    with pytest.raises(StartError, match=said) as caught:
        SecretKeys("keys", attempts=1).read()
    assert "hush" not in str(caught.value)


def test_a_binary_secret_is_told(secrets: Any) -> None:
    """It holds keys, for all its owner knows."""
    secrets.create_secret(Name="binary", SecretBinary=b"key")
    with pytest.raises(StartError, match="binary is binary; write the keys as text"):
        SecretKeys("binary", attempts=1).read()


@pytest.mark.parametrize("secret", ["[]", "{}", '{"key1": null}', "null", "[null]", '{"keys": null}', "true", " , "])
def test_a_secret_without_a_key_stops_the_start(secrets: Any, secret: str) -> None:
    """An empty list must not mean that everybody may ask, and null is nobody's key."""
    secrets.create_secret(Name="empty", SecretString=secret)
    with pytest.raises(StartError, match="holds no key"):
        SecretKeys("empty", attempts=1).read()


@pytest.mark.usefixtures("secrets")
def test_a_secret_that_cannot_be_read_stops_the_start() -> None:
    """With the reason, without the content, and without a remedy that would not help."""
    with pytest.raises(StartError, match=r"\(ResourceNotFoundException\)$"):
        SecretKeys("none", attempts=1).read()


def test_a_secret_that_may_not_be_read_names_the_right(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only there it is the remedy."""

    def deny(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "GetSecretValue")

    keys = SecretKeys("keys", attempts=1)
    monkeypatch.setattr(secrets, "get_secret_value", deny)
    monkeypatch.setattr(keys, "_client", secrets)
    with pytest.raises(StartError, match=r"\(AccessDeniedException\); grant secretsmanager:GetSecretValue$"):
        keys.read()


@pytest.mark.parametrize("host", ["127.0.0.1:9", "aws_proxy:9"])
@pytest.mark.usefixtures("secrets")
def test_the_password_of_an_endpoint_is_not_told(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's, say, that nobody reaches, or whose name is none."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:hidden@{host}")
    with pytest.raises(StartError, match=rf"EMBED_API_KEYS_SECRET_ID: keys .*//\*\*\*@{host}") as refused:
        SecretKeys("keys", attempts=1).read()
    assert "hidden" not in str(refused.value)


def test_what_goes_wrong_later_is_told_once_and_the_keys_stay(secrets: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it begins and one when it ends."""
    caplog.set_level(logging.INFO, "handler")
    secrets.create_secret(Name="keys", SecretString='["old"]')
    keys, access = SecretKeys("keys", attempts=1), Access([], pending=True)
    access.use_secret(keys.read())
    secrets.delete_secret(SecretId="keys")
    for _ in range(3):
        keys.refresh(access)
        access.check("Bearer old")
    secrets.restore_secret(SecretId="keys")
    secrets.put_secret_value(SecretId="keys", SecretString='["new"]')
    keys.refresh(access)
    access.check("Bearer new")
    assert not opens(access, "old")
    assert [record.message for record in caplog.records] == [
        "keys_not_refreshed",
        "keys_refreshed_again",
        "keys_changed",
    ]
    assert vars(caplog.records[0])["reason"].endswith("; the keys so far stay valid")


def test_a_secret_that_is_emptied_revokes_its_keys(secrets: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is let in then, neither with an old key nor without one; it is told once."""
    caplog.set_level(logging.INFO, "handler")
    secrets.create_secret(Name="keys", SecretString='["old"]')
    keys, access = SecretKeys("keys", attempts=1), Access([], pending=True)
    access.use_secret(keys.read())
    for content in ("[]", "null", '["new", "a b"]'):
        secrets.put_secret_value(SecretId="keys", SecretString=content)
        keys.refresh(access)
        assert [opens(access, key) for key in ("old", "", None)] == [False] * 3
        assert not access.is_open
    assert opens(access, "new")
    assert [record.message for record in caplog.records] == ["keys_revoked", "keys_refused"]
    assert [vars(record)["reason"].partition(": keys ")[2] for record in caplog.records] == [
        "holds no key",
        "holds a key that has white space or a control character in it",
    ]


@pytest.mark.parametrize(
    "slip",
    [
        {"SecretString": '["new",'},
        {"SecretString": "'new'"},
        {"SecretString": '{"new": 1.5}'},
        {"SecretBinary": b"new"},
    ],
)
def test_a_slip_does_not_shut_clients_out(secrets: Any, caplog: pytest.LogCaptureFixture, slip: dict[str, Any]) -> None:
    """What cannot be understood is no wish to revoke."""
    secrets.create_secret(Name="keys", SecretString='["old"]')
    keys, access = SecretKeys("keys", attempts=1), Access([], pending=True)
    access.use_secret(keys.read())
    secrets.put_secret_value(SecretId="keys", **slip)
    keys.refresh(access)
    assert opens(access, "old")
    assert [record.message for record in caplog.records] == ["keys_not_refreshed"]
    assert "new" not in caplog.text


def opens(access: Access, key: str | None) -> bool:
    """Whether *key* lets somebody in."""
    try:
        access.check(None if key is None else f"Bearer {key}")
    except AuthenticationError:
        return False
    return True
