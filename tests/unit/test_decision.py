"""What a step does about its PanDA task, as a table: from what it remembers, what it sees and what it is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.status import ABOUT_TO_ABORT, ACTIVE_STATUSES, FINAL_STATUSES, RETRYABLE_STATUSES, classify
from panda_airflow.steps.decision import Action, Decision, Situation, decide, submission_retry
from panda_airflow.steps.record import SubmissionRecord

CHANGED = datetime(2026, 1, 1)  # noqa: DTZ001 - naive UTC, as the server has it
KNOWN = SubmissionRecord("name", task_id=42, key="a key")
INTENT = replace(KNOWN, task_id=None)
UNSENT = replace(INTENT, sent=False)
ADOPTED = replace(KNOWN, owned=False)
DUPLICATE = "toabort since there is duplicated task -> jediTaskID=15"


def task(status: str, error_dialog: str = "", attempt_nr: int = 0) -> TaskInfo:
    return TaskInfo(42, status=status, error_dialog=error_dialog, attempt_nr=attempt_nr, state_change_time=CHANGED)


RERUN = replace(KNOWN, mark=Mark.of(task("done")), newest_job=7, owned=False)
RETRIED = replace(KNOWN, mark=Mark.of(task("running")))
CLEAR: dict[str, Any] = {"unwanted": "the step was cleared", "cleared": True}
TWIN: dict[str, Any] = {"info": task("aborted", DUPLICATE)}
CHANGE: dict[str, Any] = {"unwanted": "the parameters have changed"}

TABLE: list[tuple[str, SubmissionRecord | None, dict[str, Any], Action, bool]] = [
    ("a first try", None, {}, Action.SUBMIT, False),
    ("nothing was sent", UNSENT, {}, Action.SUBMIT, False),
    ("nothing was sent, elsewhere", UNSENT, {"elsewhere": True}, Action.SUBMIT, False),
    ("an intent", INTENT, {}, Action.FIND, False),
    ("an intent before a clear", INTENT, CLEAR, Action.FIND, False),
    ("an intent, elsewhere", INTENT, {"elsewhere": True}, Action.REFUSE, False),
    ("invisible", KNOWN, {"ours": None}, Action.FOLLOW, False),
    ("running", KNOWN, {"info": task("running")}, Action.FOLLOW, False),
    ("a word that nobody knows", KNOWN, {"info": task("sublimating")}, Action.FOLLOW, False),
    ("done", KNOWN, {"info": task("done")}, Action.FOLLOW, False),
    ("done is not accepted", KNOWN, {"info": task("done"), "accepted": ("finished",)}, Action.FOLLOW, False),
    ("finished is", KNOWN, {"info": task("finished"), "accepted": ("finished",)}, Action.FOLLOW, False),
    ("finished", KNOWN, {"info": task("finished")}, Action.RETRY, False),
    ("failed", KNOWN, {"info": task("failed")}, Action.RETRY, False),
    ("exhausted", KNOWN, {"info": task("exhausted")}, Action.RETRY, False),
    ("failed, no telling whose", KNOWN, {"info": task("failed"), "ours": None}, Action.FOLLOW, False),
    ("failed, adopted", ADOPTED, {"info": task("failed")}, Action.FOLLOW, False),
    ("broken", KNOWN, {"info": task("broken")}, Action.REPLACE, False),
    ("aborted", KNOWN, {"info": task("aborted")}, Action.REPLACE, False),
    ("aborting", KNOWN, {"info": task("aborting")}, Action.REPLACE, False),
    # somebody else's
    ("a stranger's", KNOWN, {"info": task("done"), "ours": False}, Action.REFUSE, False),
    ("a stranger's, aborted", KNOWN, {"info": task("aborted"), "ours": False}, Action.REFUSE, False),
    ("a stranger's, and a change", KNOWN, {"info": task("running"), "ours": False} | CHANGE, Action.REFUSE, False),
    ("a stranger's, and a clear", KNOWN, {"info": task("running"), "ours": False} | CLEAR, Action.REPLACE, False),
    ("elsewhere", KNOWN, {"elsewhere": True}, Action.REFUSE, False),
    ("elsewhere, and a change", KNOWN, {"elsewhere": True} | CHANGE, Action.REFUSE, False),
    ("elsewhere, and a clear", KNOWN, {"elsewhere": True} | CLEAR, Action.REPLACE, False),
    # another task is wanted
    ("cleared while it runs", KNOWN, {"info": task("running")} | CLEAR, Action.REPLACE, True),
    ("cleared while it is invisible", KNOWN, {"ours": None} | CLEAR, Action.REPLACE, True),
    ("cleared after its end", KNOWN, {"info": task("done")} | CLEAR, Action.REPLACE, False),
    ("cleared, adopted", ADOPTED, {"info": task("running")} | CLEAR, Action.REPLACE, False),
    ("changed while it runs", KNOWN, {"info": task("running")} | CHANGE, Action.REPLACE, True),
    # a twin
    ("a duplicate", KNOWN, TWIN, Action.TWIN, False),
    ("a duplicate of its own, cleared", KNOWN, TWIN | {"own_twin": 15} | CLEAR, Action.TWIN, False),
    ("a duplicate of another's, cleared", KNOWN, TWIN | CLEAR, Action.REPLACE, False),
    ("the words of a duplicate", KNOWN, {"info": task("failed", DUPLICATE)}, Action.RETRY, False),
    # run again by its name
    ("not run again yet", RERUN, {"info": task("done")}, Action.FOLLOW, False),
    ("never run again", RERUN, {"info": task("done"), "overdue": True}, Action.FIND, False),
    ("not run again yet, invisible", RERUN, {"ours": None}, Action.FOLLOW, False),
    ("running where it stood before", RETRIED, {"info": task("running"), "overdue": True}, Action.FOLLOW, False),
    ("run again, and cleared", RERUN, {"info": task("running", attempt_nr=1)} | CLEAR, Action.REPLACE, False),
    ("run again", RERUN, {"info": task("failed", attempt_nr=1), "overdue": True}, Action.RETRY, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "seen", "action", "kill"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_a_step_does_about_its_task(
    record: SubmissionRecord | None, seen: dict[str, Any], action: Action, kill: bool
) -> None:
    decision = decide(Situation(record, **seen))
    assert (decision.action, decision.kill) == (action, kill)


@pytest.mark.parametrize("status", sorted(ACTIVE_STATUSES - ABOUT_TO_ABORT))
def test_an_active_task_is_waited_for(status: str) -> None:
    assert decide(Situation(KNOWN, task(status))) == Decision(Action.FOLLOW)


records = st.none() | st.sampled_from([KNOWN, INTENT, UNSENT, ADOPTED, RERUN])
situations = st.builds(
    Situation,
    records,
    info=st.none()
    | st.builds(task, st.sampled_from(sorted(ACTIVE_STATUSES | FINAL_STATUSES)), st.sampled_from(["", DUPLICATE])),
    ours=st.sampled_from([True, False, None]),
    accepted=st.sets(st.sampled_from(sorted(FINAL_STATUSES))),
    elsewhere=st.booleans(),
    unwanted=st.sampled_from(["", "the parameters have changed"]),
    own_twin=st.sampled_from([None, 15]),
    overdue=st.booleans(),
) | st.builds(
    Situation, records, unwanted=st.just("the step was cleared"), cleared=st.just(True), elsewhere=st.booleans()
)


@given(situations)
def test_what_is_not_proven_to_be_ours_is_neither_killed_nor_retried_nor_believed(now: Situation) -> None:
    decision = decide(now)
    record = now.record or UNSENT
    is_foreign = record.sent and (now.elsewhere or (record.task_id is not None and now.ours is False))
    if is_foreign:
        assert decision.action in (Action.REFUSE, Action.REPLACE)
        assert not decision.kill
        assert (decision.action is Action.REPLACE) == now.cleared
    if decision.action is Action.RETRY:
        assert now.ours is True
        assert now.record
        assert now.record.owned
    if decision.kill:
        assert now.record
        assert now.record.owned
        assert now.ours is not False


@given(situations)
def test_a_task_is_replaced_or_retried_only_for_a_reason(now: Situation) -> None:
    action, info = decide(now).action, now.info
    is_lost = info is not None and (classify(info.status).is_final or info.status in ABOUT_TO_ABORT)
    if action is Action.REPLACE and not (now.unwanted or now.cleared):
        assert is_lost
        assert info
        assert info.status not in {"done", *now.accepted, *RETRYABLE_STATUSES}
    if action is Action.RETRY:
        assert info
        assert info.status in RETRYABLE_STATUSES - set(now.accepted)
    assert (action is Action.SUBMIT) == (now.record is None or not now.record.sent)


def test_a_refusal_says_whose_the_task_is() -> None:
    assert decide(Situation(KNOWN, elsewhere=True)).why == "it belongs to another server or user"
    assert decide(Situation(KNOWN, task("done"), ours=False)).why == "it is the task of somebody else"


IN_PLACE, ANEW = "retries the PanDA task in place", "submits the work anew under another name"
SAID: list[tuple[str, str, dict[str, Any], str]] = [
    ("failed", "failed", {}, f"A retry of this step {IN_PLACE}."),
    ("failed", "aborted", {}, f"A retry of this step {ANEW}."),
    ("outage", "running", {}, "A retry of this step waits on for the task."),
    ("failed", "failed", {"last": True}, "A clear of this step submits the work anew"),
    ("failed", "failed", {"last": True, "on_clear": "continue"}, "A clear of this step goes on with this PanDA task"),
    ("failed", "failed", {"last": True, "durable": False}, "This was the last try."),
    ("failed", "failed", {"may_retry": False}, "it only looks at it again"),
    ("failed", "failed", {"may_retry": False, "last": True}, "it only looks at it again"),
    ("failed", "aborted", {"may_retry": False}, f"A retry of this step {ANEW}."),
    ("failed", "failed", {"durable": False}, f"A retry of this step {ANEW}, and kills what still runs."),
    ("timeout", "running", {}, "submits anew under another name once it is aborted"),
    ("timeout", "running", {"killed": False}, "The timeout counts from the submission"),
    ("timeout", "running", {"durable": False}, f"A retry of this step {ANEW}, and kills what still runs."),
]


@pytest.mark.parametrize(("kind", "status", "how", "said"), SAID)
def test_what_a_retry_does_is_told(kind: str, status: str, how: dict[str, Any], said: str) -> None:
    assert said in submission_retry(42, kind, status, **how)
