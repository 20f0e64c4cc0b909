"""From settings to a model that has answered once: each phase timed, each failure one line."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields

from handler.caches import copy_baked, look_over
from handler.encoding import finish_vectors
from handler.engine import Engine
from handler.engine_args import EngineOptions, remedy
from handler.errors import ServiceError, StartError
from handler.feed import Core
from handler.installation import check_installation
from handler.lengths import LengthRule
from handler.lifecycle import Lifecycle
from handler.model_folder import ModelFolder, read_model_folder
from handler.prompts import Prompts
from handler.s3_model import Located
from handler.service import LoadedModel
from handler.settings import Settings, cache_dir, stream_unsigned, use_vllm_cache, vllm_cache_root
from handler.strands import Lull
from handler.tokenization import TextTokenizer
from handler.tokenizer_files import load_tokenizer
from handler.trust import check_load_format
from handler.vllm_core import VllmCore, import_vllm
from handler.weights import beside_weights, check_weights, locate_model, overlay, read_ahead

log = logging.getLogger(__name__)

_WARM_UP_TIMEOUT_S = 300
_UNIT_TOLERANCE = 1e-3


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Put off collecting while what lives for ever is made, and set that aside for good afterwards.

    Looking for rubbish among a million lasting objects takes a fifth of the imports' time, and later of a request's.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@without_garbage_collection()
def load_model(
    settings: Settings,
    lifecycle: Lifecycle[LoadedModel],
    *,
    build_context: Callable[[], AbstractContextManager[object]],
    on_death: Callable[[], None],
    lull: Lull,
) -> LoadedModel:
    """Load the model and embed once.

    Args:
        settings: the operator's choices.
        lifecycle: keeps the seconds of each phase.
        build_context: entered around the building of the engine, in the engine's thread.
        on_death: called in the engine's thread if the engine dies later.
        lull: when no more texts are about to come.

    Raises:
        StartError: with cause and remedy.
    """
    _prepare_caches(settings, version=check_installation())
    with lifecycle.phase("weights"):
        located, folder = _locate(settings)
    log.info("loading", extra={"folder": str(folder.path), "architecture": folder.architecture})
    prompts = Prompts(
        folder.prompts,
        default_name=settings.default_prompt_name or folder.default_prompt_name,
        instruction_template=settings.instruction_template,
        representations={
            "query": settings.representation_query,
            "document": settings.representation_document,
            "symmetric": settings.representation_symmetric,
        },
    )
    with _fetching(located, lifecycle, settings), lifecycle.phase("imports"):
        import_vllm()
    gc.freeze()  # the engine collects once when it is built: let it find nothing to look through
    log.info("imported", extra={"seconds": lifecycle.phases["imports"]})
    with lifecycle.phase("tokenizer"):
        tokenizer = load_tokenizer(
            folder.path,
            lower_case=folder.lower_case,
            vocab_size=folder.vocab_size,
            trust_remote_code=settings.trust_remote_code,
        )

    def build() -> Core:
        with build_context():
            return VllmCore(engine_options(settings, folder, streamed_from=located.streamed_from))

    with lifecycle.phase("engine"):
        engine = Engine(build, on_death=on_death, lull=lull)
        core = engine.wait_built()
    located.release()  # a start that fails ends the process, and its hold with it
    _check_matryoshka(settings, core.dimensions)
    if folder.pooling is None:
        log.warning("no_pooling_given", extra={"reason": "no modules.json in the folder", "pooling": core.pooling})
    with lifecycle.phase("warm_up"):
        warm_up(engine, tokenizer, core)
    return LoadedModel(
        tokenizer=tokenizer,
        prompts=prompts,
        engine=engine,
        dimensions=core.dimensions,
        max_tokens=core.max_model_len,
        normalizes=folder.normalizes,
        matryoshka=folder.matryoshka,
        pooling=core.pooling,
        dtype=core.dtype,
        architecture=folder.architecture,
    )


def _prepare_caches(settings: Settings, *, version: str) -> None:
    """Bring the image's caches to where vLLM looks; what cannot be copied can still be read."""
    root, baked = vllm_cache_root(), settings.baked_cache_dir
    if baked is not None and not copy_baked(baked, root):
        use_vllm_cache(baked)
        return
    look_over(root, version=version, known=baked)


