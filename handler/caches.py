"""Caches that were baked into the image, brought to the folder where vLLM looks for them."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def copy_baked(baked: Path, root: Path) -> None:
    """Copy each file below *baked* to the same place below *root*, unless it is there already.

    The image's own files belong to its vLLM, so they replace others of their name. Each appears whole: other
    containers may start on the same folder. A cache that cannot be written costs seconds, not the start.
    """
    try:
        for source in sorted(path for path in baked.rglob("*") if path.is_file()):
            target = root / source.relative_to(baked)
            if not target.is_file() or target.read_bytes() != source.read_bytes():
                _place(source, target)
    except OSError as exc:
        log.warning("baked_cache_unused", extra={"reason": f"{exc.filename or root}: {exc.strerror}"})


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    os.close(descriptor)
    try:
        shutil.copy2(source, name)
        Path(name).replace(target)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
