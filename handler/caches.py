"""vLLM's caches: brought from the image to where it looks, and looked over after what others have left in them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)

_MODEL_INFO = "modelinfos"  # vLLM's folder with what it knows of the classes of models
_STAMP = "vllm-version"  # our file beside it
_ABANDONED_S = 3600  # a file that is still being written is younger


def write_problem(folder: Path) -> str | None:
    """Make *folder* and write into it; return why that fails, None where it does not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
    except OSError as exc:
        return exc.strerror or type(exc).__name__
    return None


def copy_baked(baked: Path, root: Path) -> bool:
    """Copy each file below *baked* to the same place below *root*, unless it is there already; whether that went well.

    The image's own files belong to its vLLM, so they replace others of their name. Each appears whole: other
    containers may start on the same folder.
    """
    if not baked.is_dir():
        log.warning("baked_cache_missing", extra={"reason": f"EMBED_BAKED_CACHE_DIR: there is no folder {baked}"})
    try:
        for source in sorted(path for path in baked.rglob("*") if path.is_file()):
            target = root / source.relative_to(baked)
            if not target.is_file() or target.read_bytes() != source.read_bytes():
                _place(source, target)
    except OSError as exc:
        log.warning("baked_cache_in_place", extra={"reason": f"{exc.filename or root}: {exc.strerror}"})
        return False
    return True


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


def look_over(root: Path, *, version: str, known: Path | None = None) -> None:
    """Tell what is wrong with vLLM's cache in *root*; nothing of it stops the start.

    vLLM passes over what is broken or not its own and makes it anew, without a word. Its own files carry the hash of
    the code they are about.

    Args:
        root: where vLLM looks.
        version: of the vLLM that is installed.
        known: a folder with the same layout whose files have just been copied to *root*, and need no look.
    """
    try:
        if removed := _remove_broken(root, known):
            log.warning("cache_mended", extra={"folder": str(root), "removed": removed})
        before = _exchange_stamp(root, version)
    except OSError as exc:
        log.warning("cache_not_checked", extra={"reason": f"{exc.filename or root}: {exc.strerror}"})
        return
    if before not in (None, version):
        log.info("cache_of_another_version", extra={"folder": str(root), "was": before, "is": version})


def _remove_broken(root: Path, known: Path | None) -> int:
    folder = root / _MODEL_INFO
    removed = 0
    for file in folder.iterdir() if folder.is_dir() else ():
        checked = known is not None and (known / _MODEL_INFO / file.name).is_file()
        if not checked and _is_broken(file):
            file.unlink(missing_ok=True)  # another container may have been first
            removed += 1
    return removed


def _is_broken(file: Path) -> bool:
    """Whether *file* is no model information, or was left half-written by a process that died."""
    try:
        if file.suffix != ".json":
            return time.time() - file.stat().st_mtime > _ABANDONED_S
        content = json.loads(file.read_bytes())
    except FileNotFoundError:  # another container has just finished with it
        return False
    except (ValueError, RecursionError):
        return True
    return not (isinstance(content, dict) and {"hash", "modelinfo"} <= content.keys())


def _exchange_stamp(root: Path, version: str) -> str | None:
    """Write *version* beside the caches; return the one that stood there, None if there was none."""
    stamp = root / _STAMP
    before = stamp.read_bytes()[:40].decode("ascii", "replace") if stamp.is_file() else None
    if before != version:
        root.mkdir(parents=True, exist_ok=True)
        stamp.write_text(version)
    return before if before is None or re.fullmatch(r"[\w.+-]+", before) else "unreadable"


def usable_cache(chosen: Path) -> tuple[Path, str | None]:
    """Return a folder that can be written, *chosen* if it can, and why another has taken its place."""
    problem = write_problem(chosen)
    if problem is None:
        return chosen, None
    try:
        other = Path(tempfile.mkdtemp(prefix="serverless-embeddings-"))
    except OSError:
        other = None
    if other is None or write_problem(other) is not None:
        return chosen, f"{chosen} cannot be written: {problem}; nor can any folder for temporary files"
    reason = f"{chosen} cannot be written: {problem}; caches go to {other} and are gone with this container"
    return other, reason
