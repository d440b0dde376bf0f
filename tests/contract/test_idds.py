"""Commands to iDDS: what goes over either route, and what becomes of iDDS's answers, as a real one gave them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client import errors
from panda_airflow.client.idds import EXECUTE, open_result, workflow_objects
from panda_airflow.client.session import PandaClient
from tests.support.recorder import Recorder

DATA = Path(__file__).parents[1] / "data"
LEGACY: list[dict[str, Any]] = json.loads((DATA / "idds_legacy.json").read_text())
V1 = json.loads((DATA / "exchanges" / "idds_relay_idds_command.json").read_text())["exchanges"]
REGISTERED = ["Command registered successfully"]

FAILS: dict[str, tuple[type[errors.PandaError], str]] = {
    "anonymous: NOT refused for read commands?": (errors.CredentialMissing, "SSL"),
    "no such request": (errors.NotFound, "request 1"),
    "form-encoded": (errors.NotFound, "iDDS has no request 1"),
    "get_status detail": (errors.Refused, "no attribute 'name'"),
    "suspend": (errors.InvalidArgument, "not a command"),
    "resume": (errors.InvalidArgument, "not a command"),
    "finish": (errors.InvalidArgument, "not a command"),
    "abort unknown": (errors.NotFound, "No match requests"),
    "get_messages": (errors.Refused, "Database exception"),
}
SUCCEEDS = {"submit(workflow)": 2, "retry": REGISTERED, "abort": REGISTERED}


def ask(client: PandaClient, path: str, command_name: str, **arguments: Any) -> Any:
    """Make the call that a captured request was made of."""
    if path.endswith("relay_idds_command"):
        return client.idds.call(command_name, **arguments)
    return client.idds.command(command_name, **json.loads(arguments["kwargs"]))


@pytest.mark.parametrize("captured", LEGACY, ids=lambda captured: captured["note"])
def test_the_legacy_route(client: PandaClient, recorder: Recorder, captured: dict[str, Any]) -> None:
    recorder.answer = (200, captured["body"])
    if captured["note"] in FAILS:
        kind, words = FAILS[captured["note"]]
        with pytest.raises(kind, match=words) as caught:
            ask(client, captured["path"], **captured["arguments"])
        assert caught.value.endpoint.startswith("idds/")
    else:
        value = ask(client, captured["path"], **captured["arguments"])
        assert value == SUCCEEDS.get(captured["note"], json.loads(captured["body"])[1])
    method, path, headers, body = recorder.request
    assert (method, path, headers["Content-Type"]) == ("POST", captured["path"], "application/json")
    assert "Content-Encoding" not in headers
    assert json.loads(gzip.decompress(body)) == captured["arguments"]


PINGS = [item for item in V1 if item["note"] in ("real iDDS behind", "manager ping")]
REFUSED: dict[str, type[errors.PandaError]] = {
    "someone else's request via relay (ownership is then checked by iDDS)": errors.PermissionDenied,
    "existing request": errors.ServerError,
    "get_status no such request": errors.Refused,
    "unknown command, iDDS configured": errors.InvalidArgument,
}


def by_v1(client: PandaClient, recorder: Recorder, captured: dict[str, Any]) -> Any:
    """Make a captured request by the newer route; what is sent is compared, whatever comes of it."""
    recorder.answer = (captured["response"]["status"], captured["response"]["body"])
    sent = dict(captured["request"]["json"])
    given = json.loads(sent.pop("kwargs", "{}"))
    try:
        return client.idds.call(sent.pop("command_name"), legacy=False, **sent, **given)
    finally:
        assert recorder.request[1] == "/api/v1/idds/relay_idds_command"
        assert json.loads(recorder.request[3]) == captured["request"]["json"]


@pytest.mark.parametrize("captured", PINGS, ids=lambda captured: captured["note"])
def test_a_value_by_the_newer_route(client: PandaClient, recorder: Recorder, captured: dict[str, Any]) -> None:
    assert by_v1(client, recorder, captured) == {"Status": "OK"}


@pytest.mark.parametrize("captured", [item for item in V1 if item["note"] in REFUSED], ids=lambda item: item["note"])
def test_a_refusal_by_the_newer_route(client: PandaClient, recorder: Recorder, captured: dict[str, Any]) -> None:
    with pytest.raises(REFUSED[captured["note"]]):
        by_v1(client, recorder, captured)


def test_a_result_that_cannot_be_written_says_which_route_can(client: PandaClient, recorder: Recorder) -> None:
    recorder.answer = (500, "Type not serializable for CommandType.NoneCommand (<enum 'CommandType'>)")
    with pytest.raises(errors.ServerError, match="carried out; the legacy route"):
        client.idds.call("get_requests", manager=True, legacy=False, request_id=1)


def test_a_server_without_the_legacy_route_is_asked_by_the_newer(client: PandaClient, recorder: Recorder) -> None:
    recorder.gone, recorder.answer = "/server/panda/relay_idds_command", (200, '{"success": true, "data": [true, 3]}')
    try:
        assert client.idds.call("submit", {"a": 1}) == 3
    finally:
        recorder.gone = ""
    assert json.loads(recorder.request[3]) == {"command_name": "submit", "args": '[{"a": 1}]'}


def test_objects_go_through_the_dumper_and_come_out_of_the_loader(client: PandaClient, recorder: Recorder) -> None:
    def dumper(value: Any) -> str:
        return json.dumps(value, default=lambda item: {"set": sorted(item)})

    def loader(text: str) -> Any:
        return json.loads(text, object_hook=lambda item: set(item["set"]) if "set" in item else item)

    recorder.answer = (200, '[true, [true, {"found": {"set": [3, 4]}}]]')
    found = client.idds.call("find", {1, 2}, manager=True, json_outputs=True, dumper=dumper, loader=loader, by={5})
    assert found == {"found": {3, 4}}
    assert json.loads(gzip.decompress(recorder.request[3])) == {
        "command_name": "find", "args": '[{"set": [1, 2]}]', "kwargs": '{"by": {"set": [5]}}', "manager": True,
        "json_outputs": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("route", "body"),
    [(True, '[true, [{}, "words"]]'), (False, '{{"success": true, "message": "words", "data": {}}}')],
)
@pytest.mark.parametrize("status", [0, -1])
def test_a_status_with_words_is_a_verdict(
    client: PandaClient, recorder: Recorder, route: bool, body: str, status: int
) -> None:
    recorder.answer = (200, body.format(status))
    if status == 0:
        assert client.idds.command("abort", 7, legacy=route) == "words"
    else:
        with pytest.raises(errors.Refused, match="words"):
            client.idds.command("abort", 7, legacy=route)


@pytest.mark.parametrize("value", [7, "text", None, [], [1, 2], {"data": 1}, {"Status": "OK"}, [{"request_id": 3}]])
def test_a_plain_value_is_itself_and_every_wrapping_opens(value: Any) -> None:
    assert open_result(EXECUTE, value) == value
    assert open_result(EXECUTE, [True, value]) == value
    assert open_result(EXECUTE, {"data": [True, value], "error": None, "status": 0}) == value
    with pytest.raises(errors.Refused, match="broken"):
        open_result(EXECUTE, {"data": value, "error": "broken", "status": -1})


def test_one_refused_request_among_many_is_an_error() -> None:
    verdicts = [[0, {"message": "fine", "status": 0}], [-1, {"message": "No match requests", "status": -1}]]
    with pytest.raises(errors.NotFound):
        open_result(EXECUTE, verdicts)


def test_workflow_objects_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "idds", None)
    with pytest.raises(errors.ConfigError, match=r"panda-airflow\[idds\]"):
        workflow_objects()
