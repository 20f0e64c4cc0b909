"""A model in a bucket becomes a local folder, in two steps: what describes it, then its weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handler.aws import client, has_credentials
from handler.errors import StartError
from handler.module_list import read_modules
from handler.s3 import (
    S3Location,
    S3Object,
    check_streamed,
    choose_modules,
    choose_parts,
    choose_weights,
    list_objects,
    parse_s3_url,
)
from handler.s3_errors import explained
from handler.s3_fetch import READERS, Source, attempted, fetch
from handler.s3_folder import Turn, clear, is_finished, read_record

_READ_TIMEOUT_S = 20
_ALIAS = "write the access point's alias, or leave EMBED_LOAD_FORMAT at auto"

# Every *.safetensors of the root, or those that were saved for each rank, of which an index says nothing.
Stream = Literal["all", "ranks"]


@dataclass(frozen=True, slots=True)
class Located:
    """A model's folder, which already holds what describes the model."""

    folder: Path
    fetch_weights: Callable[[], None] | None = None  # into the folder; None: they are there, or streamed
    streamed_from: str | None = None  # the engine reads the weights itself, from here
    anonymous: bool = False  # there are no credentials for that: the bucket is read as everybody may read it
    release: Callable[[], None] = lambda: None  # when everything is loaded: others may change the folder then


def fetch_description(
    url: str, cache: Path, *, attempts: int, stream: Stream | None, allow_pickled: bool = False
) -> Located:
    """Fetch all but the weights.

    Args:
        url: of the form `s3://bucket/prefix/`.
        cache: where local folders are kept.
        attempts: for each request, and for each range of an object.
        stream: which weights the engine reads itself; None: they are fetched.
        allow_pickled: whether `.bin` weights are fetched where there are no others.

    Raises:
        StartError: with cause and remedy.
    """
    location = parse_s3_url(url)
    if stream and ":" in location.bucket:
        message = f"EMBED_MODEL_PATH: the streaming loader takes no ARN as bucket ({location.bucket}); {_ALIAS}"
        raise StartError(message)
    source = _source(location, attempts)
    folder = location.folder(cache)
    if stream:  # a folder of its own: here the weights that another process has fetched would be rubbish
        folder = folder.with_name(f"{folder.name}-streamed")
    objects = _listed(source)
    turn = Turn(folder)
    with _released_on_failure(turn):
        if turn.waited:
            objects = _listed(source)  # the bucket may have changed meanwhile
        # A list of modules that the bucket no longer has would be read as the model's, and a reader that hangs in a
        # process which has given up may still write into what it has left.
        clear(turn, objects)
        parts = choose_parts(objects)
        fetch(source, parts, turn, what="configuration")
        paths = [path for _, path in read_modules(folder)]  # or an end, before any weights are fetched
        modules = choose_modules(objects, paths, allow_pickled=allow_pickled)
        if modules:
            fetch(source, modules, turn, what="modules")
        weights: list[S3Object] = []
        if stream != "ranks":
            weights = choose_weights(objects, folder, location, allow_pickled=allow_pickled)
        if stream == "all":
            check_streamed(objects, weights, location)
            weights = []
        clear(turn, [*parts, *modules, *weights])
        record = read_record(folder)
        if all(is_finished(entry, folder, record) for entry in weights):
            turn.end()
    if stream:
        return Located(folder, streamed_from=location.url, anonymous=source.anonymous, release=turn.release)

    def fetch_weights() -> None:
        with _released_on_failure(turn):
            fetch(source, weights, turn, what="weights")
            turn.end()

    return Located(folder, fetch_weights, release=turn.release)


@contextmanager
def _released_on_failure(turn: Turn) -> Iterator[None]:
    try:
        yield
    except BaseException:
        turn.release()
        raise


def _listed(source: Source) -> list[S3Object]:
    objects: list[S3Object] = attempted(
        source, None, lambda: list_objects(source.client, source.location), stopped=threading.Event()
    )
    return objects


def _source(location: S3Location, attempts: int) -> Source:
    """Make the client; without credentials a bucket is read as everybody may read it."""
    try:
        anonymous = not has_credentials()
        s3 = client(
            "s3",
            attempts=1,  # counted in `attempted`, for bodies that break off too
            anonymous=anonymous,
            max_pool_connections=READERS,
            read_timeout=_READ_TIMEOUT_S,
            response_checksum_validation="when_required",  # ours are of whole objects, a range has none
        )
    except Exception as exc:
        raise explained(exc, location, key=None, attempts=attempts, anonymous=False) from exc
    return Source(s3, location, attempts, anonymous)
