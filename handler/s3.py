"""Which objects under an `s3://bucket/prefix/` a model needs; no byte of a weight is read here."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from handler.errors import StartError
from handler.trust import check_inside, pickled

SCHEME = "s3://"
# Bucket names by S3's naming rules; access points by ARN have a `:`.
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}|arn:aws[a-z-]*:s3[a-z0-9:/._-]+")
_ARN = re.compile(r"(arn:[^/]+:(?:accesspoint/|outpost/[^/]+/accesspoint/)[^/]+)(?:/(.*))?")
# What tokenizers, sentence-transformers and a model's own code are made of; model cards, pictures and copies of the
# weights for other programs (onnx/, openvino/, *.h5, *.msgpack, *.gguf, *.pt) are not.
_PARTS = (
    *("*.json", "*.jinja", "*.py", "*.model", "*.vocab", "*.tiktoken"),
    *("vocab*.txt", "merges*.txt", "dict.txt", "bpe.codes"),
)
_NOT_NEEDED = ("*.index.json", "data_config.json", "trainer_state.json", "*_results.json", "modelcard.json")
SAFETENSORS_INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_BIN_INDEX = "pytorch_model.bin.index.json"
# In the folder of a module and in the root: the first kind that is there is read.
_MODULE_WEIGHTS = (SINGLE, "pytorch_model.bin")
_ROOT_WEIGHTS = (SINGLE, "model-*-of-*.safetensors", "*.safetensors", "pytorch_model*.bin")
_PICKLED = ".bin"
_NAME_BYTES = 200  # of the 255 that file systems have; the rest is a digest
_LISTING = {"Name", "KeyCount", "IsTruncated", "Contents"}  # what an answer with a listing has some of
_MODULES = "modules.json"
_MODULE = re.compile(r"\d+_\w+")  # the folder of a sentence-transformers module, which has a config.json too
_NOT_STREAMED = "leave EMBED_LOAD_FORMAT at auto"


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a prefix in it, which is empty or ends in `/`."""

    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """The location as it is written in settings and messages."""
        return f"{SCHEME}{self.bucket}/{self.prefix}"

    def object_url(self, key: str) -> str:
        """Write the address of an object in the bucket for messages."""
        return f"{SCHEME}{self.bucket}/{key}"

    def folder(self, cache: Path) -> Path:
        """Name the local folder that keeps what is read from here; the same one at every start."""
        name = re.sub(r"[^\w.-]", "_", PurePosixPath(self.prefix or self.bucket).name)
        name = name.encode()[:_NAME_BYTES].decode(errors="ignore")
        return cache / "s3" / f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object as the listing shows it; *name* is its path below the prefix."""

    key: str
    name: str
    size: int  # bytes
    etag: str


def is_s3(model_path: str | None) -> bool:
    """Whether the model is in a bucket."""
    return model_path is not None and model_path.lower().startswith(SCHEME)


def parse_s3_url(url: str) -> S3Location:
    """Take `s3://bucket/prefix/` apart.

    Raises:
        StartError: it is not of that form.
    """
    rest = url[len(SCHEME) :]
    arn = _ARN.fullmatch(rest)
    bucket, prefix = (arn[1], arn[2] or "") if arn else rest.partition("/")[::2]
    prefix = prefix.removesuffix("/")
    wrong_arn = arn is None and bucket.startswith("arn:")
    if wrong_arn or not _BUCKET.fullmatch(bucket) or "//" in f"/{prefix}" or re.search(r"[\x00-\x1f?#]", prefix):
        message = f"EMBED_MODEL_PATH: {url!r} is not of the form s3://bucket/prefix/"
        raise StartError(message)
    return S3Location(bucket, f"{prefix}/" if prefix else "")


def list_objects(client: Any, location: S3Location) -> list[S3Object]:
    """Return every object under *location*; folder markers, which are empty and end in `/`, are left out.

    Raises:
        StartError: it is no listing, there is no object, no config.json among them, one without ETag, or one whose
            name leads out of the local folder.
        botocore.exceptions.BotoCoreError, ClientError: S3 was not reached or refused.
    """
    pages = list(client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=location.prefix))
    if not any(page.keys() & _LISTING for page in pages):
        message = f"{location.url} cannot be read: what answered is no S3; check AWS_ENDPOINT_URL and proxies"
        raise StartError(message)
    found = [
        S3Object(entry["Key"], entry["Key"][len(location.prefix) :], entry["Size"], etag_of(entry, location.url))
        for page in pages
        for entry in page.get("Contents", ())
        if not entry["Key"].endswith("/")
    ]
    if not found:
        message = f"{location.url} holds no object; EMBED_MODEL_PATH must name the prefix that holds config.json"
        raise StartError(message)
    for entry in found:
        check_inside(entry.name, location.url)
    if not any(entry.name == "config.json" for entry in found):
        message = f"{location.url} {_without_config(found)}"
        raise StartError(message)
    return found


def _without_config(objects: Iterable[S3Object]) -> str:
    """Say what to do about a root without config.json: other folders may be models, but not the modules of one."""
    names = [entry.name for entry in objects]
    folders = sorted(name.rpartition("/")[0] for name in names if name.endswith("/config.json"))
    if _MODULES in names:
        transformer = next((folder for folder in folders if folder.endswith("_Transformer")), None)
        if transformer is None:
            return f"has no config.json, which belongs beside {_MODULES}; upload the whole model"
        return (
            f"has its Transformer in {transformer}, where vLLM does not look; move its files beside {_MODULES} and "
            "leave its path there empty"
        )
    models = [folder for folder in folders if not _MODULE.fullmatch(PurePosixPath(folder).name)]
    hint = f" (there is one under {models[0]}/)" if models else ""
    return f"has no config.json{hint}; EMBED_MODEL_PATH must name the prefix that holds it"


def etag_of(answer: Mapping[str, Any], what: str) -> str:
    """Return the ETag in *answer*, about *what*, in its strong and quoted form, which some stores and proxies change.

    Raises:
        StartError: there is none.
    """
    etag = answer.get("ETag")
    if not etag:
        message = f"{what} cannot be read: S3 told no ETag, which shows whether it changes; check AWS_ENDPOINT_URL"
        raise StartError(message)
    return f'"{str(etag).removeprefix("W/").strip(chr(34))}"'


def choose_parts(objects: Iterable[S3Object]) -> list[S3Object]:
    """Choose what lies in the root and is not weights: configuration, tokenizer, the model's own code, indexes."""
    root = [entry for entry in objects if "/" not in entry.name]
    indexes = {SAFETENSORS_INDEX} if any(e.name.endswith(".safetensors") for e in root) else {_BIN_INDEX}
    return [entry for entry in root if entry.name in indexes or _is_part(entry)]


