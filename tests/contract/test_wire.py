"""The unmodified panda-client 2.2.0 and the drop-in make the same calls: same requests, same results.

The answers are those of a real server. Every difference is in DIFFERENCES, and everything there is one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from panda_airflow.pandaclient import Client
from panda_airflow.pandaclient.calls import TABLE
from tests.support.case_recorder import CaseRecorder, Fields
from tests.support.tokens import jwt

DATA = Path(__file__).parents[1] / "data"
TASK = {"taskName": "user.bob.é", "vo": "wlcg", "prodSourceLabel": "user", "jobParameters": [{"value": "x"}]}
JOB = {
    "jobName": "user.bob.1",
    "VO": "wlcg",
    "maxAttempt": 3,
    "Files": [{"lfn": "x.root", "type": "input", "fsize": 5}],
}
EVENTS = [
    "runs",
    "AOD",
    "physics_Main",
    "data.x",
    "r1",
    ["a.root", ""],
    "more",
    "user.bob.x.y",
    "prun",
    "-p",
    3,
    True,
    "e",
]
WORKFLOW = {"language": "cwl", "outDS": "user.bob.wf"}

SAMPLES: dict[str, list[tuple[Any, ...]]] = {
    "call_idds_command": [
        ("ping", None, None, None, False, True),
        ("ping",),
        ("get_requests", [1], {"request_id": 1}, None, False, True, True, None, True),
    ],
    "call_idds_user_workflow_command": [("get_status",), ("abort", {"request_id": 1}, False, True)],
    "finishTask": [(2,), (2, True)],
    "get_cert_attributes": [()],
    "get_events_status": [([],), ([{"task_id": 1, "panda_id": 2}],)],
    "get_files_in_datasets": [(2,), (2, "output,log")],
    "get_job_descriptions": [(2,), (2, True)],
    "get_parent_detailed_info": [(2,)],
    "get_task_details_json": [(2,)],
    "get_tasks_detailed_info_since": [(), ("2026-11-22 00:00:00", {"status": "done"}, 7)],
    "get_user_secrets": [()],
    "get_workflow_details": [(1,)],
    "getFile": [("sources.1.tar.gz",), ("a/b c.log", "copy")],
    "getFullJobStatus": [([4, 5],)],
    "getJediTaskDetails": [({"jediTaskID": 2, "mine": 1}, False, True), ({"jediTaskID": 2}, True, False)],
    "getJobIDsJediTasksInTimeRange": [("2026-11-22 00:00:00",), ("2026-11-22 00:00:00", "Bob", 7, False, "managed")],
    "getJobStatus": [([4],)],
    "getPandaIDsWithTaskID": [(2,)],
    "getTaskParamsMap": [(2,)],
    "getTaskStatus": [(2,)],
    "getUserJobMetadata": [(2,)],
    "hello": [()],
    "increase_attempt_nr": [(2,), (2, 5)],
    "insertTaskParams": [(TASK,), (TASK, False, False, 5), (TASK, False, True)],
    "killJobs": [([4, 5],)],
    "killTask": [(2,)],
    "pauseTask": [(2, False)],
    "putFile": [("sources.1.tar.gz",), ("sources.1.tar.gz", False, True), ("sources.1.tar.gz", False, False, True)],
    "reactivateTask": [(2, False)],
    "reload_input": [(2, False)],
    "requestEventPicking": [tuple(EVENTS)],
    "resumeTask": [(2, False)],
    "retryTask": [(2,), (2, False, True, {"nEvents": 4})],
    "send_file_recovery_request": [(2,), (2, True)],
    "send_workflow_request": [(WORKFLOW,), (WORKFLOW, None, True)],
    "set_user_secret": [("K", "V"), ("K", None), (None, None)],
    "setDebugMode": [(2, True, False)],
    "submit_workflow": [(WORKFLOW,)],
    "submitJobs": [({"jobs": [JOB]},)],
    "update_events": [([{"eventRangeID": "1-2", "eventStatus": "finished"}],)],
}
"""Arguments of the calls by function."""

CARELESS: list[tuple[str, tuple[Any, ...]]] = [
    ("putFile", ("nosuch.tar.gz",)),
    ("putFile", (".",)),
    ("putFile", ("small", False, False, True)),
    ("putFile", ("./sources.1.tar.gz",)),
    ("getFile", ("sources.1.tar.gz", "nosuch/copy")),
    *((function, (task_id,)) for function in ("getTaskStatus", "killTask", "get_task_details_json", "insertTaskParams")
      for task_id in (None, True)),
    ("killJobs", ([None],)),
    ("killJobs", ([True],)),
    ("getJobIDsJediTasksInTimeRange", (None,)),
    ("insertTaskParams", (TASK | {"x": float("nan")},)),
    ("submit_workflow", ({"x": float("nan")},)),
]  # fmt: skip
"""Calls with arguments that nobody means."""

LOCAL: list[tuple[str, tuple[Any, ...]]] = [
    *(("getDN", (dn,)) for dn in ("/DC=ch/CN=jdoe/CN=12/CN=John Q. Doe 42", "/CN=jdoe/CN=proxy", "/CN=1/CN=x", "none")),
    *(("is_https", (url,)) for url in ("https://x", "http://x")),
    ("hide_sensitive_info", ('curl -H "Authorization: Bearer a.b.c" x',)),
    ("get_token_string", (None, False)),
    ("get_new_token", ()),
    ("get_user_name_from_token", ()),
    ("use_oidc", ()),
    ("use_x509_no_grid", ()),
]
"""Functions that ask no server, and their arguments."""

PATHS = {"putFile": "file_server/upload_cache_file", "requestEventPicking": "file_server/upload_event_picking_request"}
LEGACY = ['[true, {"Status": "OK"}]', '[false, "request 1 is not found"]', '[true, [0, "registered"]]']
ANSWERS = {
    "call_idds_command": LEGACY,
    "call_idds_user_workflow_command": LEGACY,
    "get_events_status": ['{"success": true, "message": "", "data": {}}'],
    "get_workflow_details": ['{"success": true, "message": "", "data": {"workflow_id": 1}}'],
    "getFile": ["the content"],
    "send_workflow_request": ['[true, {"status": false, "log": "x"}]', '[false, "SSL secure connection is required"]'],
    "submitJobs": ['{"success": true, "message": "", "data": [[7, 1, {"jobsetID": 2}]]}'],
    "update_events": ['{"success": true, "message": "", "data": {"Returns": [true], "StatusCode": 0}}'],
}
"""What a server answers where no exchange is kept, in addition to those that are."""

ACCEPTED = [(200, '{"success": true, "message": "", "data": 0}')]
REFUSED = (403, "ERROR : method x is forbidden")
FOUND = '{"success": true, "message": "FOUND:127.0.0.1:sources.0.tar.gz", "data": null}'
TAKEN = '{"success": false, "message": "ERROR: cannot overwrite file", "data": null}'
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

SPELLING = "the server reads both alike; true is what its documentation says"
UNSAID = "what is not asked for is left out, not sent as the word None"
BODY = "without a Content-Type the server ignores the form: these calls always fail; a zipped JSON body works"
WORDS = "a failure is a sentence that says what to do, and is returned wherever the reference promises a message"
PROMISED = (
    "call_idds_command", "call_idds_user_workflow_command", "getFile", "getPandaIDsWithTaskID", "getTaskParamsMap",
    "getTaskStatus", "getUserJobMetadata", "get_cert_attributes", "get_files_in_datasets", "get_task_details_json",
    "hello", "insertTaskParams", "pauseTask", "putFile", "reactivateTask", "resumeTask", "send_workflow_request",
)  # fmt: skip

CARELESS_WHY = (
    "an ID that is True or None, NaN, a file or directory that is not there: nothing is sent, and the answer is a "
    "failure; panda-client raises, or sends it"
)
CALLED_CARELESSLY = (
    "getFile",
    "getTaskStatus",
    "get_task_details_json",
    "insertTaskParams",
    "killJobs",
    "killTask",
    "submit_workflow",
)

DIFFERENCES: dict[str, str] = (
    {f"{name}: result of HTTP 403": WORDS for name in PROMISED}
    | {
        f"{name}: {what} of careless arguments": CARELESS_WHY
        for name in CALLED_CARELESSLY
        for what in ("result", "requests")
    }
    | {
        "putFile: result of careless arguments": "a file that cannot be read is a failure, and a short one is uploaded",
        "putFile: requests of careless arguments": "the same",
        "*: header content-type": "a body is described where there is one, and nowhere else",
        "*: header accept": "JSON is asked for everywhere",
        "call_idds_command: body is zipped": BODY,
        "call_idds_command: body command_name": BODY,
        "call_idds_user_workflow_command: body is zipped": BODY,
        "call_idds_user_workflow_command: body command_name": BODY,
        "call_idds_user_workflow_command: body json_outputs": BODY,
        "call_idds_user_workflow_command: body kwargs": BODY,
        "requestEventPicking: *": "the form is ignored, as above, and panda-client ends the interpreter; /api/v1 works",
        "getJediTaskDetails: query include_parameters": SPELLING,
        "getJediTaskDetails: query include_status": SPELLING,
        "getJobIDsJediTasksInTimeRange: query full": SPELLING,
        "get_job_descriptions: query unsuccessful_only": SPELLING,
        "getJobIDsJediTasksInTimeRange: query dn": UNSAID,
        "getJobIDsJediTasksInTimeRange: query min_task_id": UNSAID,
        "get_events_status: query job_task_ids": "the server reads JSON, not what Python prints",
        "update_events: body event_ranges": "the server reads the list from a text",
        "getFile: header authorization": "the cache is open: a token is not shown to whoever keeps it",
        "getFile: header origin": "the same",
        "putFile: requests": "where a name is taken, what is there is compared",
        "putFile: result of a refusal": "the same content under the same name is the success it is",
        "setDebugMode: result of a refusal": "the server's words, as documented, not its inverted verdict",
        "setDebugMode: result of a success": "the same",
        "putFile: body file": "a file goes under its own name, not under the path that was given",
        "getJobIDsJediTasksInTimeRange: query since": UNSAID,
        "insertTaskParams: result of a success": "code 3 says that an ended task runs again, with properErrorCode",
    }
)
"""Function, or ``*`` for all, and field; and why the drop-in is different there."""


class Case(NamedTuple):
    """A call and what the server answers."""

    function: str
    arguments: tuple[Any, ...]
    answers: list[tuple[int, str]]
    careless: bool = False

    @property
    def kind(self) -> str:
        """What kind of answer it is, for the table of differences."""
        if self.careless:
            return "careless arguments"
        status, body = self.answers[0]
        if status != 200:
            return f"HTTP {status}"
        return "a refusal" if body.startswith(('{"success": false', "[false")) else "a success"


def answers_to(function: str) -> list[tuple[int, str]]:
    """What a real server answered this function's method; those errors that are worth repeating are left out."""
    path = TABLE[function].path if function in TABLE else PATHS.get(function, "")
    found = [(200, body) for body in ANSWERS.get(function, [])]
    for file in sorted((DATA / "exchanges").glob("*.json")):
        for item in json.loads(file.read_text())["exchanges"]:
            asked = item["request"]["path"], item["request"]["accept"]
            if asked == (f"/api/v1/{path}", "application/json") and function not in ANSWERS:
                found.append((item["response"]["status"], item["response"]["body"]))
    return [answer for answer in dict.fromkeys(found) if answer[0] < 500]