def _locate(settings: Settings) -> tuple[Located, ModelFolder]:
    """Find and check the model; weights that are there already are read ahead from here on."""
    allow_pickled = settings.allow_pickled_weights
    if not allow_pickled:
        check_load_format(_load_format(settings))
    located = locate_model(
        settings.model_path,
        cache=cache_dir(settings),
        attempts=settings.http_request_retries,
        load_format=settings.load_format,
        allow_pickled=allow_pickled,
    )
    if located.anonymous:
        stream_unsigned()
    folder = read_model_folder(located.folder, matryoshka=settings.matryoshka_dimensions, allow_pickled=allow_pickled)
    if located.fetch_weights is None and located.streamed_from is None:
        read_ahead(check_weights(folder.path, allow_pickled=allow_pickled))
    return located, folder


def _load_format(settings: Settings) -> str:
    return str(settings.engine_args.get("load_format", settings.load_format))


@contextmanager
def _fetching(located: Located, lifecycle: Lifecycle[LoadedModel], settings: Settings) -> Iterator[None]:
    """Fetch the weights meanwhile, if they are still to be fetched; at the end they are there."""
    if located.fetch_weights is None:
        yield
        return

    def fetch(fetch_weights: Callable[[], None]) -> None:
        with lifecycle.phase("weights"):
            fetch_weights()
            files = check_weights(located.folder, allow_pickled=settings.allow_pickled_weights)
            read_ahead(files)  # files of an earlier start may not be in memory

    background = ThreadPoolExecutor(1, thread_name_prefix="weights")
    fetched = background.submit(fetch, located.fetch_weights)
    background.shutdown(wait=False)  # a failed import is told at once
    yield
    fetched.result()


def engine_options(settings: Settings, folder: ModelFolder, *, streamed_from: str | None) -> EngineOptions:
    """Put together what shapes the engine; a model that must be eager is, unless the operator says otherwise.

    Raises:
        StartError: a model that cannot be shared is to be.
    """
    if folder.whole and settings.tensor_parallel_size > 1:
        message = f"EMBED_TENSOR_PARALLEL_SIZE: the layers of {folder.path} cannot be shared by workers; leave it at 1"
        raise StartError(message)
    hidden = beside_weights(folder.path, _load_format(settings))
    asked = settings.model_dump(include={option.name for option in fields(EngineOptions)})  # those of the same name
    if folder.eager and settings.enforce_eager is None:
        asked["enforce_eager"] = True
    return EngineOptions(
        model=str(overlay(folder.path, folder.patches, hidden)),
        shown_as=str(folder.path),
        streamed_from=streamed_from,
        pooling=folder.pooling,
        normalizes=folder.normalizes,
        dense_layers=folder.dense_layers,
        config_dtype=folder.dtype,
        overrides=settings.engine_args,
        **asked,
    )


def _check_matryoshka(settings: Settings, dimensions: int) -> None:
    """Refuse sizes that no vector of this model can be cut to; those its own folder names are not an operator's."""
    sizes = settings.matryoshka_dimensions
    if isinstance(sizes, tuple) and max(sizes) > dimensions:
        message = f"EMBED_MATRYOSHKA_DIMENSIONS: {max(sizes)} is more than the {dimensions} dimensions of this model"
        raise StartError(message)


def warm_up(engine: Engine, tokenizer: TextTokenizer, core: Core) -> None:
    """Embed two texts the way a request would; a model whose weights are broken shows here at the latest.

    Raises:
        StartError: there is no vector, or one that is none, with what the engine died of.
    """
    batch = tokenizer.encode_texts(["warm-up", "a second text"], LengthRule(core.max_model_len, "truncate"))
    try:
        embedded = engine.embed(batch.token_ids, deadline=time.monotonic() + _WARM_UP_TIMEOUT_S)
        vectors = finish_vectors(embedded.vectors, dimensions=None, unit_length=True)
    except ServiceError as exc:
        cause = engine.died_of or exc
        said = str(cause).strip().partition("\n")[0].rstrip(".")
        message = f"the warm-up embedding failed: {said}; {remedy(cause, 'are the weights broken?')}"
        raise StartError(message) from exc
    if abs(float(vectors[0] @ vectors[0]) - 1) > _UNIT_TOLERANCE:
        message = "the warm-up embedding is all zeros; are the weights broken?"
        raise StartError(message)
