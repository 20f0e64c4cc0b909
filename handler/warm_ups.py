"""What vLLM would do at every start on a GPU although no text embedding needs it.

Before it serves, vLLM 0.32 warms up the kernels of vision models, whatever the model is, and for that it imports them,
and they torchvision, which the image has not. Stand-ins take the place of these two modules.
Source: vllm/model_executor/warmup/kernel_warmup.py.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_PACKAGE = "vllm.model_executor.warmup"
_NEEDLESS = ("minimax_m3_msa_warmup", "qwen_vl_triton_warmup")  # modules, and the function of the same name in each


def skip_needless_warm_ups() -> None:
    """Make them do nothing; to be called before vLLM is imported. Worker processes that are forked inherit it."""
    for name in _NEEDLESS:
        stand_in = ModuleType(f"{_PACKAGE}.{name}", "Does nothing in place of vLLM's own.")
        setattr(stand_in, name, _do_nothing)
        sys.modules.setdefault(stand_in.__name__, stand_in)


def _do_nothing(*_arguments: Any) -> None:
    pass
