"""Take out of an environment what text embedding never loads: `trim.py SITE_PACKAGES [--table]`.

The list with a reason for each entry is `dropped.toml` beside this file. `--table` removes nothing and prints, as
Markdown, what each package weighs and whether it is kept.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

LIST = Path(__file__).with_name("dropped.toml")
_LISTED_MB = 20  # smaller packages share a line


def dropped() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Read the list: what to drop by distribution and by pattern in site-packages, and what to strip -> reason."""
    content = tomllib.loads(LIST.read_text())
    return content["distributions"], content["files"], content["debug_info"]


def normal(name: str) -> str:
    """Write a distribution's name as the index does. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(site: Path) -> dict[str, Distribution]:
    """Find the distributions in *site* by name."""
    return {normal(dist.metadata["Name"]): dist for dist in distributions(path=[str(site)])}


def owned(dist: Distribution) -> Iterator[Path]:
    """List the files that *dist* brought, scripts outside of site-packages and bytecode included."""
    for file in dist.files or ():
        path = Path(str(dist.locate_file(file))).resolve()
        yield path
        if path.suffix == ".py":
            yield from path.parent.glob(f"__pycache__/{path.stem}.*.pyc")


def remove(path: Path) -> None:
    """Remove a file or a whole folder, and folders that it leaves empty."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    parent = path.parent
    while parent.is_dir() and not any(parent.iterdir()):
        parent.rmdir()
        parent = parent.parent


def trim(site: Path) -> None:
    """Remove what the list names from *site*; an entry that is not installed is no error, another world has it."""
    by_distribution, by_path, with_debug_info = dropped()
    found = installed(site)
    for name in by_distribution:
        if name in found:
            for file in list(owned(found[name])):
                remove(file)
    for pattern in by_path:
        for path in list(site.glob(pattern)):
            remove(path)
    for pattern in with_debug_info:
        for path in site.glob(pattern):
            subprocess.run(["strip", "--strip-debug", str(path)], check=True)  # noqa: S603, S607 - binutils' own


def size(paths: Iterator[Path]) -> int:
    """Add up the bytes of the files in *paths*, folders included."""
    total = 0
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        total += sum(file.lstat().st_size for file in files if file.is_file())
    return total


def debug_bytes(library: Path) -> int:
    """Measure what stripping *library* saves."""
    with tempfile.NamedTemporaryFile() as stripped:
        subprocess.run(["strip", "--strip-debug", "-o", stripped.name, str(library)], check=True)  # noqa: S603, S607
        return library.stat().st_size - Path(stripped.name).stat().st_size


def table(site: Path) -> str:
    """Weigh every package in *site*, which must not have been trimmed."""
    by_distribution, by_path, with_debug_info = dropped()
    inside = {pattern: set(site.glob(pattern)) for pattern in by_path}
    rows: list[tuple[float, str, str]] = []
    small = 0.0
    for name, dist in installed(site).items():
        megabytes = size(iter(set(owned(dist)))) / 1e6
        if name in by_distribution:
            rows.append((megabytes, name, f"dropped: {by_distribution[name]}"))
        elif megabytes < _LISTED_MB:
            small += megabytes
        else:
            rows.append((megabytes, name, "kept"))
    for pattern, reason in by_path.items():
        if inside[pattern]:
            rows.append((size(iter(inside[pattern])) / 1e6, f"`{pattern}`", f"dropped: {reason}"))
    for pattern, reason in with_debug_info.items():
        rows += [(debug_bytes(path) / 1e6, f"`{pattern}`", f"stripped: {reason}") for path in site.glob(pattern)]
    lines = [f"| {name} | {megabytes:.0f} | {fate} |" for megabytes, name, fate in sorted(rows, reverse=True)]
    gone = sum(megabytes for megabytes, _, fate in rows if fate != "kept")
    whole = size(iter([site])) / 1e6
    return "\n".join(
        [
            "| package | MB | |",
            "|---|---|---|",
            *lines,
            f"| all others, each under {_LISTED_MB} MB | {small:.0f} | kept |",
            f"| **as installed** | **{whole:.0f}** | |",
            f"| **kept** | **{whole - gone:.0f}** | |",
        ]
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Take out what text embedding never loads.")
    parser.add_argument("site", type=Path, help="a site-packages folder")
    parser.add_argument("--table", action="store_true", help="only print what each package weighs")
    arguments = parser.parse_args()
    if not (arguments.site / "vllm").is_dir():
        sys.exit(f"{arguments.site} is no site-packages folder with vLLM in it")
    if arguments.table:
        print(table(arguments.site))
    else:
        trim(arguments.site)


if __name__ == "__main__":
    main()
