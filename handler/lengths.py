"""Lists of token ids to the batch of a request: what happens to inputs that are longer than the model takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from handler.errors import ContextLengthError

Side = Literal["left", "right"]
LongInput = Literal["error", "truncate", "chunk"]
Special = tuple[list[int], list[int]]  # ids in front of an input and behind it


@dataclass(frozen=True, slots=True)
class Batch:
    """The token ids of one request, ready for the engine."""

    token_ids: list[list[int]]  # one list per engine text
    lengths: list[int]  # engine texts per input: 1, or more where a long input was cut into chunks
    token_count: int  # that the client is told


@dataclass(frozen=True, slots=True)
class LengthRule:
    """What happens to an input of more than *limit* tokens."""

    limit: int
    long_input: LongInput = "error"
    side: Side = "right"


def fit(groups: Iterable[list[list[int]]], rule: LengthRule, special: Special = ([], [])) -> Batch:
    """Apply *rule* to the inputs of a request as their ids come: what is cut off is not kept until the last has come.

    *special* are the ids around each input, which cutting it keeps.

    Raises:
        ContextLengthError: an input is too long and the rule says so; no further group is asked for.
    """
    fitted: list[list[int]] = []
    lengths: list[int] = []
    for token_ids in groups:
        if max(map(len, token_ids)) <= rule.limit:  # nearly always
            fitted += token_ids
            lengths += [1] * len(token_ids)
            continue
        for ids in token_ids:
            windows = [ids] if len(ids) <= rule.limit else _cut(ids, rule, special, index=len(lengths))
            fitted += windows
            lengths.append(len(windows))
    return Batch(fitted, lengths, sum(map(len, fitted)))


def too_long(index: int, tokens: str, rule: LengthRule) -> ContextLengthError:
    """Say that the input of that *index* has so many *tokens*, and what can be done about it."""
    message = (  # with OpenAI's own words: proxies know this kind of error by them
        f"input {index} has {tokens} tokens, this model's maximum context length is {rule.limit} tokens; "
        "shorten it, send truncate_prompt_tokens=-1 to /embeddings, or let the operator set EMBED_LONG_INPUT"
    )
    return ContextLengthError(message, param="input")


def _cut(ids: list[int], rule: LengthRule, special: Special, *, index: int) -> list[list[int]]:
    """Cut *ids* to windows of the limit, each with the special tokens that were around the whole."""
    if rule.long_input == "error":
        raise too_long(index, str(len(ids)), rule)
    prefix, suffix = special
    size = rule.limit - len(prefix) - len(suffix)
    if size < 1:  # room for nothing but special tokens, or for some of them
        kept = [*prefix, *suffix]
        return [kept[: rule.limit] if rule.side == "right" else kept[len(kept) - rule.limit :]]
    inner = ids[len(prefix) : len(ids) - len(suffix)]
    if rule.long_input == "truncate":
        windows = [inner[:size] if rule.side == "right" else inner[-size:]]
    else:
        windows = [inner[start : start + size] for start in range(0, len(inner), size)]
    return [prefix + window + suffix for window in windows]
