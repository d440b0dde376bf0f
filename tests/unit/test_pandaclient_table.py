"""The drop-in: signatures as documented, rows that fit the server's methods, and failures that are tuples."""

from __future__ import annotations

import base64
import gzip
import importlib
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.config import ClientConfig
from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.errors import ConfigError, UsageError
from panda_airflow.client.jobs import FILE_ATTRIBUTES, JOB_ATTRIBUTES, dump_jobs
from panda_airflow.pandaclient import Client, obsolete, servers
from panda_airflow.pandaclient.calls import TABLE
from panda_airflow.pandaclient.FileSpec import FileSpec
from panda_airflow.pandaclient.JobSpec import JobSpec
from tests.support.rude_server import OK, Answer, Rude, reply, serve
from tests.support.tokens import jwt

Parameters = list[list[Any]]
DOCUMENTED: dict[str, dict[str, Parameters]] = json.loads(
    (Path(__file__).parents[1] / "data" / "reference_api.json").read_text()
)
REFERENCE, SINCE = DOCUMENTED["reference"], DOCUMENTED["panda-client 2.2.0"]
OBSOLETE = ["getCachePrefixes", "getCmtConfigList", "getPandaClientVer", "getProxyKey", "registerProxyKey"]


def parameters(function: Any) -> Parameters:
    """Names and defaults as the reference is written."""
    found = inspect.signature(function).parameters.values()
    named = [item for item in found if item.kind is not item.VAR_KEYWORD]
    return [[item.name] if item.default is item.empty else [item.name, item.default] for item in named]


@pytest.mark.parametrize("name", REFERENCE)
def test_a_function_has_the_documented_signature(name: str) -> None:
    found = parameters(getattr(Client, name))
    assert found[: len(REFERENCE[name])] == REFERENCE[name]
    newer = found[len(REFERENCE[name]) :]
    assert all(item in SINCE[name] and len(item) == 2 for item in newer)


@pytest.mark.parametrize("name", sorted(SINCE.keys() - REFERENCE.keys()))
def test_a_newer_function_has_the_signature_of_panda_client(name: str) -> None:
    assert parameters(getattr(Client, name)) == SINCE[name]


@pytest.mark.parametrize("name", TABLE)
def test_a_row_fits_its_function_and_its_server_method(name: str) -> None:
    row = TABLE[name]
    endpoint = row.endpoint if isinstance(row.endpoint, Endpoint) else REGISTRY[row.endpoint]
    wanted = endpoint.signature.parameters
    assert row.sources.keys() <= wanted.keys()
    assert {item.name for item in wanted.values() if item.default is item.empty} <= row.sources.keys()
    given_names = inspect.signature(getattr(Client, name)).parameters.keys()
    assert {source for source in row.sources.values() if isinstance(source, str)} <= given_names


def test_everything_documented_is_public() -> None:
    assert {*REFERENCE, *SINCE} <= set(Client.__all__)
    assert all(hasattr(Client, name) for name in Client.__all__)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An environment without settings, and switches that are off."""
    for name in os.environ:
        if name.startswith(("PANDA", "OIDC", "X509")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(servers, "_switched", {})
    made = servers._session
    yield
    made.cache_clear()


@pytest.fixture
def oidc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings for a token, without a server."""
    monkeypatch.setenv("PANDA_AUTH", "oidc")
    monkeypatch.setenv("PANDA_AUTH_VO", "wlcg")
    monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", jwt())


def use(monkeypatch: pytest.MonkeyPatch, server: Rude) -> None:
    monkeypatch.setenv("PANDA_URL_SSL", f"{server.url}/server/panda")


