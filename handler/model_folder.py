"""What a model folder says about itself: pooling, prompts, Matryoshka sizes, tokenizer flags.

vLLM reads sentence-transformers folders loosely: some poolings are replaced by others and a Dense module that fails to
load is only logged. Everything that it would serve differently is refused here, by name, before the engine starts.
File formats: https://sbert.net and its `modules.json`, `*/config.json`, `config_sentence_transformers.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from handler.errors import StartError
from handler.families import OWN_ATTENTION, VOYAGE, family_of
from handler.jina import is_jina_code
from handler.model_patches import Patches, config_patch, length_patch
from handler.module_list import read_json, read_modules
from handler.t5 import T5S
from handler.trust import check_inside, pickled
from handler.weights import check_safetensors

Pooling = Literal["CLS", "LAST", "MEAN"]

_POOLINGS: dict[str, Pooling] = {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST"}  # what vLLM computes faithfully
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {"identity", "tanh", "relu", "gelu", "sigmoid", "silu"}  # torch.nn.modules.activation.*, in vLLM too
_ENCODER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Trained with Matryoshka loss, but their configs do not say so (sizes from their model cards).
_MATRYOSHKA_FAMILIES: dict[str, tuple[int, ...]] = {"gemma3_text": (512, 256, 128), VOYAGE: (1024, 512, 256)}
_QWEN3_EMBEDDING_MINIMUM = 32
# In `tokenizer_args` of sentence-transformers: what changes no token.
_HARMLESS_ARGS = {"use_fast", "trust_remote_code", "padding_side", "truncation_side", "model_max_length", "max_length"}
_HARMLESS_ARGS |= {"clean_up_tokenization_spaces", "local_files_only", "token", "revision", "cache_dir"}


@dataclass(frozen=True, slots=True)
class Matryoshka:
    """Which sizes below its own a model can be cut to: the listed ones, or any from *minimum*."""

    sizes: tuple[int, ...] = ()
    minimum: int | None = None

    def allows(self, size: int) -> bool:
        """Whether vectors may be cut to *size* numbers."""
        return size in self.sizes or (self.minimum is not None and size >= self.minimum)

    def __str__(self) -> str:
        """Describe the sizes for an error message."""
        if self.minimum is not None:
            return f"any size from {self.minimum}"
        return ", ".join(str(size) for size in self.sizes) if self.sizes else "none"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked model folder."""

    path: Path
    architecture: str
    pooling: Pooling | None  # None: the folder does not say, vLLM's default for the architecture applies
    normalizes: bool
    dense_layers: int = 0
    eager: bool = False  # its attention looks at the lengths of texts, which a CUDA graph cannot
    whole: bool = False  # workers cannot share its layers
    lower_case: bool = False
    patches: Patches = field(default_factory=dict)  # what vLLM must see instead of some files
    vocab_size: int | None = None
    dtype: str | None = None  # of the checkpoint, as config.json calls it; None: any will do, float16 will not
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    matryoshka: Matryoshka = field(default_factory=Matryoshka)


def read_model_folder(
    path: Path, *, matryoshka: Literal["any"] | tuple[int, ...] | None = None, allow_pickled: bool = False
) -> ModelFolder:
    """Read and check the folder at *path*; *matryoshka* overrides what the model says of its sizes.

    Raises:
        StartError: no such folder, unreadable or broken files, names that lead out of it, pickled weights that are not
            allowed, or a module that vLLM would serve differently.
    """
    _check_folder(path)
    try:
        return _read_model_folder(path, matryoshka, allow_pickled=allow_pickled)
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as exc:
        message = (
            f"{path}: config.json or another JSON file holds a value of a kind that does not belong there "
            f"({type(exc).__name__}); download the model again"
        )
        raise StartError(message) from exc


def _read_model_folder(
    path: Path, matryoshka: Literal["any"] | tuple[int, ...] | None, *, allow_pickled: bool
) -> ModelFolder:
    config = _read_object(path / "config.json", required=True)
    prompts = _read_object(path / "config_sentence_transformers.json")
    encoder_file = next((name for name in _ENCODER_CONFIGS if (path / name).is_file()), _ENCODER_CONFIGS[0])
    encoder = _read_object(path / encoder_file)
    modules = read_modules(path)
    tokenizer = _read_object(path / "tokenizer_config.json")
    _check_tokenizer(path, tokenizer, path / encoder_file, encoder)
    kinds = [kind for kind, _ in modules]
    family = family_of(config)
    length = length_patch(config, encoder_file, encoder, tokenizer if modules else None)
    dense = _dense_sizes(path, modules, allow_pickled=allow_pickled)
    return ModelFolder(
        path=path,
        architecture=(config.get("architectures") or ["?"])[0],
        pooling=_pooling(path, modules),
        normalizes=not modules or "Normalize" in kinds,
        dense_layers=len(dense),
        eager=family in OWN_ATTENTION,
        whole=is_jina_code(config),
        lower_case=bool(encoder.get("do_lower_case", False)),
        patches=config_patch(config, has_modules=bool(modules), dense_size=dense[-1] if dense else None) | length,
        vocab_size=config.get("vocab_size"),
        dtype=None if family in T5S else config.get("dtype") or config.get("torch_dtype"),
        prompts={name: text or "" for name, text in (prompts.get("prompts") or {}).items()},
        default_prompt_name=_default_prompt_name(path, prompts),
        matryoshka=_matryoshka(path, config, matryoshka),
    )


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        message = f"model folder {path} does not exist; set EMBED_MODEL_PATH to a folder of a Hugging Face model"
        raise StartError(message)
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as exc:
        message = f"model folder {path} cannot be read: {exc.strerror}; give user {_user()} read access"
        raise StartError(message) from exc
    if "config.json" not in names:
        remedy = "EMBED_MODEL_PATH must name the folder that holds it"
        if read_modules(path):
            remedy = "it belongs beside modules.json; download the model again"
        message = f"model folder {path} has no config.json; {remedy}"
        raise StartError(message)


