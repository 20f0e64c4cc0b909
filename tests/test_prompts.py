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
    assert list(prompts("query").frame().apply(["a"])) == ["query: a"]


def test_a_named_prompt() -> None:
    """An unknown name is refused with the known ones."""
    assert list(prompts("query").frame(prompt_name="passage").apply(["a"])) == ["passage: a"]
    with pytest.raises(InvalidRequestError, match="it has query, passage"):
        prompts().frame(prompt_name="clustering")
    with pytest.raises(InvalidRequestError, match="it has query, passage"):
        prompts("query").frame(prompt_name="")


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
    assert list(prompts().frame(instruction="Find {x}").apply(["a"])) == ["Instruct: Find {x}\nQuery:a"]
    assert list(prompts("query").frame(instruction="").apply(["a"])) == ["a"]


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
    assert made.frame(representation=representation) == Frame(before)


def test_a_representation_never_means_the_default_prompt() -> None:
    """A symmetric text is not a query, whatever the model puts in front by default."""
    assert prompts("query").frame(representation="symmetric") == Frame()


def test_an_operator_chooses_the_prompt_of_a_representation() -> None:
    """Names differ from model to model."""
    made = Prompts({"query": "q: ", "web": "w: "}, instruction_template=TEMPLATE, representations={"query": "web"})
    assert made.frame(representation="query") == Frame("w: ")
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
