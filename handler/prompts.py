"""Which text goes in front of an input: sentence-transformers prompts, representations, the instruction template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from handler.errors import InvalidRequestError, StartError
from handler.inquiry import Inquiry, Part

_INPUT_TYPES = {"query": ("query",), "document": ("document", "passage"), "passage": ("passage", "document")}
# PhariaInference swaps weights for a representation; models of today are told by a prompt.
_REPRESENTATIONS = {
    "query": ("query",),
    "document": ("document", "passage"),
    "symmetric": ("symmetric", "STS", "similarity"),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """The text around every input of a request."""

    before: str = ""
    after: str = ""

    def apply(self, texts: list[str]) -> Iterable[str]:
        """Put the frame around each of *texts*, when it is asked for: a long frame around many would take gigabytes."""
        if not self.before and not self.after:
            return texts
        return (f"{self.before}{text}{self.after}" for text in texts)

    def apply_to_parts(self, prompts: list[list[Part]]) -> Iterable[list[Part]]:
        """Put the frame around each of *prompts* as parts of its own."""
        return ([self.before, *parts, self.after] for parts in prompts)


class Prompts:
    """The prompts of one model."""

    def __init__(
        self,
        known: Mapping[str, str],
        *,
        instruction_template: str,
        default_name: str | None = None,
        representations: Mapping[str, str | None] | None = None,
    ) -> None:
        """Check the operator's choices against the model's *known* prompts.

        *representations* names the prompt of a representation; None leaves it to the usual names.

        Raises:
            StartError: a name is not a prompt of the model, or the template has no place for the text.
        """
        chosen = representations or {}
        _check_name("EMBED_DEFAULT_PROMPT_NAME", default_name, known)
        for representation, name in chosen.items():
            _check_name(f"EMBED_REPRESENTATION_{representation.upper()}", name, known)
        if "{text}" not in instruction_template or "{instruction}" not in instruction_template:
            raise StartError("EMBED_INSTRUCTION_TEMPLATE: must hold {instruction} and {text}")
        self.known = dict(known)
        self.default_name = default_name
        self.representations = {  # representation -> prompt name
            representation: chosen.get(representation) or _first(usual, known)
            for representation, usual in _REPRESENTATIONS.items()
        }
        self._template = instruction_template

    @property
    def instructable(self) -> bool:
        """Whether the model was trained with instructions: one of its prompts begins as the template does."""
        head = self._template.split("{instruction}", 1)[0]
        return bool(head) and any(text.startswith(head) for text in self.known.values())

    def frame(self, inquiry: Inquiry) -> Frame:
        """Choose the frame that *inquiry* asks for, the model's default where it asks for nothing.

        Raises:
            InvalidRequestError: an unknown name, or more than one of them.
        """
        chosen = {
            "prompt_name": inquiry.prompt_name,
            "input_type": inquiry.input_type,
            "representation": inquiry.representation,
            "instruction": inquiry.instruction,
        }
        given = [name for name, value in chosen.items() if value is not None]
        if len(given) > 1:
            message = f"{given[0]} and {given[1]} cannot be used together"
            raise InvalidRequestError(message, param=given[1])
        if inquiry.instruction is not None:
            return self._instructed(inquiry.instruction)
        if inquiry.input_type is not None:
            return self._typed(inquiry.input_type)
        if inquiry.representation is not None:
            return self._in_front(self.representations[inquiry.representation])
        return self._named(self.default_name if inquiry.prompt_name is None else inquiry.prompt_name)

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
        return self._in_front(_first(_INPUT_TYPES[input_type], self.known))

    def _in_front(self, name: str | None) -> Frame:
        return Frame(self.known[name]) if name else Frame()  # as sentence-transformers' encode_query without a prompt

    def _instructed(self, instruction: str) -> Frame:
        if not instruction:
            return Frame()
        before, after = self._template.split("{text}", 1)
        return Frame(before.replace("{instruction}", instruction), after.replace("{instruction}", instruction))


def _check_name(variable: str, name: str | None, known: Mapping[str, str]) -> None:
    if name is not None and name not in known:
        message = f"{variable}: the model has no prompt {name!r}; it has {_names(known)}"
        raise StartError(message)


def _first(names: Sequence[str], known: Mapping[str, str]) -> str | None:
    return next((name for name in names if name in known), None)


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(names) if names else "none"
