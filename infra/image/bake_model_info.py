"""Write what vLLM would else find out at the first start: `bake_model_info.py CACHE_ROOT`.

vLLM inspects a model's class and keeps its answer in its cache folder, which a fresh container has empty. A build that
lacks what a common class imports fails here. Source: vllm/model_executor/models/registry.py of vLLM 0.32,
`_LazyRegisteredModel`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# Decoders that embedding models are made from; encoders are in vLLM's own list of embedding models.
DECODERS = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
NEEDED = ("BertModel", "RobertaModel", "XLMRobertaModel", "ModernBertModel", "Qwen3ForCausalLM")


def bake(cache_root: str) -> tuple[list[str], dict[str, str]]:
    """Fill *cache_root*; return the architectures that are in it, and why others are not."""
    os.environ["VLLM_CACHE_ROOT"] = cache_root
    from vllm.model_executor.models import registry  # noqa: PLC0415 - reads the variable above

    baked: list[str] = []
    failed: dict[str, str] = {}
    for name in (*registry._EMBEDDING_MODELS, *DECODERS):  # noqa: SLF001 - the list is nowhere else
        try:
            _inspect(registry, registry.ModelRegistry.models[name])
        except Exception as exc:  # noqa: BLE001 - a model that needs a package we leave out, or a GPU
            failed[name] = f"{type(exc).__name__}: {exc}"
        else:
            baked.append(name)
    return baked, failed


def _inspect(registry: Any, model: Any) -> None:
    """Keep what vLLM finds out about *model*, without the second Python that vLLM would start for it."""
    from importlib.util import find_spec  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    spec = find_spec(model.module_name)
    file_hash = model._get_modelinfo_module_hash(Path(spec.origin))  # noqa: SLF001 - see the docstring
    model._save_modelinfo_to_cache(registry._ModelInfo.from_model_cls(model.load_model_cls()), file_hash)  # noqa: SLF001


def main() -> None:
    """Bake into the folder that the command line names; fail where a common architecture is missing."""
    baked, failed = bake(sys.argv[1])
    for name, reason in failed.items():
        print(f"not baked: {name}: {reason}")
    print(f"baked: {', '.join(baked)}")
    if missing := set(NEEDED) - set(baked):
        sys.exit(f"missing: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
