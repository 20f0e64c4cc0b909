"""What sentence-transformers computes from a model folder, in fp32: the vectors that the worker's must equal."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize

from tests.networks import own_network


@cache
def _load(folder: Path) -> SentenceTransformer:
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    if own := own_network(model[0].model.config):
        own.load_state_dict(load_file(folder / "model.safetensors"))
        model[0].model = own
    return model


def reference(folder: Path, texts: list[str], *, prompt: str = "", normalize: bool | None = None) -> np.ndarray:
    """Embed *texts* one by one, each with *prompt* before it, cut to the model's length: (n, dim) float32.

    *normalize* None leaves it to the folder's own modules, True forces unit length, False the vector before it.
    The folder's ``default_prompt_name`` is not applied.
    """
    model = _load(folder)
    if normalize is False:
        model = SentenceTransformer(
            modules=[layer for layer in model if not isinstance(layer, Normalize)], device="cpu"
        )
    vectors = model.encode(
        texts, prompt=prompt, batch_size=1, normalize_embeddings=bool(normalize), show_progress_bar=False
    )
    return np.asarray(vectors, dtype=np.float32)
