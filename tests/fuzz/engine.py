"""What every target needs of atheris; it is imported only where a target runs, for it patches the interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable


def fuzz(one: Callable[[bytes], None]) -> None:
    """Call *one* with inputs until libFuzzer's own options say stop."""
    import atheris

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


def instrumented(*modules: str) -> None:
    """Import *modules* of `handler` so that their edges are counted; nothing of it may be imported before."""
    import atheris

    assert not [name for name in sys.modules if name.startswith("handler.")]
    with atheris.instrument_imports(include=["handler"]):
        for module in modules:
            __import__(module)
