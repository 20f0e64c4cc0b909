"""What Python modules import when they are imported, read from their source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def imported_names(site: Path, package: str, modules: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Follow the imports of *modules* inside of *package*; collect those that leave it, and those that do not.

    Only imports that cannot be avoided count: at a module's top level, not in a `try` and not for type checkers.

    Args:
        site: the folder that holds *package*.
        package: whose modules are followed.
        modules: where to begin, by full name.

    Returns:
        Top-level name of what is imported from outside -> one of the modules that import it; full name of what is
        imported from inside -> the same, a module's contents and what is not there at all included.

    Raises:
        FileNotFoundError: one of *modules* does not exist.
    """
    outside: dict[str, str] = {}
    inside: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(modules)
    for module in waiting:
        if _file(site, module) is None:
            raise FileNotFoundError(module)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        file = _file(site, module)
        if file is None:
            continue  # a name in a module, not a module
        around = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for name in _names(ast.parse(file.read_text()).body, around):
            if name.partition(".")[0] == package:
                inside.setdefault(name, module)
                parts = name.split(".")
                waiting += [".".join(parts[: end + 1]) for end in range(len(parts))]
            else:
                outside.setdefault(name.partition(".")[0], module)
    return outside, inside


def _file(site: Path, module: str) -> Path | None:
    path = site.joinpath(*module.split("."))
    found = (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())
    return next(found, None)


def _names(body: list[ast.stmt], package: str) -> Iterator[str]:
    """Name what the statements import; `from a import b` may mean a module `a.b`."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.dump(node.test):
                yield from _names(node.body, package)
            yield from _names(node.orelse, package)
        elif isinstance(node, ast.ClassDef | ast.With):
            yield from _names(node.body, package)