@pytest.mark.usefixtures("oidc")
class TestConfiguration:
    """The environment counts when a function is called, and connections are kept."""

    def test_many_calls_take_one_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve() as rude:
            use(monkeypatch, rude)
            assert [Client.getTaskStatus(n) for n in range(1, 6)] == [(0, "done")] * 5
            assert rude.connections == 1

    def test_what_is_assigned_to_a_variable_of_the_module_counts_until_a_switch(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "jobO.1").write_bytes(b"x")
        with serve() as one, serve() as two, serve() as cache:
            use(monkeypatch, one)
            monkeypatch.setitem(vars(Client), "baseURLSSL", f"{two.url}/server/panda")
            monkeypatch.setitem(vars(Client), "baseURLCSRVSSL", f"{cache.url}/server/panda")
            assert Client.getTaskStatus(1) == (0, "done")
            Client.putFile(str(tmp_path / "jobO.1"), False, True)
            assert [len(rude.requests) for rude in (one, two, cache)] == [0, 1, 1]
            Client.setCacheServer(f"localhost:{one.url.rpartition(':')[2]}")
            Client.putFile(str(tmp_path / "jobO.1"), False, True)
            assert [len(rude.requests) for rude in (one, two, cache)] == [1, 1, 1]
            assert Client.baseURLCSRVSSL == f"{one.url}/server/panda"

    def test_a_change_of_the_environment_counts_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve(OK) as one, serve(reply('{"success": true, "message": "", "data": "failed"}')) as two:
            use(monkeypatch, one)
            assert Client.getTaskStatus(1) == (0, "done")
            use(monkeypatch, two)
            assert Client.getTaskStatus(1) == (0, "failed")
            monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", token := jwt(name="Alice Tester"))
            use(monkeypatch, one)
            assert Client.getTaskStatus(1) == (0, "done")
            assert one.requests[-1].headers["Authorization"] == f"Bearer {token}"

    def test_module_variables_follow_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PANDA_URL_SSL", "https://panda.example:25443/server/panda")
        monkeypatch.setenv("PANDACACHE_URL", "https://localhost:25444")
        assert Client.baseURLSSL == "https://panda.example:25443/server/panda"
        assert Client.server_base_path_ssl == "https://panda.example:25443/api/v1"
        assert Client.baseURLCSRVSSL == "https://localhost:25444/server/panda"
        with pytest.raises(AttributeError, match="nosuch"):
            _ = Client.nosuch

    def test_switches_win_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PANDA_URL_SSL", "https://panda.example:25443")
        monkeypatch.setenv("PANDA_BEHIND_REAL_LB", "1")
        Client.setCacheServer("cache.example")
        assert Client.baseURLCSRVSSL == "https://cache.example:25443/server/panda"
        assert Client.baseURLSSL == "https://panda.example:25443/server/panda"
        for switch, host in ((Client.useDevServer, "aipanda007.cern.ch"), (Client.useIntrServer, "aipanda123.cern.ch")):
            switch()
            assert Client.baseURL == f"http://{host}:25080/server/panda"
            assert Client.baseURLSSL == Client.baseURLCSRVSSL == f"https://{host}:25443/server/panda"
        Client.setGlobalTmpDir("/nowhere")

    def test_authentication_is_what_the_environment_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert (Client.use_oidc(), Client.use_x509_no_grid()) == (True, False)
        monkeypatch.setenv("PANDA_AUTH", "x509_no_grid")
        assert (Client.use_oidc(), Client.use_x509_no_grid()) == (False, True)

    def test_verbose_shows_the_call_and_no_secret(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serve(reply('{"success": true, "message": "OK", "data": null}')) as rude:
            use(monkeypatch, rude)
            assert Client.set_user_secret("K", "the value", verbose=True) == (0, (True, None))
            assert capsys.readouterr().out == f"{rude.url} creds/set_user_secrets: success=True OK\n"
            assert Client.set_user_secret("K", "the value") == (0, (True, None))
            assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("oidc")
def test_idds_arguments_and_results_go_through_the_functions_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(reply('[true, {"at": {"__datetime__": "2026-11-22T11:42:40"}}]')) as rude:
        use(monkeypatch, rude)
        result = Client.call_idds_command("submit", [{1}], {"x": 2}, dumper=str, loader=json.loads, manager=True)
        (request,) = rude.requests
    assert result == (0, [True, {"at": {"__datetime__": "2026-11-22T11:42:40"}}])
    assert request.target == "/server/panda/relay_idds_command"
    sent = {"command_name": "submit", "args": "[{1}]", "kwargs": "{'x': 2}", "manager": True}
    assert json.loads(gzip.decompress(request.body)) == sent


@pytest.mark.usefixtures("oidc")
def test_a_workflow_can_be_sent_through_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(settings: ClientConfig) -> None:
        raise ConfigError(f"asked for {settings.server}")

    monkeypatch.setattr(servers, "PandaClient", client)
    status, message = Client.send_workflow_request({}, relay_host="relay.example")
    assert (status, message) == (255, "asked for https://relay.example:25443")


@pytest.mark.usefixtures("oidc")
class TestFailures:
    """Whatever goes wrong is a tuple and a sentence in the log; nothing is raised and nobody exits."""

    def test_no_server(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("PANDA_URL_SSL", "http://127.0.0.1:1")
        monkeypatch.setattr("panda_airflow.client.http.retry.LONGEST_WAIT", 0.0)
        assert Client.killTask(1) == (255, None)
        assert "task/kill: 127.0.0.1:1 does not accept connections. Check the server URL" in caplog.text
        status, message = Client.getTaskStatus(1)
        assert status == 255
        assert "does not accept connections" in message
        status, message = Client.getFile("x")
        assert (status, "does not accept connections" in message) == (1, True)

    def test_no_virtual_organisation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PANDA_AUTH_VO")
        status, message = Client.hello()
        assert status == 255
        assert "set PANDA_AUTH_VO" in message

    def test_parameters_without_a_json_form(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve() as rude:
            use(monkeypatch, rude)
            status, message = Client.insertTaskParams({"taskName": {1}})
            assert (status, "taskName is a set" in message) == (255, True)
            assert Client.update_events([{"eventRangeID": {1}}]) == (255, None)
            assert Client.send_workflow_request({"x": {1}})[0] == 255
            assert Client.call_idds_command("x", args=[{1}])[0] == 255
            assert rude.requests == []

    def test_files_that_cannot_be_read_or_are_too_large(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with (tmp_path / "big").open("wb") as big:
            big.truncate(11 << 20)
        with serve() as rude:
            use(monkeypatch, rude)
            for name, words in (("nosuch", "cannot be read"), ("big", "the cache takes 10 MB")):
                for reuse in (False, True) if name == "nosuch" else (False,):
                    status, message = Client.putFile(name, reuseSandbox=reuse)
                    assert (status, words in message) == (255, True)
            event_picking: list[Any] = ["nosuch", "", "", "", "", [], "", "user.bob", "", "", 1, False, ""]
            assert Client.requestEventPicking(*event_picking)[0] is False
            assert rude.requests == []

    def test_a_loader_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve(reply('[true, {"Status": "OK"}]')) as rude:
            use(monkeypatch, rude)
            status, message = Client.call_idds_command("ping", loader=int)
            assert (status, message.startswith("int cannot handle the str: invalid literal")) == (255, True)


@pytest.mark.parametrize("name", OBSOLETE)
def test_an_obsolete_function_warns_once_and_fails(name: str) -> None:
    obsolete._warn.cache_clear()
    function = getattr(Client, name)
    arguments = [False for item in inspect.signature(function).parameters.values() if item.default is item.empty]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert [function(*arguments), function(*arguments)] == [(255, None)] * 2
    (warning,) = heard
    assert warning.category is DeprecationWarning
    assert name in str(warning.message)
    assert warning.filename == __file__


def test_importing_looks_at_nothing() -> None:
    code = """
import os, socket, sys
def refuse(*_): raise AssertionError("looked something up")
socket.getaddrinfo = socket.create_connection = refuse
from panda_airflow.client.config import ClientConfig
ClientConfig.from_env = refuse
from panda_airflow.pandaclient import Client
assert "airflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


class TestSmallFunctions:
    """Names, tokens and texts."""

    @pytest.mark.parametrize(
        ("dn", "name"),
        [
            ("/DC=ch/DC=cern/CN=jdoe/CN=123/CN=John Q. Doe 42/CN=proxy", "JohnQDoe"),
            ("/CN=jdoe/CN=proxy", "jdoe"),
            ("/CN=123/CN=proxy", "proxy"),
            ("no name", ""),
        ],
    )
    def test_a_name_is_taken_out_of_a_dn(self, dn: str, name: str) -> None:
        assert Client.getDN(dn) == name

    def test_tokens_are_masked(self) -> None:
        assert "secret" not in Client.hide_sensitive_info({"Authorization": "Bearer secret", "Origin": "wlcg"})

    def test_texts(self, caplog: pytest.LogCaptureFixture) -> None:
        assert Client.str_decode("é".encode()) == Client.str_decode("é") == "é"
        assert (Client.is_https("https://x"), Client.is_https("http://x")) == (True, False)
        assert Client.dump_log("f", ValueError("bad"), "the reply") == "f failed : bad"
        assert "the reply" in caplog.text

    def test_a_token_comes_from_the_first_variable(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert Client.get_token_string(None, False) is None
        monkeypatch.setenv("OIDC_AUTH_ID_TOKEN", "third")
        assert Client.get_token_string(None, False) == "third"
        (tmp_path / "token").write_text("second")
        monkeypatch.setenv("OIDC_AUTH_TOKEN_FILE", str(tmp_path / "token"))
        assert Client.get_token_string(None, False) == "second"
        monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", "first")
        assert Client.get_token_string(None, False) == Client.get_new_token() == "first"

    def test_a_token_says_who_it_is_about(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Client.get_user_name_from_token() == (None, None, None)
        monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", "no.token")
        assert Client.get_user_name_from_token() == (None, None, None)
        claims = {"name": "bob van TESTER", "groups": ["wlcg"], "preferred_username": "bob"}
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", f"x.{payload}.x")
        assert Client.get_user_name_from_token() == ("Bob Van Tester", ["wlcg"], "bob")

    def test_a_token_file_that_is_not_there_is_no_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OIDC_AUTH_TOKEN_FILE", "nosuch")
        assert Client.get_new_token() is None
        assert Client.get_user_name_from_token() == (None, None, None)

    def test_a_stored_token_that_cannot_be_refreshed_is_none(self, caplog: pytest.LogCaptureFixture) -> None:
        assert Client.get_new_token() is None
        assert "holds no token" in caplog.text


class TestSigningIn:
    """The device flow, with a provider that plays its part."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PANDA_AUTH", "oidc")
        monkeypatch.setenv("PANDA_AUTH_VO", "wlcg")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    def provider(self, *polls: dict[str, str]) -> list[Answer]:
        """What server and provider answer, one after the other; addresses are those of the provider itself."""
        begun = {"device_code": "d", "verification_uri": "https://go", "user_code": "X", "interval": 0, "expires_in": 2}
        endpoints = {"device_authorization_endpoint": "URL/device", "token_endpoint": "URL/token"}
        bodies = [
            {"client_id": "c", "client_secret": "s", "oidc_config_url": "URL/oidc", "jwt_profile": "wlcg"},
            endpoints,
            begun,
            *polls,
        ]
        return [self.at_url(json.dumps(body)) for body in bodies]

    def at_url(self, body: str) -> Answer:
        return lambda: reply(body.replace("URL", self.rude.url))

    def sign_in(self, monkeypatch: pytest.MonkeyPatch, *polls: dict[str, str]) -> str | None:
        with serve(*self.provider(*polls)) as self.rude:
            use(monkeypatch, self.rude)
            return Client.get_new_token()

    def test_a_person_signs_in_and_the_token_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        token = jwt()
        answers = [{"error": "authorization_pending"}, {"id_token": token, "refresh_token": "r"}]
        assert self.sign_in(monkeypatch, *answers) == token
        assert capsys.readouterr().out == "Please go to https://go with code X and sign in. Waiting ...\n"
        assert (tmp_path / ".token").stat().st_mode & 0o777 == 0o600
        assert json.loads((tmp_path / ".token").read_text()) == answers[1]
        assert Client.get_user_name_from_token()[0] == "Bob Tester"
        assert b"wlcg.groups" in self.rude.requests[2].body
        sent = self.rude.requests[-1].body.decode()
        assert "client_secret=s" in sent
        assert "device_code=d" in sent

    @pytest.mark.parametrize(
        ("poll", "words"),
        [("access_denied", "nobody may sign in"), ("authorization_pending", "nobody signed in in time")],
    )
    def test_nobody_signs_in(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, poll: str, words: str
    ) -> None:
        assert self.sign_in(monkeypatch, {"error": poll}) is None
        assert words in caplog.text

    def test_the_server_knows_no_provider(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with serve(reply("<html>404</html>", "404 Not Found")) as rude:
            use(monkeypatch, rude)
            assert Client.get_new_token() is None
        assert "wlcg_auth_config.json does not say how to sign in. Check PANDA_AUTH_VO" in caplog.text


VALUES = st.none() | st.integers() | st.text() | st.datetimes()


FILES = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(FILE_ATTRIBUTES, VALUES)), max_size=3)


@given(job=st.fixed_dictionaries({}, optional=dict.fromkeys(JOB_ATTRIBUTES, VALUES)), files=FILES)
def test_jobs_come_out_as_they_went_in(job: dict[str, Any], files: list[dict[str, Any]]) -> None:
    spec = JobSpec.from_data(job | {"Files": files})
    (written,) = json.loads(dump_jobs([spec]))
    assert [restored(value) for value in written[:-1]] == [shown(job.get(name)) for name in JOB_ATTRIBUTES]
    owned = [item | {"PandaID": job.get("PandaID")} for item in files]
    assert [[restored(value) for value in item[:-1]] for item in written[-1]] == [
        [shown(item.get(name)) for name in FILE_ATTRIBUTES] for item in owned
    ]


def shown(value: Any) -> Any:
    return "NULL" if value is None else value


def restored(value: Any) -> Any:
    if isinstance(value, dict):
        return datetime.strptime(value["_datetime_object"].zfill(26), "%Y-%m-%d %H:%M:%S.%f")  # noqa: DTZ007
    return value


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("get_cert_attributes", ()),
        ("get_user_secrets", ()),
        ("getJediTaskDetails", ({"jediTaskID": 1}, False, False)),
        ("getJobStatus", ([1],)),
        ("call_idds_command", ("ping",)),
    ],
)
@pytest.mark.parametrize("data", ["[[1]]", '"x"', "[true]", '{"a": 1}', '"{\\"a\\""', "5", '"[[["'])
@pytest.mark.usefixtures("oidc")
def test_an_answer_of_another_shape_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, function: str, arguments: tuple[Any, ...], data: str
) -> None:
    with serve(reply(f'{{"success": true, "data": {data}}}')) as rude:
        use(monkeypatch, rude)
        assert getattr(Client, function)(*arguments)[0] in (0, 255)
        assert rude.requests