def choose_modules(
    objects: Collection[S3Object], paths: Iterable[str], *, allow_pickled: bool = False
) -> list[S3Object]:
    """Choose the files of the sentence-transformers modules in *paths*, as `modules.json` names them, weights included.

    Raises:
        StartError: a module has only pickled weights, and they are not allowed.
    """
    chosen: list[S3Object] = []
    inner = dict.fromkeys(PurePosixPath(path.strip("/")).as_posix() for path in paths)  # once each, without "./"
    for path in (path for path in inner if path != "."):
        inside = [entry for entry in objects if entry.name.rpartition("/")[0] == path]
        chosen += [entry for entry in inside if _is_part(entry)]
        chosen += _allowed(_first_kind(inside, _MODULE_WEIGHTS), allow_pickled=allow_pickled)
    return chosen


def choose_weights(
    objects: Iterable[S3Object], folder: Path, location: S3Location, *, allow_pickled: bool = False
) -> list[S3Object]:
    """Choose the weights in the root: model.safetensors, the shards that an index in *folder* names, else `.bin`.

    Raises:
        StartError: there are none, a shard is missing, or they are pickled and that is not allowed.
    """
    root = {entry.name: entry for entry in objects if "/" not in entry.name}
    for index in (SAFETENSORS_INDEX, _BIN_INDEX):
        if (folder / index).is_file() and SINGLE not in root:
            return _allowed(_shards(folder / index, root, location), allow_pickled=allow_pickled)
    chosen = _allowed(_first_kind(root.values(), _ROOT_WEIGHTS), allow_pickled=allow_pickled)
    if not chosen:
        message = f"{location.url} has no weights (no *.safetensors); upload the whole model"
        raise StartError(message)
    return chosen


def check_streamed(objects: Iterable[S3Object], weights: Iterable[S3Object], location: S3Location) -> None:
    """Refuse what a streaming loader would load else than *weights*: it reads every *.safetensors in the root.

    Raises:
        StartError: there are others beside them, or they are not safetensors.
    """
    chosen = {entry.name for entry in weights}
    there = {entry.name for entry in objects if "/" not in entry.name and entry.name.endswith(".safetensors")}
    if not there:
        message = f"{location.url} has no *.safetensors, and the streaming loader reads nothing else; {_NOT_STREAMED}"
        raise StartError(message)
    if others := sorted(there - chosen):
        message = f"{location.url}{others[0]} would be streamed over {min(chosen)}; remove it, or {_NOT_STREAMED}"
        raise StartError(message)


def _shards(index: Path, root: Mapping[str, S3Object], location: S3Location) -> list[S3Object]:
    """Return what *index* names, in order."""
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        message = f"{location.url}{index.name} is broken; upload the model again"
        raise StartError(message) from exc
    if missing := [name for name in names if name not in root]:
        message = f"{location.url}{missing[0]} is missing, though the index names it; upload the model again"
        raise StartError(message)
    return [root[name] for name in names]


def _allowed(chosen: list[S3Object], *, allow_pickled: bool) -> list[S3Object]:
    for entry in chosen:
        if entry.name.endswith(_PICKLED) and not allow_pickled:
            raise pickled(entry.key)
    return chosen


def _is_part(entry: S3Object) -> bool:
    return _fits(entry, _PARTS) and not _fits(entry, _NOT_NEEDED)


def _fits(entry: S3Object, patterns: Iterable[str]) -> bool:
    name = PurePosixPath(entry.name).name
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _first_kind(entries: Collection[S3Object], patterns: Iterable[str]) -> list[S3Object]:
    """Return the entries that fit the first pattern which any fits."""
    kinds = ([entry for entry in entries if _fits(entry, (pattern,))] for pattern in patterns)
    return next((kind for kind in kinds if kind), [])
