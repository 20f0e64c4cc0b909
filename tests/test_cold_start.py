from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from handler.cold_start import engine_options, warm_up
from handler.engine import Engine
from handler.errors import StartError
from handler.model_folder import read_model_folder
from handler.settings import Settings
from handler.tokenization import TextTokenizer
from tests import models
from tests.fakes import ByteTokenizer, SumCore


def warm(core: SumCore) -> None:
    """Warm up an engine on *core*."""
    engine = Engine(lambda: core, on_death=lambda: None)
    engine.wait_built()
    warm_up(engine, TextTokenizer(ByteTokenizer(), vocab_size=300), core)


def test_a_sound_engine_passes() -> None:
    """Its vectors have a direction."""
    warm(SumCore())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("Unsupported CPU attention configuration: head_dim=26", "head_dim=26; vLLM has no heads of this size on CPUs"),
        ("something else.\nand more", "something else; are the weights broken"),
    ],
)
def test_what_the_engine_died_of_is_told(error: str, said: str) -> None:
    """With the remedy, if there is one: the first batch may be the first to show what vLLM cannot compute."""
    core = SumCore()
    core.error = RuntimeError(error)
    with pytest.raises(StartError, match=f"the warm-up embedding failed: .*{said}"):
        warm(core)


def test_vectors_of_zeros_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no direction."""
    core = SumCore()
    monkeypatch.setattr(core, "_vector", lambda _: np.zeros(2, dtype=np.float32))
    with pytest.raises(StartError, match="warm-up embedding"):
        warm(core)


@pytest.mark.parametrize(
    ("model", "asked", "eager"),
    [
        ("mpnet-mean", None, True),
        ("mpnet-mean", "false", False),
        ("distilbert-mean", None, None),
        ("distilbert-mean", "true", True),
    ],
)
def test_mpnet_is_eager_unless_compiling_is_asked_for(
    model: str, asked: str | None, eager: object, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attention looks at the lengths of texts; of other models vLLM or the device decides."""
    if asked is not None:
        monkeypatch.setenv("EMBED_ENFORCE_EAGER", asked)
    folder = read_model_folder(models.build(model, folders))
    assert engine_options(Settings.from_environment(), folder, streamed_from=None).enforce_eager is eager


@pytest.mark.parametrize(("model", "refused"), [("jina-code", True), ("jina-mean", False)])
def test_a_model_that_workers_cannot_share_is_refused_at_once(
    model: str,
    refused: bool,  # noqa: FBT001
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM would only say that a worker failed."""
    monkeypatch.setenv("EMBED_TENSOR_PARALLEL_SIZE", "2")
    folder = read_model_folder(models.build(model, folders))
    with pytest.raises(StartError, match=r"EMBED_TENSOR_PARALLEL_SIZE: .*leave it at 1") if refused else nullcontext():
        engine_options(Settings.from_environment(), folder, streamed_from=None)
    monkeypatch.setenv("EMBED_TENSOR_PARALLEL_SIZE", "1")
    engine_options(Settings.from_environment(), folder, streamed_from=None)
