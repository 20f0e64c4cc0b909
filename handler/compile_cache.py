"""Compiled models that load again from the cache of an earlier start.

vLLM 0.32 keeps what torch has compiled. When it has loaded it, it calls a method that only its own backend's result
has. On CPUs torch's backend compiles, whose result is ready as it is: vLLM takes the missing method for a broken file
and compiles anew at every start, ten seconds instead of two.
Source: vllm/compilation/decorators.py, `_try_load_aot_compiled_fn`.
"""

from __future__ import annotations

from typing import Any


def let_compiled_models_load() -> None:
    """Give what torch loads the method that vLLM calls, where it has none."""
    import torch  # noqa: PLC0415 - importing it takes seconds

    load = torch.compiler.load_compiled_function

    def load_compiled_function(*args: Any, **options: Any) -> Any:
        loaded: Any = load(*args, **options)
        compiled = loaded._artifacts.compiled_fn  # noqa: SLF001 - where vLLM looks
        if not hasattr(compiled, "finalize_loading"):
            compiled.finalize_loading = lambda _config: None
        return loaded

    torch.compiler.load_compiled_function = load_compiled_function