@pytest.mark.usefixtures("oidc")
def test_names_that_the_programs_of_the_reference_use_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANDA_BEHIND_REAL_LB", "1")  # or it resolves a name at its import
    theirs = importlib.import_module("pandaclient.Client")
    assert Client.build_grid_setup_command() == theirs.build_grid_setup_command()
    monkeypatch.setenv("PATHENA_GRID_SETUP_SH", "/grid.sh")
    assert Client.build_grid_setup_command() == theirs.build_grid_setup_command()
    assert JobSpec._attributes == importlib.import_module("pandaclient.JobSpec").JobSpec._attributes
    with serve(reply('{"success": true, "data": {"workflow_id": 3}}')) as rude:
        use(monkeypatch, rude)
        assert Client.submit_workflow_tmp({}) == (0, (True, {"workflow_id": 3}))


def test_a_file_knows_its_job() -> None:
    job, file = JobSpec(PandaID=7), FileSpec(lfn="x")
    assert file.PandaID == "NULL"
    job.addFile(file)
    assert job.Files == [file]
    assert str(file.PandaID) == "7"


def test_a_job_without_a_json_form_is_refused() -> None:
    with pytest.raises(UsageError, match="a set has no JSON form; nothing was sent"):
        dump_jobs([JobSpec(jobName={1})])  # type: ignore[arg-type]


def test_the_modules_of_the_reference_are_there() -> None:
    for name in ("Client", "JobSpec", "FileSpec"):
        importlib.import_module(f"panda_airflow.pandaclient.{name}")
