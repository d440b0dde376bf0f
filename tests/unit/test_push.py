"""What is made of a message of the broker, and what may name a broker."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client import ClientConfig, ConfigError
from panda_airflow.waiting.feed import push

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
BROKER = {"url": "http://panda:25080", "auth": "oidc", "vo": "wlcg"}


@given(task_id=st.integers(1, 2**63 - 1), status=st.text(), timestamp=st.integers(0))
def test_a_change_of_a_task_is_read_as_the_server_writes_it(task_id: int, status: str, timestamp: int) -> None:
    message = {"msg_type": "task_status", "taskid": task_id, "status": status, "timestamp": timestamp}
    assert push.read(json.dumps(message)) == (task_id, status)


@given(rest=st.dictionaries(st.sampled_from(["jobid", "taskid", "status", "inputs"]), VALUES))
def test_what_the_server_tells_of_jobs_is_no_change_of_a_task(rest: dict[str, object]) -> None:
    assert push.read(json.dumps({"msg_type": "job_status"} | rest)) is None


@given(
    body=st.text()
    | st.binary().map(lambda body: body.decode(errors="replace"))
    | VALUES.map(json.dumps)
    | st.dictionaries(st.sampled_from(["taskid", "status"]), VALUES).map(
        lambda rest: json.dumps({"msg_type": "task_status"} | rest)
    )
    | st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "9" * 10_000])
)
def test_any_other_message_is_refused_in_one_way(body: str) -> None:
    with suppress(ValueError):
        change = push.read(body)
        assert change is None or list(map(type, change)) in ([int, str], [bool, str])


@pytest.mark.parametrize("url", ["broker:61613", "http://broker:61613", "stomp://", "stomp://broker:port"])
def test_what_is_no_address_of_a_broker_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="push_url"):
        ClientConfig.from_env({}, **BROKER, push_url=url, push_destination="/topic/panda.status").validate()


@pytest.mark.parametrize("destination", ["", "/queue/panda.status", "panda.status"])
def test_a_queue_that_others_read_is_not_emptied(destination: str) -> None:
    with pytest.raises(ConfigError, match="/topic/"):
        ClientConfig.from_env({}, **BROKER, push_url="stomp://broker:61613", push_destination=destination).validate()


def test_the_password_is_not_shown() -> None:
    assert "a-password" not in repr(ClientConfig(push_password="a-password"))
