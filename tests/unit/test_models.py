"""What the typed values make of the server's data."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.errors import ServerError
from panda_airflow.client.http.envelope import decode, encode
from panda_airflow.client.models import (
    CacheFile,
    DatasetFiles,
    Envelope,
    JobInfo,
    JobState,
    ServerView,
    Submission,
    TaskDigest,
    TaskInfo,
    TaskRow,
    UserAttributes,
    named_task_id,
)
from panda_airflow.client.records import Record
from tests.objects import JSON, objects_of, spelled

RECORDS: list[type[Record]] = Record.__subclasses__()


@given(JSON)
def test_times_and_everything_else_survive_the_wire(value: Any) -> None:
    assert decode(encode(value)) == value


def test_times_are_marked_as_the_server_marks_them() -> None:
    text = '{"stateChangeTime": {"__datetime__": "2026-11-22T11:42:40.633588"}}'
    value = {"stateChangeTime": datetime(2026, 11, 22, 11, 42, 40, 633588)}  # noqa: DTZ001 - naive UTC
    assert decode(text) == value
    assert encode(value) == text


@pytest.mark.parametrize("record", RECORDS)
@given(data=st.data())
def test_an_object_makes_a_record_and_is_kept(record: type[Record], data: st.DataObject) -> None:
    sent = data.draw(objects_of(record))
    made = record.from_data(sent)
    assert made.raw == sent  # type: ignore[attr-defined]
    for item in fields(made):  # type: ignore[arg-type]
        value = getattr(made, item.name)
        assert not isinstance(value, str) or value == value.strip() != "NULL"


@pytest.mark.parametrize("record", RECORDS)
@given(data=st.data())
def test_any_other_object_makes_none(record: type[Record], data: st.DataObject) -> None:
    sent = data.draw(st.dictionaries(st.sampled_from(spelled(record)) | st.text(), JSON, max_size=6))
    try:
        made = record.from_data(sent)
    except TypeError:
        return
    for item in fields(made):  # type: ignore[arg-type]
        value, default = getattr(made, item.name), getattr(record(), item.name)
        assert item.name == "raw" or isinstance(value, type(default) if default is not None else datetime | None)
        assert not (item.metadata.get("id") and isinstance(value, bool))


def test_every_record_is_tested() -> None:
    assert {TaskInfo, TaskRow, TaskDigest, JobInfo, JobState, UserAttributes} <= set(RECORDS)


def test_padding_and_the_word_null_stand_for_nothing() -> None:
    job = JobInfo.from_data({"computingSite": "CERN  ", "transExitCode": "NULL  ", "jobStatus": None})
    assert (job.site, job.exit_code, job.status) == ("CERN", "", "")


def test_what_went_wrong_in_a_job_is_listed_by_component() -> None:
    job = JobInfo.from_data(
        {
            "pilotErrorCode": 1305,
            "pilotErrorDiag": "Failed to execute payload  ",
            "exeErrorCode": 1,
            "exeErrorDiag": "NULL",
            "ddmErrorCode": 0,
            "ddmErrorDiag": None,
            "taskBufferErrorCode": "102",
        }
    )
    assert job.errors == [("pilot", 1305, "Failed to execute payload"), ("exe", 1, ""), ("taskBuffer", 102, "")]


def test_a_digest_counts_inputs_and_splits_datasets() -> None:
    sent = {"statistics": "finished*2,failed*12", "inDS": "", "outDS": "user.bob.log/,user.bob.out", "PandaID": [4]}
    digest = TaskDigest.from_data(sent)
    assert digest.inputs_by_status == {"finished": 2, "failed": 12}
    assert digest.input_datasets == []
    assert digest.output_datasets == ["user.bob.log/", "user.bob.out"]
    assert digest.job_ids == [4]


def test_the_digest_of_an_unknown_task_is_empty() -> None:
    digest = TaskDigest.from_data({"inDS": "", "outDS": "", "statistics": "", "PandaID": [], "mergeStatus": None})
    assert (digest.status, digest.inputs_by_status, digest.job_ids, digest.output_datasets) == ("", {}, [], [])


def test_files_come_with_their_dataset() -> None:
    file = {"lfn": "a.root", "scope": None, "id": 101, "status": "finished"}
    dataset = DatasetFiles.from_data({"dataset": {"name": "user.bob.in", "id": 3}, "files": [file]})
    assert (dataset.id, dataset.name) == (3, "user.bob.in")
    assert [(item.id, item.lfn, item.scope, item.status) for item in dataset.files] == [(101, "a.root", "", "finished")]


@pytest.mark.parametrize(
    ("message", "host", "name"),
    [
        ("FOUND::sources.a.tar.gz", "", "sources.a.tar.gz"),
        ("FOUND:cache.cern.ch:sources.a.tar.gz", "cache.cern.ch", "sources.a.tar.gz"),
        ("FOUND:cache.cern.ch:25443:sources.a.tar.gz", "cache.cern.ch:25443", "sources.a.tar.gz"),
    ],
)
def test_a_cache_file_is_found_by_the_message(message: str, host: str, name: str) -> None:
    file = CacheFile.from_envelope(Envelope(success=True, message=message))
    assert file
    assert (file.host, file.name) == (host, name)


def test_a_cache_file_that_is_not_there_is_false() -> None:
    assert not CacheFile.from_envelope(Envelope(success=False, message="NOTFOUND"))


def test_the_server_view_shows_no_token() -> None:
    environment = {"HTTP_AUTHORIZATION": "Bearer abc.def.ghi", "REQUEST_METHOD": "GET"}
    view = ServerView.from_data({"parameters": {"x": "bearer abc"}, "environment": environment})
    assert "abc" not in repr(view)
    assert view.environment["REQUEST_METHOD"] == "GET"


def test_a_submission_knows_its_task_and_whether_it_was_reactivated() -> None:
    assert Submission.from_envelope(Envelope(True, "succeeded. new jediTaskID=4", 4)).reactivated is False
    assert Submission.from_envelope(Envelope(True, "reactivation accepted. jediTaskID=4 (...", 4)).reactivated is True
    with pytest.raises(ServerError, match="without a task ID"):
        Submission.from_envelope(Envelope(True, "succeeded.", None))


@given(st.integers(0, 10**12))
def test_a_message_names_a_task(task_id: int) -> None:
    assert named_task_id(f"jediTaskID={task_id} is already queued for outDS=x") == task_id


def test_a_message_may_name_no_task() -> None:
    assert named_task_id("failed to register task") is None
