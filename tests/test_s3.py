from __future__ import annotations

import json
from pathlib import Path

import pytest

from handler import s3
from handler.errors import StartError
from handler.s3 import S3Location, S3Object

LOCATION = S3Location("bucket", "org/model/")
DESCRIPTION = ["config.json", "modules.json", "tokenizer.json", "vocab.txt", "merges.txt", "tokenizer.model"]
RUBBISH = [
    *("README.md", ".gitattributes", "picture.png", "onnx/model.onnx", "onnx/config.json", "openvino/model.bin"),
    *("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.gguf", "training_args.bin", "optimizer.pt"),
    *("eval_results.json", "eval/similarity_results.csv", "3_Unknown/config.json", "LICENSE.txt"),
]


def listing(*names: str) -> list[S3Object]:
    """Objects as S3 lists them."""
    return [S3Object(f"org/model/{name}", name, 1, '"etag"') for name in names]


def names(objects: list[S3Object]) -> list[str]:
    """The names, in order."""
    return sorted(entry.name for entry in objects)


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket/org/model/", "bucket", "org/model/"),
        ("s3://bucket/org/model", "bucket", "org/model/"),
        ("S3://my.bucket-1/a b/ü", "my.bucket-1", "a b/ü/"),
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        (
            "s3://arn:aws:s3:eu-central-1:123456789012:accesspoint/models/org/model",
            "arn:aws:s3:eu-central-1:123456789012:accesspoint/models",
            "org/model/",
        ),
        ("s3://arn:aws:s3:r:1:accesspoint/models", "arn:aws:s3:r:1:accesspoint/models", ""),
        (
            "s3://arn:aws:s3-outposts:eu-central-1:123456789012:outpost/op-1/accesspoint/models/org/model",
            "arn:aws:s3-outposts:eu-central-1:123456789012:outpost/op-1/accesspoint/models",
            "org/model/",
        ),
    ],
)
def test_the_forms_of_a_location(url: str, bucket: str, prefix: str) -> None:
    """With and without the last slash; an access point by its ARN."""
    assert s3.is_s3(url)
    assert s3.parse_s3_url(url) == S3Location(bucket, prefix)


@pytest.mark.parametrize(
    "url",
    [
        *("s3://", "s3:///model", "s3://b", "s3://bucket//model", "s3://a b/model", "s3://b?x/y"),
        *("s3://arn:aws:s3-outposts:r:1:outpost/op-1/bucket/b", "s3://arn:aws:s3:::bucket/org/model"),
    ],
)
def test_what_is_not_a_location(url: str) -> None:
    """Told with the form that is."""
    with pytest.raises(StartError, match=r"EMBED_MODEL_PATH: .* is not of the form s3://bucket/prefix/"):
        s3.parse_s3_url(url)


@pytest.mark.parametrize("path", [None, "/mnt/s3/model", "models/s3://x"])
def test_folders_are_not_buckets(path: str | None) -> None:
    """Only the scheme counts."""
    assert not s3.is_s3(path)


def test_each_location_has_its_folder(tmp_path: Path) -> None:
    """The same at every start, another one for another bucket, readable for people."""
    folders = {S3Location(bucket, "org/bge é/").folder(tmp_path) for bucket in ("one", "two", "one")}
    assert len(folders) == 2
    assert all(folder.name.startswith("bge_") for folder in folders)


@pytest.mark.parametrize("letter", ["x", "é", "模"])
def test_a_long_name_fits_into_a_file_system(tmp_path: Path, letter: str) -> None:
    """Keys may have 1024 bytes, names of folders 255."""
    folder = S3Location("bucket", f"{letter * 300}/").folder(tmp_path)
    folder.with_name(f"{folder.name}-streamed").mkdir(parents=True)


def test_the_description_is_chosen() -> None:
    """Configuration and tokenizer; no cards, pictures, results, or copies for other programs."""
    found = listing(*DESCRIPTION, *RUBBISH, "model.safetensors", "pytorch_model.bin")
    assert names(s3.choose_parts(found)) == sorted(DESCRIPTION)


def test_modules_come_with_their_weights() -> None:
    """The folders that modules.json names, whatever they are called; safetensors before its copy."""
    paths = ["", ".", "./1_Pooling/", "heads/dense", "2_Dense", "2_Dense"]
    wanted = ["1_Pooling/config.json", "heads/dense/config.json", "heads/dense/model.safetensors"]
    wanted += ["2_Dense/config.json", "2_Dense/model.safetensors"]
    more = [
        "heads/dense/pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "heads/dense/deeper/config.json",
        "../outside/config.json",
    ]
    assert names(s3.choose_modules(listing(*wanted, *more, *RUBBISH), paths)) == sorted(wanted)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"], ["model.safetensors"]),
        (["other.safetensors", "pytorch_model.bin"], ["other.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
    ],
)
def test_the_weights_are_chosen_once(tmp_path: Path, there: list[str], chosen: list[str]) -> None:
    """One copy of them."""
    assert names(s3.choose_weights(listing(*there, *RUBBISH), tmp_path, LOCATION)) == chosen


