"""Several processes on one folder, while the model in the bucket changes."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from handler.errors import StartError
from handler.s3_model import Located, fetch_description
from tests.integration.tiny_bucket import KEY, URL, assert_whole, fetch, fetch_weights, put
from tests.s3_server import Fault, Proxy
from tests.server import wait_for


def started(cache: Path) -> Located:
    """Begin a start, which ends with `release`."""
    return fetch_description(URL, cache, attempts=3, stream=None)


def in_the_background(cache: Path) -> threading.Thread:
    """Let another process start, as far as locks are concerned."""
    thread = threading.Thread(target=fetch, args=(cache,), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("fetched", [False, True], ids=["before-its-weights", "after-its-weights"])
@pytest.mark.usefixtures("proxy")
def test_a_model_that_changes_waits_for_those_who_load_the_old_one(
    s3: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, fetched: bool
) -> None:
    """One process never gets the configuration of one version and the weights of the other."""
    first = started(tmp_path)
    if fetched:
        fetch_weights(first)
    with caplog.at_level(logging.INFO, "handler"):
        put(s3, "org/tiny/config.json", b'{"version": 2}')
        second = in_the_background(tmp_path)
        wait_for(lambda: any(record.msg == "fetch_waits" for record in caplog.records))
    if not fetched:  # the other looks again when its turn has come
        put(s3, "org/tiny/config.json", b'{"version": 3}')
    fetch_weights(first)
    assert_whole(first.folder)
    assert (first.folder / "config.json").read_bytes() == b"{}"
    first.release()
    second.join(30)
    assert_whole(first.folder)
    assert (first.folder / "config.json").read_bytes() == (b'{"version": 2}' if fetched else b'{"version": 3}')


def test_those_who_load_the_same_version_do_not_wait_for_each_other(proxy: Proxy, tmp_path: Path) -> None:
    """Nothing is to be changed, also while one of them is still loading."""
    fetch(tmp_path)
    first = started(tmp_path)
    seen = len(proxy.requests)
    assert fetch(tmp_path) == first.folder
    assert [request.key for request in proxy.requests[seen:]] == [""]
    first.release()


@pytest.mark.parametrize("key", ["org/tiny/config.json", KEY])
def test_a_start_that_fails_does_not_hold_up_the_next(proxy: Proxy, tmp_path: Path, key: str) -> None:
    """In the description or in the weights; what it has not changed is still there."""
    proxy.fault = lambda request: Fault(status=403, code="AccessDenied") if request.key == key else None
    with pytest.raises(StartError, match="access denied"):
        fetch(tmp_path)
    proxy.fault = lambda _: None
    assert_whole(fetch(tmp_path))
