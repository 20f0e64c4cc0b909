"""What a client asks for, in one form for every wire format; nothing behind it knows which one was spoken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Part = str | list[int]  # of a prompt: text, or token ids of the model's own tokenizer


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, each one input."""

    texts: list[str]
    add_special_tokens: bool = True

    def __len__(self) -> int:
        """How many vectors are asked for."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class TokenLists:
    """Token ids, used as they are; each list is one input."""

    token_lists: list[list[int]]

    def __len__(self) -> int:
        """How many vectors are asked for."""
        return len(self.token_lists)


@dataclass(frozen=True, slots=True)
class Mixed:
    """Inputs of which each is put together from texts and token ids, in order."""

    prompts: list[list[Part]]

    def __len__(self) -> int:
        """How many vectors are asked for."""
        return len(self.prompts)


@dataclass(frozen=True, slots=True)
class Chat:
    """Chat messages that the model's template makes one input of."""

    messages: list[dict[str, Any]]  # each with its role, and its content as a list of texts
    options: dict[str, Any] = field(default_factory=dict)  # for the template
    add_special_tokens: bool = False

    def __len__(self) -> int:
        """How many vectors are asked for."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """One validated request for vectors; None leaves a choice to the model or the operator."""

    inputs: Texts | TokenLists | Mixed | Chat
    model: str | None = None
    # At most one of these four says what is put in front of the inputs; see `prompts`.
    prompt_name: str | None = None
    input_type: str | None = None
    representation: str | None = None
    instruction: str | None = None
    counts_prompt: bool = True  # whether the usage counts what is put in front
    dimensions: int | None = None
    unit_length: bool | None = None
    truncate_to: int | None = None  # tokens; -1: as many as the model takes
    truncation_side: Literal["left", "right"] | None = None  # None: the tokenizer's own
    priority: int = 0  # lower is sooner, where the engine schedules by it
