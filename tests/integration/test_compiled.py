"""The compiled engine: as exact as the eager one, and loaded from its cache by the next start."""

from __future__ import annotations

from pathlib import Path

from tests import models
from tests.forked import ForkedServer
from tests.integration.test_families import COSINE, cosines, texts_up_to, vectors
from tests.references import reference

TEXTS = texts_up_to(200)
_LOADED = "Directly load AOT compilation"  # vLLM's line


def test_a_compiled_model_is_loaded_by_the_next_start(folders: Path, tmp_path: Path) -> None:
    """Both answer one text and several as the reference does.

    The model is one of which vLLM sees a corrected copy, by whose path it knows what it has compiled, and one whose
    attention is not vLLM's, so that it is compiled only where that is asked for.
    """
    folder = models.build("mpnet-mean", folders)
    expected = reference(folder, TEXTS)
    settings = {"EMBED_MODEL_PATH": str(folder), "EMBED_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    settings |= {"EMBED_ENFORCE_EAGER": "false", "LOG_LEVEL": "DEBUG"}
    loaded = []
    for _ in range(2):
        with ForkedServer(**settings) as server:
            server.wait_ready()
            for some in (slice(1), slice(1, 2), slice(None)):
                assert cosines(vectors(server, TEXTS[some]), expected[some]).min() >= COSINE
            loaded.append(_LOADED in server.log())
    assert loaded == [False, True]
