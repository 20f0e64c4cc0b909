"""Each of vLLM's worker processes imports this before it loads a model, and so does there what is done here.

Forked ones inherit it. On CPUs, and wherever CUDA is in use already, vLLM spawns them: those begin with nothing.
Source: `worker_extension_cls` in vllm/v1/worker/worker_base.py of vLLM 0.32, a class that is mixed into its worker's.
"""

from __future__ import annotations

from handler.vllm_core import import_vllm

import_vllm()


class Nothing:
    """What is added to vLLM's worker: it asks for a class, the import is all that is needed."""