def cases() -> list[Case]:
    """Every function with every answer, and every way to call it with the first success."""
    made = []
    for function, samples in SAMPLES.items():
        answers = [*answers_to(function), REFUSED]
        made += [Case(function, samples[0], [answer]) for answer in answers]
        made += [Case(function, sample, [answer]) for sample in samples[1:] for answer in answers]
    made += [Case(function, arguments, ACCEPTED, careless=True) for function, arguments in CARELESS]
    made += [Case(function, arguments, [REFUSED]) for function, arguments in LOCAL]
    made += [Case("putFile", ("sources.1.tar.gz",), [(200, TAKEN), (200, "the content")])]
    return [*made, Case("putFile", ("sources.1.tar.gz", False, True, True), [(200, FOUND)])]


CASES = cases()


class Recorded(NamedTuple):
    """What a client sent and returned, case by case."""

    requests: list[list[Fields]]
    results: list[str]


def record(package: str, folder: Path) -> Recorded:
    """Make all calls with one package, in a process of its own."""
    folder.mkdir()
    (folder / "sources.1.tar.gz").write_text("the content")
    (folder / "small").write_text("x")
    (folder / "runs").write_text("1 2 X\n3 4 Y\n")
    (folder / "more").write_text("b.root\n\n")
    listed = folder / "cases.json"
    listed.write_text(json.dumps([[case.function, case.arguments, {}] for case in CASES]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PANDA", "X509", "OIDC"))}
    with CaseRecorder.running([case.answers for case in CASES]) as server:
        environment |= {
            "PANDA_URL": f"{server.url}/server/panda",
            "PANDA_URL_SSL": f"{server.url}/server/panda",
            "PANDACACHE_URL": f"{server.url}/server/panda",
            "PANDA_BEHIND_REAL_LB": "1",
            "PANDA_AUTH": "oidc",
            "PANDA_AUTH_VO": "wlcg",
            "PANDA_AUTH_ID_TOKEN": TOKEN,
            "PANDA_CONFIG_ROOT": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "NO_PROXY": "*",
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.contract.both_clients", package, server.url, str(listed)],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        _, told, results = done.stdout.rpartition("TOLD")
        assert told, done.stdout + done.stderr
        return Recorded(server.requests, json.loads(results.replace(server.url, "SERVER")))


TOKEN = jwt()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, Recorded]:
    """What panda-client and the drop-in did."""
    folder = tmp_path_factory.mktemp("wire")
    return record("pandaclient", folder / "theirs"), record("panda_airflow.pandaclient", folder / "ours")


@pytest.fixture(scope="module")
def found(recorded: tuple[Recorded, Recorded]) -> dict[str, str]:
    """All differences, each with an example."""
    theirs, ours = recorded
    differences: dict[str, str] = {}
    for number, case in enumerate(CASES):
        sent = theirs.requests[number], ours.requests[number]
        for their_request, our_request in zip(*sent, strict=False):
            for field in their_request.keys() | our_request.keys():
                note(differences, f"{case.function}: {field}", their_request.get(field), our_request.get(field))
        note(
            differences,
            f"{case.function}: {f'requests of {case.kind}' if case.careless else 'requests'}",
            *map(len, sent),
        )
        note(differences, f"{case.function}: result of {case.kind}", theirs.results[number], ours.results[number])
    return differences


def note(differences: dict[str, str], key: str, theirs: Any, ours: Any) -> None:
    """Keep a difference, which the name of a new dataset is not."""
    if UUID.sub("UUID", str(theirs)) != UUID.sub("UUID", str(ours)):
        differences[key] = f"panda-client: {str(theirs)[:300]}, drop-in: {str(ours)[:300]}"


def entries(key: str) -> set[str]:
    """What the table may call a difference."""
    function, _, field = key.partition(": ")
    return {key, f"*: {field}", f"{function}: *"}


def expected(key: str) -> bool:
    return not entries(key).isdisjoint(DIFFERENCES)


def test_every_difference_is_in_the_table(found: dict[str, str]) -> None:
    assert {key: example for key, example in found.items() if not expected(key)} == {}


def test_everything_in_the_table_is_a_difference(found: dict[str, str]) -> None:
    assert DIFFERENCES.keys() - {entry for key in found for entry in entries(key)} == set()


def test_every_function_that_asks_the_server_is_called() -> None:
    assert set(Client.__all__) > SAMPLES.keys()
    assert TABLE.keys() | {"putFile", "getFile", "requestEventPicking", "send_workflow_request"} == SAMPLES.keys()


SEEN: dict[str, list[tuple[str, str]]] = json.loads((DATA / "pandaclient_results.json").read_text())
"""What panda-client 2.2.0 returned from a real server, where that server's answer is among those replayed here."""


@pytest.mark.parametrize("identity", SEEN)
def test_the_drop_in_returns_what_panda_client_returned_from_a_real_server(
    recorded: tuple[Recorded, Recorded], identity: str
) -> None:
    returned = {(case.function, result) for case, result in zip(CASES, recorded[1].results, strict=True)}
    assert [item for item in SEEN[identity] if (item[0].partition("(")[0], item[1]) not in returned] == []
