from __future__ import annotations

import base64

import pytest

from handler.access import Access, key_problem
from handler.errors import AuthenticationError, NotReadyError, PageAuthenticationError

# WSGI makes a character of each byte; the last of these is a space.
AS_SENT = "Bearer déjà".encode().decode("latin-1")


@pytest.mark.parametrize("header", ["Bearer one", "bearer one", "Bearer  two ", "BEARER two", AS_SENT])
def test_every_key_opens(header: str) -> None:
    """Several keys at once, so that they can be rotated; the scheme is case-insensitive (RFC 9110)."""
    Access(["one", "two", "déjà"]).check(header)


@pytest.mark.parametrize("sent", ["Bearer k:ü".encode(), "Bearer k:ü".encode("latin-1"), "Bearer ключ".encode()])
def test_a_key_may_be_of_any_script(sent: bytes) -> None:
    """curl, Go and aiohttp send it as UTF-8, requests as Latin-1 where that can be; WSGI reads both as Latin-1."""
    access = Access(["k:ü", "ключ"])
    access.check(sent.decode("latin-1"))
    access.check_page(sent.decode("latin-1"))


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
    access.use_secret(["one"])
    access.check("Bearer one")


def test_an_empty_key_opens_nothing() -> None:
    """However it has got among the keys."""
    for header in ("Bearer", "Bearer ", basic(b"anybody:")):
        with pytest.raises(AuthenticationError):
            Access(["", "one"]).check(header)
        with pytest.raises(PageAuthenticationError):
            Access(["", "one"]).check_page(header)


def test_revoked_keys_leave_no_open_door() -> None:
    """A secret without keys lets nobody in but who has one of the environment's."""
    for fixed in ([], ["fixed"]):
        access = Access(fixed, pending=True)
        access.use_secret(["old"])
        assert access.use_secret([])
        assert not access.is_open
        for key in fixed:
            access.check(f"Bearer {key}")
        for header in ("Bearer old", "Bearer ", None):
            with pytest.raises(AuthenticationError):
                access.check(header)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "a\x00", "\udcff", '"a', "a'", '{"a":"k"}', "null"])
def test_what_cannot_be_a_key(key: str) -> None:
    """Slips in how it was written down."""
    assert key_problem(key) is not None


@pytest.mark.parametrize("key", ["a", "k:ü", "sk-1/+=", 'a"b', "123e4567", "[a]", "nullable"])
def test_what_can_be_a_key(key: str) -> None:
    """Whatever a generator of passwords may give."""
    assert key_problem(key) is None


def test_a_secret_s_keys_are_exchanged_as_a_whole() -> None:
    """The environment's stay; it is told whether anything changed."""
    access = Access(["fixed"], pending=True)
    assert access.use_secret(["old"])
    assert not access.use_secret(["old"])
    assert access.use_secret(["new"])
    for key in ("fixed", "new"):
        access.check(f"Bearer {key}")
    with pytest.raises(AuthenticationError):
        access.check("Bearer old")


def test_keys_are_not_in_the_repr() -> None:
    """An object that is logged by accident tells nothing."""
    assert "one" not in repr(vars(Access(["one"])))
