"""The smaller modules of the embedded server, through a client: secrets, workflows, statistics, no iDDS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.client import PandaClient
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import PermissionDenied, Refused, ServerError
from panda_airflow.devserver.server import DevServer


@contextmanager
def client_of(server: DevServer, name: str = "bob tester", *, production: bool = False) -> Iterator[PandaClient]:
    vo = "wlcg.production" if production else "wlcg"
    token = server.token(name, production=production)
    with PandaClient(ClientConfig(url=server.url, auth="oidc", vo=vo, token=token, attempts=1)) as client:
        yield client


def test_everybody_has_secrets_of_their_own(tmp_path: Path) -> None:
    with DevServer(tmp_path) as server, client_of(server) as bob, client_of(server, "alice tester") as alice:
        bob.creds.set_user_secrets("KEY", "wörd")
        bob.creds.set_user_secrets("OTHER", "")
        alice.creds.set_user_secrets("KEY", "hers")
        bob.creds.set_user_secrets("OTHER", "changed")
    with DevServer(tmp_path) as server, client_of(server) as bob, client_of(server, "alice tester") as alice:
        assert bob.creds.get_user_secrets() == {"KEY": "wörd", "OTHER": "changed"}
        assert bob.creds.get_user_secrets(["OTHER", "NONE"]) == {"OTHER": "changed"}
        bob.creds.set_user_secrets("KEY")
        assert bob.creds.get_user_secrets() == {"OTHER": "changed"}
        bob.creds.set_user_secrets()
        assert bob.creds.get_user_secrets() == {}
        assert alice.creds.get_user_secrets() == {"KEY": "hers"}


def test_without_its_database_the_server_says_so(devserver: DevServer) -> None:
    with client_of(devserver) as bob:
        bob.creds.set_user_secrets("KEY", "word")
        devserver.faults.inject("database_down")
        calls: list[Any] = [bob.creds.get_user_secrets, bob.creds.set_user_secrets]
        for call in calls:
            with pytest.raises(ServerError, match="database error"):
                call()
        with pytest.raises(Refused, match="Database failure"):
            bob.statistics.active_job_stats_by_site()
        with pytest.raises(Refused, match="Failed to submit workflow"):
            bob.workflow.submit_workflow({})
        devserver.faults.clear()
        assert bob.creds.get_user_secrets() == {"KEY": "word"}


def add_jobs(server: DevServer, *states: str, **columns: Any) -> None:
    now = server.backend.clock()
    for state in states:
        server.backend.store.insert(
            "jobs",
            **{"computingSite": "A", "prodSourceLabel": "user", "processingType": "p", "modificationTime": now}
            | columns,
            jobStatus=state,
        )


def test_jobs_are_counted_by_where_they_are(devserver: DevServer) -> None:
    add_jobs(devserver, "running", "running", "finished")
    add_jobs(devserver, "failed", computingSite="B", prodSourceLabel="managed", resource_type="MCORE", cloud="EU")
    active = {"assigned": 0, "activated": 0, "running": 2}
    ended = active | {"finished": 1, "failed": 0}
    failed = dict.fromkeys(ended, 0) | {"failed": 1}
    with client_of(devserver) as bob:
        count = bob.statistics
        assert count.active_job_stats_by_site() == {"A": active}
        assert count.active_job_detailed_stats_by_site() == {"A": {"Undefined": {"user": active}}}
        assert count.job_stats_by_site_and_resource_type() == {"A": {"Undefined": ended}, "B": {"MCORE": failed}}
        assert count.job_stats_by_site_share_and_resource_type() == {
            "A": {"user": {"Undefined": ended}},
            "B": {"managed": {"MCORE": failed}},
        }
        assert count.job_stats_by_site_and_resource_type(0) == {"A": {"Undefined": ended | {"finished": 0}}}
        assert count.job_stats_by_cloud("analysis") == {"LOCAL": {"running": 2, "finished": 1}}
        assert count.job_stats_by_cloud() == {"EU": {"failed": 1}}
        assert count.production_job_stats_by_cloud_and_processing_type() == {"EU": {"p": {"failed": 1}}}
        for call in (lambda: count.job_stats_by_cloud("odd"), lambda: count.job_stats_by_site_and_resource_type(10081)):
            with pytest.raises(Refused, match="Parameter"):
                call()


def test_what_the_server_knows_of_itself(devserver: DevServer) -> None:
    with client_of(devserver) as bob:
        assert bob.metaconfig.get_site_specs() == {}
        assert list(bob.metaconfig.get_site_specs("all")) == ["LOCAL_TEST"]
        assert bob.metaconfig.get_banned_users() == {"Mallory Banned": False}


def test_there_are_no_events(devserver: DevServer) -> None:
    with client_of(devserver) as bob, client_of(devserver, "alice tester", production=True) as alice:
        assert bob.event.get_event_range_statuses('[{"task_id": 1, "panda_id": 2}]') == {"2": {}}
        with pytest.raises(ServerError):
            bob.event.get_event_range_statuses("[{}]")
        with pytest.raises(PermissionDenied):
            bob.event.acquire_event_ranges(1, 1)
        assert alice.event.get_available_event_range_count(1, 1, 1) == 0
        assert alice.event.acquire_event_ranges(1, 1) == []


@pytest.mark.parametrize("legacy", [True, False])
def test_there_is_no_idds(devserver: DevServer, legacy: bool) -> None:
    with client_of(devserver) as bob:
        with pytest.raises(Refused, match="failed to execute command with No section"):
            bob.idds.call("ping", legacy=legacy)
        with pytest.raises(Refused, match="server failed with No section"):
            bob.idds.command("abort", 1, legacy=legacy)


def test_panda_client_hears_the_same_of_idds(devserver: DevServer, tmp_path: Path) -> None:
    story = (
        "import json; from pandaclient import Client, idds_api\n"
        "told = idds_api.get_api(compress=True, manager=True).get_requests(request_id=1)\n"
        "print(json.dumps([told, Client.call_idds_command('ping')]))"
    )
    identity = {"PANDA_AUTH": "oidc", "PANDA_AUTH_VO": "wlcg", "PANDA_AUTH_ID_TOKEN": devserver.token()}
    environment = devserver.environment() | identity | {"PANDA_CONFIG_ROOT": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", story], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    compressed, plain = json.loads(done.stdout.splitlines()[-1])
    assert compressed == [0, [False, "failed to execute command with No section: 'rest'"]]
    assert plain == [255, "relay_idds_command() missing 1 required positional argument: 'command_name'"]
