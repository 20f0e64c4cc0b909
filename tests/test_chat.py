from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
from jinja2 import Environment
from transformers import PreTrainedTokenizerBase

from handler.chat import ChatTemplate
from handler.errors import InvalidRequestError

MESSAGES = [{"role": "system", "content": ["be brief"]}, {"role": "user", "content": ["hello", "world"]}]
OF_STRINGS = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
OF_PARTS = (
    "{% for message in messages %}<{{ message.role }}>"
    "{% for part in message.content if message.role in ('system', 'user') and part.type == 'text' %}"
    "{{ part.text }}{% endfor %}{% endfor %}"
)
OF_TEXT = "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% endif %}{% endfor %}"
OF_BOTH = (
    "{% for message in messages %}<{{ message.role }}>{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}[{{ part.text }}]{% endfor %}{% endif %}{% endfor %}"
)


def template(source: str) -> ChatTemplate:
    """Take *source* as Transformers would."""
    compiled = Environment(autoescape=False).from_string(source)  # noqa: S701 - as chat templates are

    def apply(conversation: list[dict[str, Any]], *, tokenize: bool, **options: Any) -> str:
        assert not tokenize
        return compiled.render(messages=conversation, **options)

    return ChatTemplate(apply)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (OF_STRINGS, "<system>be brief<user>hello\nworld"),
        (OF_PARTS, "<system>be brief<user>helloworld"),
        (OF_TEXT, "be briefhello\nworld"),
        (OF_BOTH, "<system>[be brief]<user>[hello][world]"),
    ],
    ids=["strings", "parts", "text", "both"],
)
def test_a_template_gets_what_it_goes_over(source: str, text: str) -> None:
    """One that goes over parts would find none in a string, and lose the whole text."""
    assert template(source).render(MESSAGES, {}) == text


def test_options_are_the_templates_and_not_transformers() -> None:
    """A request may set whatever the template knows, and nothing of how it is called."""
    made = template("{{ style }}{% if add_generation_prompt %} go{% endif %}")
    options = {"style": "short", "add_generation_prompt": True, "tokenize": True, "messages": [], "return_dict": True}
    assert made.render([], options) == "short go"


def test_no_argument_of_transformers_own_can_be_set() -> None:
    """Another template, for one, would be a client's program; what templates know by name is passed on."""
    known = {"tools", "documents", "add_generation_prompt", "continue_final_message"}
    own = set(signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - {"self", "kwargs"} - known
    passed: dict[str, Any] = {}
    ChatTemplate(lambda _, **options: passed.update(options)).render([], dict.fromkeys(own | known, "x"))
    assert passed == {"tokenize": False, **dict.fromkeys(known, "x")}


def test_a_template_that_raises_is_the_clients_error() -> None:
    """A template is the model's own program; what it raises must not become a 500."""

    def apply(*_: object, **__: object) -> str:
        raise KeyError("role")

    with pytest.raises(InvalidRequestError, match="chat template refuses"):
        ChatTemplate(apply).render(MESSAGES, {})
