from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny models are built, once for all tests."""
    return tmp_path_factory.mktemp("models")
