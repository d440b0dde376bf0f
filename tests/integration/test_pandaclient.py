"""The unmodified panda-client 2.2.0 gets from the embedded server what it gets from a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from panda_airflow.devserver.server import DevServer
from tests.support.story import hear


@pytest.mark.parametrize("method", ["oidc", "x509_no_grid"])
def test_panda_client_tells_the_same_story(devserver: DevServer, tmp_path: Path, method: str) -> None:
    """Values as in the exchanges of panda-client 2.2.0 with a real server."""
    credential = (
        {"PANDA_AUTH": "oidc", "PANDA_AUTH_VO": "wlcg", "PANDA_AUTH_ID_TOKEN": devserver.token()}
        if method == "oidc"
        else {"PANDA_AUTH": method, "X509_USER_PROXY": str(devserver.proxy())}
    )
    told = hear(devserver, tmp_path, credential)
    missing = told.pop("get missing")
    assert missing[0] == 404
    assert "404 Not Found" in missing[1]
    assert told == {
        "hello": [0, ""],
        "put": [0, "True"],
        "put again": [0, "ERROR: cannot overwrite file"],
        "put reusing": [0, "NewFileName:sources.0a1b2c3d.tar.gz"],
        "get": [0, True],
        "got": True,
        "insert": [0, 0, "succeeded. new jediTaskID=N"],
        "status at once": [255, None],
        "insert again": [
            0, 1, "jediTaskID=N is already queued for outDS=user.bob.ok. You cannot submit duplicated tasks. ",
        ],
        "ends": "done",
        "kill done": [
            0, [False, "Command rejected: the kill command is not accepted if the task is in done status "],
        ],
        "retry done": [0, [4, "Command rejected: the retry command is not accepted if the task is in done status "]],
        "status unknown": [255, None],
        "kill unknown": [0, [False, "not the task owner or no production role"]],
        "retry unknown": [0, [None, "not the task owner or no production role"]],
        "half ends": "finished",
        "retry half": [0, 0, "command=retry is registered for task ID N. will be executed in a few minutes"],
        "half in the end": "done",
        "kill": [0, [True, 0]],
        "hang ends": "aborted",
    }  # fmt: skip
