"""What the listings tell of the served model, in OpenAI's form and in the two of PhariaInference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from handler.pharia import COMPRESSED_SIZE
from handler.service import LoadedModel, Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the operator says of the model."""

    created: int
    version: str
    description: str
    tags: tuple[str, ...]
    maximum_completion_tokens: int | None


class Listings:
    """Describes the model under each of its names; fields that only the loaded model knows are null before that."""

    def __init__(self, card: ModelCard, rules: Rules, model: Callable[[], LoadedModel | None]) -> None:
        """Keep what the operator says; *model* returns what is loaded by now."""
        self._card = card
        self._rules = rules
        self._model = model

    def openai(self, name: str) -> dict[str, Any]:
        """Describe the model as `/v1/models` does."""
        model = self._model()
        return {
            "id": name,
            "object": "model",
            "created": self._card.created,
            "owned_by": "serverless-embeddings",
            "root": self._rules.names[0],
            "max_model_len": model.max_tokens if model else None,
            "dimensions": model.dimensions if model else None,
            "model_version": self._card.version,
            "description": self._card.description,
            "tags": list(self._card.tags),
            "maximum_completion_tokens": self._card.maximum_completion_tokens,
        }

    def pharia_available(self) -> list[dict[str, Any]]:
        """Describe the model as `/models_available` does."""
        return [
            {
                **self._pharia_common(name),
                "hostings": [],
                "embedding_types": self._embedding_types(),
                "image_support": False,
                "qa_support": False,
                "summarization_support": False,
            }
            for name in self._rules.names
        ]

    def pharia_settings(self) -> list[dict[str, Any]]:
        """Describe the model as `/model-settings` does."""
        types = self._embedding_types()
        return [
            {
                **self._pharia_common(name),
                "status": "available" if self._model() else "unavailable",
                "worker_type": "vllm",
                "multimodal": False,
                "semantic_embedding": "semantic" in types,
                "completion_type": "none",
                "embedding_type": types[-1] if types else "none",
                "aligned": False,
                "chat": False,
                "prompt_template": None,
            }
            for name in self._rules.names
        ]

    def _pharia_common(self, name: str) -> dict[str, Any]:
        model = self._model()
        compresses = model is not None and model.can_cut_to(COMPRESSED_SIZE)
        return {
            "name": name,
            "description": self._card.description,
            "max_context_size": model.max_tokens if model else None,
            "maximum_completion_tokens": self._card.maximum_completion_tokens or 0,
            "dimensions": model.dimensions if model else None,
            "compress_to_size": COMPRESSED_SIZE if compresses else None,
            "representations": model.prompts.representations if model else None,  # each with the prompt it means here
        }

    def _embedding_types(self) -> list[str]:
        """List what the model was made for, the best last; any model computes semantic embeddings."""
        model = self._model()
        if not self._rules.supported:
            return []
        return ["semantic", "instructable"] if model and model.prompts.instructable else ["semantic"]
