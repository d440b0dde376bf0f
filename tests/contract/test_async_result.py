"""The two shapes of ``async_process/get_result``: an operation with its outcome, and what several machines found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panda_airflow.client import errors
from panda_airflow.client.models import AsyncResult
from panda_airflow.client.session import PandaClient
from tests.support.recorder import Recorder


def meta(status: str, error: str | None = None) -> dict[str, Any]:
    return {"status": status, "attempts": 1, "started_at": None, "finished_at": None, "error_msg": error}


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (
            {"success": False, "message": "request is running", "data": None, "async_meta": meta("running")},
            AsyncResult("running", False, "request is running", None),
        ),
        (
            {"success": False, "message": "request failed", "data": None, "async_meta": meta("failed", "crashed")},
            AsyncResult("failed", False, "crashed", None),
        ),
        (
            {"success": False, "message": "not queued", "data": None, "async_meta": meta("done")},
            AsyncResult("done", False, "not queued", None),
        ),
        (
            {"success": True, "message": "", "data": {"n": 1}, "async_meta": meta("done")},
            AsyncResult("done", True, "", {"n": 1}),
        ),
        (
            {"success": True, "message": "", "data": {"overall_status": "pending", "results": []}},
            AsyncResult("pending", False, "", []),
        ),
        (
            {"success": True, "message": "", "data": {"overall_status": "complete", "results": [{"result": "x"}]}},
            AsyncResult("complete", True, "", [{"result": "x"}]),
        ),
    ],
)
def test_a_look_at_a_request(
    client: PandaClient, recorder: Recorder, answer: dict[str, Any], result: AsyncResult
) -> None:
    recorder.answer = (200, json.dumps(answer))
    assert client.async_process.get_result("0e1f") == result


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("request_id '0e1f' not found", errors.NotFound),
        (
            "'Bob Tester' is not authorized to read results (access='owner', requester='Alice Tester')",
            errors.PermissionDenied,
        ),
    ],
)
def test_a_failure_to_look(
    client: PandaClient, recorder: Recorder, message: str, kind: type[errors.PandaError]
) -> None:
    recorder.answer = (200, json.dumps({"success": False, "message": message, "data": None}))
    with pytest.raises(kind):
        client.async_process.get_result("0e1f")
