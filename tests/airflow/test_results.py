"""What a step returns of a wait, and what may be missing from it; the server is a script."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from panda_airflow.client import ClientConfig, NotOurs, ServerError, TaskFailed
from panda_airflow.client.models import JobInfo, TaskDigest, TaskInfo
from panda_airflow.steps.result import MOST_JOBS, settle
from tests.support.tokens import jwt

AWAY = ServerError("HTTP 503")


def hook_of(**answers: Any) -> Any:
    """Stand in for the hook; what is no answer is an error."""
    asked = list[Any]()

    def ask(name: str) -> Any:
        def answer(*given: Any, **more: Any) -> Any:
            asked.append((name, more))
            if isinstance(told := answers.get(name, AWAY), Exception):
                raise told
            return told

        return answer

    names = ("get_detailed_info", "get_details", "get_job_descriptions")
    client = SimpleNamespace(task=SimpleNamespace(**{name: ask(name) for name in names}))
    config = ClientConfig(url_ssl="https://panda.example", auth="oidc", vo="wlcg", token=jwt())
    log = logging.getLogger(__name__)
    return SimpleNamespace(config=config, client=client, log=log, panda_conn_id="panda", asked=asked)


def event(kind: str = "ended", status: str = "done", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "task_id": 42, "status": status, "note": "why", **more}


KNOWN: dict[str, Any] = {"name": "user.bob.fit", "files": {"total": 1, "finished": 1, "failed": 0}}


def test_a_result_that_the_event_tells_whole_asks_nothing() -> None:
    hook = hook_of()
    result = settle(hook, event(**KNOWN, output_datasets=["user.bob.out"]))
    assert result == KNOWN | {
        "jedi_task_id": 42,
        "server": "https://panda.example",
        "status": "done",
        "output_datasets": ["user.bob.out"],
        "monitor_url": hook.config.task_page(42),
    }
    assert hook.asked == []


def test_a_success_of_which_it_cannot_be_read_what_was_made_is_none() -> None:
    for known in ({}, KNOWN):
        with pytest.raises(ServerError):
            settle(hook_of(), event(**known))
    with pytest.raises(ServerError):
        settle(hook_of(get_details=TaskDigest()), event())
    assert settle(hook_of(), event(**KNOWN), datasets=False)["output_datasets"] == []
    info = TaskInfo(42, name="user.bob.fit", status="done")
    digest = TaskDigest()
    result = settle(hook_of(get_detailed_info=info, get_details=digest), event())
    assert (result["name"], result["output_datasets"]) == ("user.bob.fit", [])


def test_a_failure_is_one_though_nothing_else_can_be_read() -> None:
    hook = hook_of()
    with pytest.raises(TaskFailed, match=r"ended as failed[\s\S]*https?://\S+42[\s\S]*It is tried again"):
        settle(hook, event("failed", "failed"), "It is tried again.")
    assert [name for name, _ in hook.asked] == ["get_detailed_info", "get_details", "get_job_descriptions"]


@pytest.mark.parametrize(("jobs", "only_bad"), [(0, True), (1, False), (MOST_JOBS, False), (MOST_JOBS + 1, True)])
def test_all_jobs_of_a_small_task_explain_its_failure(jobs: int, only_bad: bool) -> None:
    digest = TaskDigest(job_ids=list(range(1, jobs + 1)))
    failed = JobInfo(1, status="failed")
    hook = hook_of(get_detailed_info=TaskInfo(42, status="failed"), get_details=digest, get_job_descriptions=[failed])
    with pytest.raises(TaskFailed, match="1 failed"):
        settle(hook, event("failed", "failed"))
    assert hook.asked[-1] == ("get_job_descriptions", {"unsuccessful_only": only_bad})


def test_of_what_was_not_waited_for_nothing_is_asked() -> None:
    hook = hook_of()
    assert settle(hook, event(status=""))["output_datasets"] == []
    assert hook.asked == []


@pytest.mark.parametrize("kind", ["outage", "error"])
def test_what_could_not_be_looked_at_is_not_asked_for_more(kind: str) -> None:
    hook = hook_of()
    with pytest.raises(Exception, match="PanDA task 42 c"):
        settle(hook, event(kind, "running"))
    assert hook.asked == []


def test_a_wait_for_the_task_of_another_server_tells_nothing_here() -> None:
    hook = hook_of()
    with pytest.raises(NotOurs, match=r"PanDA task 42, which was waited for, belongs to .* https://other"):
        settle(hook, event(**KNOWN, account={"server": "https://other:443"}))
    assert hook.asked == []
    here = {"server": "https://panda.example"}
    assert settle(hook, event(**KNOWN, output_datasets=[], account=here))["status"] == "done"
