from __future__ import annotations

from typing import Any

import pytest

from handler.errors import InvalidRequestError, StartError
from handler.inquiry import Inquiry, Texts
from handler.prompts import Frame, Prompts

KNOWN = {"query": "query: ", "passage": "passage: "}
TEMPLATE = "Instruct: {instruction}\nQuery:{text}"


def prompts(default_name: str | None = None) -> Prompts:
    """Build the prompts of a model."""
    return Prompts(KNOWN, default_name=default_name, instruction_template=TEMPLATE)


def frame(made: Prompts, **asked: Any) -> Frame:
    """Choose the frame of a request."""
    return made.frame(Inquiry(inputs=Texts([]), **asked))


def test_nothing_asked_nothing_added() -> None:
    """A model without a default prompt gets the text as it is."""
    texts = ["a"]
    assert frame(prompts()).apply(texts) is texts


def test_the_default_prompt_applies_where_nothing_is_asked() -> None:
    """As in sentence-transformers."""
    assert list(frame(prompts("query")).apply(["a"])) == ["query: a"]


def test_a_named_prompt() -> None:
    """An unknown name is refused with the known ones."""
    assert list(frame(prompts("query"), prompt_name="passage").apply(["a"])) == ["passage: a"]
    with pytest.raises(InvalidRequestError, match="it has query, passage"):
        frame(prompts(), prompt_name="clustering")
    with pytest.raises(InvalidRequestError, match="it has query, passage"):
        frame(prompts("query"), prompt_name="")


@pytest.mark.parametrize(
    ("input_type", "before"), [("query", "query: "), ("document", "passage: "), ("passage", "passage: ")]
)
def test_input_types_find_their_prompt(input_type: str, before: str) -> None:
    """Document and passage are the same thing under two names."""
    assert frame(prompts(), input_type=input_type) == Frame(before)


def test_an_input_type_without_a_prompt_adds_nothing() -> None:
    """Clients send input_type to symmetric models too."""
    assert frame(Prompts({}, instruction_template=TEMPLATE), input_type="query") == Frame()


def test_an_unknown_input_type_is_refused() -> None:
    """The message lists the known ones."""
    with pytest.raises(InvalidRequestError, match="query, document, passage"):
        frame(prompts(), input_type="image")


def test_an_instruction_goes_into_the_template() -> None:
    """Braces in an instruction are text; an empty one means none."""
    assert list(frame(prompts(), instruction="Find {x}").apply(["a"])) == ["Instruct: Find {x}\nQuery:a"]
    assert list(frame(prompts("query"), instruction="").apply(["a"])) == ["a"]
    behind = Prompts({}, instruction_template="{text} ({instruction})")
    assert list(frame(behind, instruction="find").apply(["a"])) == ["a (find)"]


def test_only_one_of_the_three() -> None:
    """Two would contradict each other."""
    with pytest.raises(InvalidRequestError, match="cannot be used together"):
        frame(prompts(), prompt_name="query", instruction="Find")


def test_an_operators_mistake_stops_the_start() -> None:
    """A typo must never mean the default."""
    with pytest.raises(StartError, match="EMBED_DEFAULT_PROMPT_NAME"):
        prompts("querry")
    with pytest.raises(StartError, match="EMBED_INSTRUCTION_TEMPLATE"):
        Prompts(KNOWN, instruction_template="Instruct: {instruction}")


@pytest.mark.parametrize(
    ("known", "representation", "before"),
    [
        ({"query": "q: "}, "query", "q: "),
        ({"document": "d: ", "passage": "p: "}, "document", "d: "),
        ({"passage": "p: "}, "document", "p: "),
        ({"symmetric": "s: ", "STS": "t: "}, "symmetric", "s: "),
        ({"similarity": "x: ", "STS": "t: "}, "symmetric", "t: "),
        ({"similarity": "x: "}, "symmetric", "x: "),
        ({"clustering": "c: "}, "symmetric", ""),
        ({}, "query", ""),
        ({}, "document", ""),
    ],
)
def test_a_representation_is_the_prompt_of_the_usual_name(
    known: dict[str, str], representation: str, before: str
) -> None:
    """PhariaInference swaps weights; a model of today is told by its prompt, or computes the same for each."""
    made = Prompts(known, instruction_template=TEMPLATE)
    assert frame(made, representation=representation) == Frame(before)


def test_a_representation_never_means_the_default_prompt() -> None:
    """A symmetric text is not a query, whatever the model puts in front by default."""
    assert frame(prompts("query"), representation="symmetric") == Frame()


def test_an_operator_chooses_the_prompt_of_a_representation() -> None:
    """Names differ from model to model."""
    made = Prompts({"query": "q: ", "web": "w: "}, instruction_template=TEMPLATE, representations={"query": "web"})
    assert frame(made, representation="query") == Frame("w: ")
    assert made.representations == {"query": "web", "document": None, "symmetric": None}
    with pytest.raises(StartError, match="EMBED_REPRESENTATION_SYMMETRIC: the model has no prompt 'sts'; it has query"):
        Prompts(KNOWN, instruction_template=TEMPLATE, representations={"symmetric": "sts", "query": None})


def test_a_model_with_prompts_like_the_template_takes_instructions() -> None:
    """So the listings can tell which models were trained with them."""
    trained = Prompts({"query": "Instruct: Given a question\nQuery:"}, instruction_template=TEMPLATE)
    assert trained.instructable
    assert not prompts().instructable


def test_a_prompt_goes_around_items_as_text() -> None:
    """It is then joined with the first and the last of them."""
    assert list(Frame("a", "b").apply_to_parts([["x", [1, 2]]])) == [["a", "x", [1, 2], "b"]]
