from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from handler import aws


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('Could not connect to the endpoint URL: "http://me:secret@host:9/b"', '"http://***@host:9/b"'),
        ("Invalid endpoint: http://me:sec@ret/with space@host", "http://***@host"),
        ("Invalid endpoint: me:secret@host", "Invalid endpoint: ***@host"),
        ("nothing of that kind", "nothing of that kind"),
    ],
)
def test_a_password_in_a_url_is_not_told(said: str, told: str) -> None:
    """Of an endpoint or a proxy; what else was said stays."""
    shown = aws.told(ValueError(said))
    assert shown.endswith(told)
    assert "sec" not in shown


@pytest.mark.parametrize(("code", "refused"), [("AccessDenied", "AccessDenied"), ("", "407")])
def test_an_answer_without_a_code_is_told_by_its_status(code: str, refused: str) -> None:
    """That of a proxy, say."""
    exc = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 407}}, "GetObject")
    assert aws.refusal(exc) == refused
    assert aws.refusal(ValueError("x")) is None
