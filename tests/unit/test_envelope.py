"""Opening replies: every failure a real server was seen to answer, and anything else that may arrive."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow import client
from panda_airflow.client import ConfigError, DuplicateTask, PandaError, Refused, ServerError
from panda_airflow.client.endpoint import REGISTRY
from panda_airflow.client.http.envelope import DATETIME_MARKER, decode, encode, fit, open_reply, plain_text
from panda_airflow.client.models import Envelope

GET_STATUS, SUBMIT = REGISTRY["task/get_status"], REGISTRY["task/submit"]
REFUSALS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "refusals.json").read_text())


@pytest.mark.parametrize("seen", REFUSALS, ids=lambda seen: f"{seen['endpoint']}: {plain_text(seen['body'])[:60]}")
def test_every_failure_seen_is_the_right_error_in_one_line(seen: dict[str, Any]) -> None:
    endpoint = REGISTRY[seen["endpoint"]]
    with pytest.raises(PandaError) as caught:
        open_reply(endpoint, seen["status"], seen["body"])
    error, text = caught.value, str(caught.value)
    assert type(error) is getattr(client, seen["error"])
    assert text.startswith(f"{endpoint.path}: ")
    assert text.endswith(".")
    assert not any(trace in text for trace in ("\n", "Traceback", 'File "', "<html>", ".. ", "ERROR : "))
    assert error.server_says
    assert error.advice or isinstance(error, Refused)


def test_a_duplicate_names_its_holder() -> None:
    body = '{"success": false, "message": "jediTaskID=12 is already queued for outDS=user.bob.x. You ...", "data": 1}'
    with pytest.raises(DuplicateTask) as caught:
        open_reply(SUBMIT, 200, body)
    assert (caught.value.task_id, caught.value.code) == (12, 1)


def test_a_python_literal_is_understood_and_nothing_in_it_is_run() -> None:
    body = "{'success': True, 'message': '', 'data': 'done'}"
    assert open_reply(GET_STATUS, 200, body) == Envelope(success=True, message="", data="done")
    with pytest.raises(ServerError, match="is not a PanDA envelope"):
        open_reply(GET_STATUS, 200, "{'success': __import__('os').getcwd()}")


@given(status=st.sampled_from([200, 301, 400, 401, 403, 404, 413, 429, 500, 503]), body=st.text())
def test_whatever_arrives_is_an_envelope_or_one_clear_error(status: int, body: str) -> None:
    try:
        text = open_reply(GET_STATUS, status, body).message
    except PandaError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 1500


KEYS = st.text().filter(lambda key: key != DATETIME_MARKER)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text().map(fit)
    | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS.map(fit), inner),
)


@given(data=JSON)
def test_what_the_server_sends_is_what_the_caller_gets(data: Any) -> None:
    body = encode({"success": True, "message": None, "data": data})
    assert open_reply(GET_STATUS, 200, body) == Envelope(success=True, message="", data=data)


def test_times_go_over_the_wire_in_naive_utc() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=timezone(timedelta(hours=1)))
    assert encode(noon) == '{"__datetime__": "2026-11-22T11:00:00"}'
    assert decode(encode(noon)) == noon.astimezone(UTC).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("-1", 0, 0),
        (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 80_000, 86_401),
    ],
    ids=["seconds", "fraction", "past", "date"],
)
def test_the_time_that_the_server_asks_for_is_read(value: str, least: float, most: float) -> None:
    with pytest.raises(ServerError) as caught:
        open_reply(GET_STATUS, 503, "", {"Retry-After": value})
    assert caught.value.retry_after is not None
    assert least <= caught.value.retry_after <= most


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "nan"}, {"Retry-After": ""}])
def test_no_such_time_is_no_time(headers: dict[str, str]) -> None:
    with pytest.raises(ServerError) as caught:
        open_reply(GET_STATUS, 429, "", headers)
    assert not caught.value.retry_after


def test_a_redirection_is_named_and_not_followed() -> None:
    with pytest.raises(ConfigError, match=r"HTTP 302. The server says: go to https://x/login. Check that the URL"):
        open_reply(GET_STATUS, 302, "", {"Location": "https://x/login"})
