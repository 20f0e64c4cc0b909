"""The application on fakes, for tests of routes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask.testing import FlaskClient

from handler.access import Access
from handler.app import create_app
from handler.engine import Engine
from handler.lifecycle import Lifecycle
from handler.listings import ModelCard
from handler.metrics import Metrics
from handler.model_folder import Matryoshka
from handler.prompts import Prompts
from handler.service import EmbeddingService, LoadedModel, Rules
from handler.tokenization import TextTokenizer
from tests.fakes import VOCABULARY, ByteTokenizer, SumCore


def loaded(core: SumCore, **changes: Any) -> LoadedModel:
    """Put a model together from fakes; *changes* are fields of it."""
    engine = Engine(lambda: core, on_death=lambda: None)
    engine.wait_built()
    model = LoadedModel(
        tokenizer=TextTokenizer(ByteTokenizer(), vocab_size=VOCABULARY),
        prompts=Prompts({"query": "q: "}, instruction_template="{instruction} {text}"),
        engine=engine,
        dimensions=2,
        max_tokens=16,
        normalizes=False,
        matryoshka=Matryoshka(),
        pooling="MEAN",
        dtype="float32",
        architecture="SumModel",
    )
    return replace(model, **changes)


def build(
    core: SumCore | None = None,
    *,
    model: LoadedModel | None = None,
    keys: tuple[str, ...] = (),
    rules: dict[str, Any] | None = None,
    ready: bool = True,
    lifecycle: Lifecycle[LoadedModel] | None = None,
    cors: tuple[str, ...] = (),
    pages_need_key: bool = False,
) -> FlaskClient:
    """Build an application on fakes and return a client for it."""
    lifecycle = lifecycle or Lifecycle(slots=2)
    if ready:
        lifecycle.ready(model or loaded(core or SumCore()))
    service = EmbeddingService(lifecycle, Rules(names=("sum", "alias"), **(rules or {})))
    card = ModelCard(created=1, version="1", description="adds", tags=("x",), maximum_completion_tokens=None)
    metrics = Metrics(slots=2, in_flight=lambda: lifecycle.in_flight, is_ready=lambda: True)
    app = create_app(
        service,
        lifecycle,
        Access(keys),
        card=card,
        metrics=metrics,
        max_body_bytes=4096,
        cors_allow_origins=cors,
        pages_need_key=pages_need_key,
    )
    return app.test_client()
