"""Which text goes in front of an input: sentence-transformers prompts and the instruction template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from handler.errors import InvalidRequestError, StartError

_INPUT_TYPES = {"query": ("query",), "document": ("document", "passage"), "passage": ("passage", "document")}


@dataclass(frozen=True, slots=True)
class Frame:
    """The text around every input of a request."""

    before: str = ""
    after: str = ""

    def apply(self, texts: list[str]) -> list[str]:
        """Put the frame around each of *texts*."""
        if not self.before and not self.after:
            return texts
        return [f"{self.before}{text}{self.after}" for text in texts]


class Prompts:
    """The prompts of one model."""

    def __init__(
        self, known: Mapping[str, str], *, default_name: str | None = None, instruction_template: str = "{text}"
    ) -> None:
        """Check the operator's choices against the model's *known* prompts.

        Raises:
            StartError: the default is not a prompt of the model, or the template has no place for the text.
        """
        if default_name is not None and default_name not in known:
            message = f"EMBED_DEFAULT_PROMPT_NAME: the model has no prompt {default_name!r}; it has {_names(known)}"
            raise StartError(message)
        if "{text}" not in instruction_template or "{instruction}" not in instruction_template:
            message = "EMBED_INSTRUCTION_TEMPLATE: must hold {instruction} and {text}"
            raise StartError(message)
        self.known = dict(known)
        self.default_name = default_name
        self._template = instruction_template

    def frame(
        self, *, prompt_name: str | None = None, input_type: str | None = None, instruction: str | None = None
    ) -> Frame:
        """Choose the frame that a request asks for, the model's default where it asks for nothing.

        Raises:
            InvalidRequestError: an unknown name, or more than one of the three.
        """
        chosen = {"prompt_name": prompt_name, "input_type": input_type, "instruction": instruction}
        given = [name for name, value in chosen.items() if value is not None]
        if len(given) > 1:
            message = f"{given[0]} and {given[1]} cannot be used together"
            raise InvalidRequestError(message, param=given[1])
        if instruction is not None:
            return self._instructed(instruction)
        if input_type is not None:
            return self._typed(input_type)
        return self._named(prompt_name or self.default_name)

    def _named(self, name: str | None) -> Frame:
        if name is None:
            return Frame()
        if name not in self.known:
            message = f"this model has no prompt of that name; it has {_names(self.known)}"
            raise InvalidRequestError(message, param="prompt_name")
        return Frame(self.known[name])

    def _typed(self, input_type: str) -> Frame:
        if input_type not in _INPUT_TYPES:
            message = f"input_type must be one of {_names(_INPUT_TYPES)}"
            raise InvalidRequestError(message, param="input_type")
        name = next((name for name in _INPUT_TYPES[input_type] if name in self.known), None)
        return Frame(self.known[name]) if name else Frame()  # as sentence-transformers' encode_query without a prompt

    def _instructed(self, instruction: str) -> Frame:
        if not instruction:
            return Frame()
        before, after = self._template.split("{text}", 1)
        return Frame(before.replace("{instruction}", instruction), after.replace("{instruction}", instruction))


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(names) if names else "none"
