from __future__ import annotations

import pytest

from handler.errors import InvalidRequestError, StartError
from handler.prompts import Frame, Prompts

KNOWN = {"query": "query: ", "passage": "passage: "}
TEMPLATE = "Instruct: {instruction}\nQuery:{text}"


def prompts(default_name: str | None = None) -> Prompts:
    """Build the prompts of a model."""
    return Prompts(KNOWN, default_name=default_name, instruction_template=TEMPLATE)


def test_nothing_asked_nothing_added() -> None:
    """A model without a default prompt gets the text as it is."""
    texts = ["a"]
    assert prompts().frame().apply(texts) is texts


def test_the_default_prompt_applies_where_nothing_is_asked() -> None:
    """As in sentence-transformers."""
    assert prompts("query").frame().apply(["a"]) == ["query: a"]


def test_a_named_prompt() -> None:
    """An unknown name is refused with the known ones."""
    assert prompts("query").frame(prompt_name="passage").apply(["a"]) == ["passage: a"]
    with pytest.raises(InvalidRequestError, match="it has query, passage"):
        prompts().frame(prompt_name="clustering")


@pytest.mark.parametrize(
    ("input_type", "before"), [("query", "query: "), ("document", "passage: "), ("passage", "passage: ")]
)
def test_input_types_find_their_prompt(input_type: str, before: str) -> None:
    """Document and passage are the same thing under two names."""
    assert prompts().frame(input_type=input_type) == Frame(before)


def test_an_input_type_without_a_prompt_adds_nothing() -> None:
    """Clients send input_type to symmetric models too."""
    assert Prompts({}, instruction_template=TEMPLATE).frame(input_type="query") == Frame()


def test_an_unknown_input_type_is_refused() -> None:
    """The message lists the known ones."""
    with pytest.raises(InvalidRequestError, match="query, document, passage"):
        prompts().frame(input_type="image")


def test_an_instruction_goes_into_the_template() -> None:
    """Braces in an instruction are text; an empty one means none."""
    assert prompts().frame(instruction="Find {x}").apply(["a"]) == ["Instruct: Find {x}\nQuery:a"]
    assert prompts("query").frame(instruction="").apply(["a"]) == ["a"]


def test_only_one_of_the_three() -> None:
    """Two would contradict each other."""
    with pytest.raises(InvalidRequestError, match="cannot be used together"):
        prompts().frame(prompt_name="query", instruction="Find")


def test_an_operators_mistake_stops_the_start() -> None:
    """A typo must never mean the default."""
    with pytest.raises(StartError, match="EMBED_DEFAULT_PROMPT_NAME"):
        prompts("querry")
    with pytest.raises(StartError, match="EMBED_INSTRUCTION_TEMPLATE"):
        Prompts(KNOWN, instruction_template="Instruct: {instruction}")
