"""Chat messages to one text, by the model's own template, as vLLM's server renders them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from handler.errors import InvalidRequestError

# Arguments of Transformers' `apply_chat_template` itself, which a request cannot set for the template.
_NOT_THE_TEMPLATES = {
    *("conversation", "messages", "chat_template", "tokenize", "tokenizer_kwargs", "padding", "truncation"),
    *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
}
_PROBE = "8f1b7d"  # in no template


class ChatTemplate:
    """One model's template."""

    def __init__(self, apply: Callable[..., Any]) -> None:
        """Render by *apply*, the `apply_chat_template` of its tokenizer."""
        self._apply = apply

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template goes over the parts of a message; else it takes their text for the content."""
        try:
            parts = [{"type": "text", "text": _PROBE}]
            rendered = str(self._apply([{"role": "user", "content": parts}], tokenize=False))
        except Exception:  # noqa: BLE001 - a template is the model's own program and may raise anything
            return False
        return _PROBE in rendered and not any(f"{quote}type{quote}" in rendered for quote in "'\"")

    def render(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
        """Return the text of *messages*, each with `role` and a list of texts as `content`.

        *options* are what the template knows by name, `add_generation_prompt` and `continue_final_message` too.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        conversation = [{**message, "content": self._content(message["content"])} for message in messages]
        allowed = {key: value for key, value in options.items() if key not in _NOT_THE_TEMPLATES}
        try:
            return str(self._apply(conversation, tokenize=False, **allowed))
        except Exception as exc:  # as above
            raise InvalidRequestError("the model's chat template refuses these messages", param="messages") from exc

    def _content(self, texts: list[str]) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text} for text in texts] if self._takes_parts else "\n".join(texts)