def _user() -> int:
    from os import getuid  # noqa: PLC0415 - only for this message

    return getuid()


def _read_object(file: Path, *, required: bool = False) -> dict[str, Any]:
    if not required and not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        message = f"{file} must hold a JSON object"
        raise StartError(message)
    return content


def _default_prompt_name(path: Path, prompts: dict[str, Any]) -> str | None:
    name: str | None = prompts.get("default_prompt_name") or None
    if name is not None and name not in (prompts.get("prompts") or {}):
        message = f"{path}/config_sentence_transformers.json: default_prompt_name {name!r} is none of its prompts"
        raise StartError(message)
    return name


def _check_tokenizer(path: Path, tokenizer: dict[str, Any], encoder_file: Path, encoder: dict[str, Any]) -> None:
    """Look at the one list of files that Transformers would follow out of the folder, and at what it is not told."""
    names = tokenizer.get("fast_tokenizer_files")
    for name in names if isinstance(names, list) else ():
        check_inside(str(name), path / "tokenizer_config.json")
    if strange := sorted((encoder.get("tokenizer_args") or {}).keys() - _HARMLESS_ARGS):
        message = f"{encoder_file}: tokenizer_args with {', '.join(strange)}, which is not obeyed here; not served"
        raise StartError(message)


def _pooling(path: Path, modules: list[tuple[str, str]]) -> Pooling | None:
    folders = [folder for kind, folder in modules if kind == "Pooling"]
    if not folders:
        return None
    file = path / folders[0] / "config.json"
    config = _read_object(file, required=True)
    mode = config.get("pooling_mode") or [name for flag, name in _POOLING_FLAGS.items() if config.get(flag)] or "mean"
    modes = [mode] if isinstance(mode, str) else list(mode)
    if len(folders) > 1 or len(modes) > 1:
        message = f"{file}: concatenated poolings ({', '.join(modes)}) are not something vLLM computes; not served"
        raise StartError(message)
    if modes[0] not in _POOLINGS:
        message = f"{file}: vLLM has no {modes[0]} pooling ({', '.join(_POOLINGS)} are there); not served"
        raise StartError(message)
    if config.get("include_prompt") is False:
        message = f"{file}: include_prompt=false (pooling without the prompt's tokens) is not in vLLM; not served"
        raise StartError(message)
    return _POOLINGS[modes[0]]


def _dense_sizes(path: Path, modules: list[tuple[str, str]], *, allow_pickled: bool) -> list[int]:
    """Check the Dense modules; return what each makes of the vectors, in their order."""
    sizes = []
    for folder in (path / folder for kind, folder in modules if kind == "Dense"):
        config = _read_object(folder / "config.json", required=True)
        _check_dense_weights(folder, has_bias=config.get("bias", True), allow_pickled=allow_pickled)
        activation = str(config.get("activation_function"))  # vLLM computes none where none is named
        if not activation.startswith("torch.nn.") or activation.rsplit(".", 1)[-1].lower() not in _ACTIVATIONS:
            message = f"{folder}: Dense with activation {activation} is not in vLLM; not served"
            raise StartError(message)
        for key, plain in (("use_residual", False), ("module_input_name", "sentence_embedding")):
            if config.get(key, plain) != plain:
                message = f"{folder}: Dense with {key}={config[key]} is not in vLLM; not served"
                raise StartError(message)
        sizes.append(int(config["out_features"]))
    return sizes


def _check_dense_weights(folder: Path, *, has_bias: bool, allow_pickled: bool) -> None:
    there = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not there:
        message = f"{folder}: the Dense module has no weights (model.safetensors); download the model again"
        raise StartError(message)
    if there[0] == "model.safetensors":
        names = check_safetensors(folder / there[0])  # vLLM would go on to the other file where this one is broken
        if has_bias and not any(name.endswith("bias") for name in names):  # vLLM would leave a random one
            message = f"{folder}: the Dense module has no bias in {there[0]}; download the model again"
            raise StartError(message)
    elif not allow_pickled:
        raise pickled(folder / there[0])


def _matryoshka(path: Path, config: dict[str, Any], override: Literal["any"] | tuple[int, ...] | None) -> Matryoshka:
    family = family_of(config)
    trained = (path / "modules.json").is_file()  # a family's base model has none, its embedding model has
    if override is not None:
        return Matryoshka(minimum=1) if override == "any" else Matryoshka(sizes=override)
    if sizes := config.get("matryoshka_dimensions"):
        if not isinstance(sizes, list):
            message = f"{path}/config.json: matryoshka_dimensions must be a list"
            raise StartError(message)
        return Matryoshka(sizes=tuple(int(size) for size in sizes))
    if config.get("is_matryoshka"):
        return Matryoshka(minimum=1)
    if family == "qwen3" and trained:
        return Matryoshka(minimum=_QWEN3_EMBEDDING_MINIMUM)
    return Matryoshka(sizes=_MATRYOSHKA_FAMILIES.get(family, ()) if trained else ())