def test_an_index_names_the_shards(tmp_path: Path) -> None:
    """Those and no others; one that is missing is named."""
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}'
    )
    found = listing("model.safetensors.index.json", "x.safetensors", "y.safetensors", "old.safetensors")
    assert names(s3.choose_parts(found)) == ["model.safetensors.index.json"]
    assert names(s3.choose_weights(found, tmp_path, LOCATION)) == ["x.safetensors", "y.safetensors"]
    with pytest.raises(StartError, match=r"s3://bucket/org/model/y\.safetensors is missing"):
        s3.choose_weights(found[:2], tmp_path, LOCATION)
    single = [*found, *listing("model.safetensors")]  # which Transformers takes first, and so a mounted folder's reader
    assert names(s3.choose_weights(single, tmp_path, LOCATION)) == ["model.safetensors"]
    for content in ("", "{}", "[]", '{"weight_map": []}', "[" * 100_000):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(StartError, match=r"index\.json is broken"):
            s3.choose_weights(found, tmp_path, LOCATION)


def test_a_streaming_loader_must_find_the_weights_alone(tmp_path: Path) -> None:
    """It reads every *.safetensors in the root, and nothing else."""
    found = listing("model.safetensors", "2_Dense/model.safetensors", "pytorch_model.bin")
    s3.check_streamed(found, s3.choose_weights(found, tmp_path, LOCATION), LOCATION)
    more = [*found, *listing("model.fp16.safetensors")]
    with pytest.raises(StartError, match=r"fp16\.safetensors would be streamed over model\.safetensors; remove it, or"):
        s3.check_streamed(more, s3.choose_weights(more, tmp_path, LOCATION), LOCATION)
    weights = s3.choose_weights(found[2:], tmp_path, LOCATION, allow_pickled=True)
    with pytest.raises(StartError, match=r"has no \*\.safetensors.* leave EMBED_LOAD_FORMAT at auto"):
        s3.check_streamed(found[2:], weights, LOCATION)


def test_no_weights_at_all(tmp_path: Path) -> None:
    """Only copies for other programs."""
    with pytest.raises(StartError, match="has no weights"):
        s3.choose_weights(listing(*DESCRIPTION, *RUBBISH), tmp_path, LOCATION)


def test_pickled_weights_only_where_they_are_allowed(tmp_path: Path) -> None:
    """In the root and in modules, named by an index or not; nothing of them is fetched before."""
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}]))
    found = listing("pytorch_model.bin", "training_args.bin", "2_Dense/config.json", "2_Dense/pytorch_model.bin")
    weights = ["pytorch_model.bin"]
    modules = ["2_Dense/config.json", "2_Dense/pytorch_model.bin"]
    for _ in ("without an index", "with one"):
        assert names(s3.choose_weights(found, tmp_path, LOCATION, allow_pickled=True)) == weights
        with pytest.raises(StartError, match=r"org/model/pytorch_model\.bin holds pickled weights.*convert them"):
            s3.choose_weights(found, tmp_path, LOCATION)
        (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "pytorch_model.bin"}}')
    assert names(s3.choose_modules(found, ["2_Dense"], allow_pickled=True)) == modules
    with pytest.raises(StartError, match=r"2_Dense/pytorch_model\.bin holds pickled weights"):
        s3.choose_modules(found, ["2_Dense"])


class OnePage:
    """A client of S3 whose bucket holds *keys*; moto and S3 itself take any of them."""

    def __init__(self, *keys: str, etag: str | None = '"etag"') -> None:
        """Remember *keys* and what to tell of each."""
        self._keys = keys
        self._told = {"Size": 1, **({"ETag": etag} if etag else {})}

    def get_paginator(self, _: str) -> OnePage:
        """Be the paginator too."""
        return self

    def paginate(self, **_: str) -> list[dict[str, list[dict[str, object]]]]:
        """List everything."""
        return [{"Contents": [{"Key": key, **self._told} for key in self._keys]}]


@pytest.mark.parametrize("name", ["../../etc/cron.d/x.json", "/etc/x.json", "a/../../x.json", "..", "a\0b.json"])
def test_a_key_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    """Whoever may write into the bucket must not write elsewhere on this machine."""
    with pytest.raises(StartError, match=r"s3://bucket/org/model/ names .* which leads out of the model's folder"):
        s3.list_objects(OnePage("org/model/config.json", f"org/model/{name}"), LOCATION)


def test_a_listing_without_etags_is_refused() -> None:
    """Nothing else shows whether an object changes; other forms of an ETag are one."""
    with pytest.raises(StartError, match=r"s3://bucket/org/model/ cannot be read: S3 told no ETag"):
        s3.list_objects(OnePage("org/model/config.json", etag=None), LOCATION)
    for form in ("a", '"a"', 'W/"a"'):
        (entry,) = s3.list_objects(OnePage("org/model/config.json", etag=form), LOCATION)
        assert entry.etag == '"a"'


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["modules.json", "0_Transformer/config.json", "1_Pooling/config.json"],
            "its Transformer in 0_Transformer, wh",
        ),
        (["modules.json", "1_Pooling/config.json"], "which belongs beside modules.json; upload the whole model"),
        (["1_Pooling/config.json"], r"has no config\.json; EMBED_MODEL_PATH must name"),
        (["v1/1_Pooling/config.json", "v1/config.json"], r"\(there is one under v1/\); EMBED_MODEL_PATH must name"),
    ],
)
def test_a_module_is_not_taken_for_the_model(names: list[str], said: str) -> None:
    """Its config.json is none: a server of 0_Transformer would pool as vLLM likes."""
    with pytest.raises(StartError, match=said):
        s3.list_objects(OnePage(*(f"org/model/{name}" for name in names)), LOCATION)
