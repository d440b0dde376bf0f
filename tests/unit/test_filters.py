from __future__ import annotations

import json

import pytest

from panda_airflow.client import InvalidArgument, PandaClient, UsageError
from panda_airflow.client.config import ClientConfig
from panda_airflow.steps.record import name_filter
from tests.support.recorder import Recorder


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"jediTaskID": 5}, "the filter jediTaskID is 5; the server compares with text only"),
        ({"status": None}, "the filter status is None"),
        ({"taskname": ["a"]}, "the filter taskname is"),
        ({"statsu": "done"}, "'statsu', which they do not have; nothing was sent. Did you mean status?"),
        ({"nFiles": "3"}, "'nFiles', which they do not have"),
    ],
)
def test_a_filter_that_a_server_cannot_compare_is_refused_before_it_is_sent(
    filters: dict[str, object], says: str
) -> None:
    with Recorder.running() as server, PandaClient(config(server)) as client:
        with pytest.raises(UsageError) as refused:
            client.task.get_tasks_detailed_info_since(filters=json.dumps(filters))
        assert server.request[0] == ""
    assert says in str(refused.value)


@pytest.mark.parametrize("filters", [None, "{}", name_filter("a(b)"), json.dumps({"JediTaskId": "5", "status": "^d"})])
def test_other_filters_are_sent(filters: str | None) -> None:
    with Recorder.running() as server, PandaClient(config(server)) as client:
        server.answer = 200, '{"success": true, "message": "", "data": []}'
        assert client.task.get_tasks_detailed_info_since(filters=filters) == []
        assert server.request[0] == "GET"


def test_what_is_no_json_is_left_to_the_server() -> None:
    with Recorder.running() as server, PandaClient(config(server)) as client:
        server.answer = 200, '{"success": false, "message": "filters is not valid JSON", "data": null}'
        with pytest.raises(InvalidArgument):
            client.task.get_tasks_detailed_info_since(filters="{bad")


def config(server: Recorder) -> ClientConfig:
    return ClientConfig(url=server.url, auth="oidc", vo="wlcg", token="t", attempts=1)
