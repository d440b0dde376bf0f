"""The embedded server through its sockets: life and death, identities, files, trouble on demand, the command line."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests

from panda_airflow.client.endpoint import REGISTRY
from panda_airflow.client.errors import ConfigError, UsageError
from panda_airflow.devserver.auth.identity import AccessPolicy
from panda_airflow.devserver.auth.tokens import CLIENT_ID
from panda_airflow.devserver.backend import FileStorage
from panda_airflow.devserver.handlers.file_server import MB, upload_cache_file
from panda_airflow.devserver.http.routes import Routes, not_emulated
from panda_airflow.devserver.server import DevServer

ALIVE = {"success": True, "message": "", "data": None}
NO_IDENTITY = {"success": False, "message": "SSL secure connection is required", "data": None}
TIME_LIMIT = 10


def get(server: DevServer, path: str, *, token: str = "", cert: Path | None = None, origin: str = "wlcg") -> Any:
    signed = {"Authorization": f"Bearer {token}", "Origin": origin} if token else {}
    return requests.get(
        server.url_ssl + path,
        headers={"Accept": "application/json"} | signed,
        verify=str(server.ca_file),
        cert=str(cert) if cert else None,
        timeout=TIME_LIMIT,
    )


def whoami(server: DevServer, **credential: Any) -> Any:
    return get(server, "/api/v1/system/get_user_attributes", **credential).json()


def upload(server: DevServer, name: str, content: bytes, *, method: str = "upload_cache_file", **role: Any) -> Any:
    origin = "wlcg.production" if role.get("production") else "wlcg"
    return requests.post(
        f"{server.url}/api/v1/file_server/{method}",
        files={"file": (name, content)},
        headers={"Accept": "application/json", "Authorization": f"Bearer {server.token(**role)}", "Origin": origin},
        timeout=TIME_LIMIT,
    ).json()


# Life and death


def left_behind(before: set[threading.Thread]) -> set[threading.Thread]:
    """Tell which threads are new, but for workers of an event loop that another test has left running."""
    new = set(threading.enumerate()) - before
    return {thread for thread in new if not (hasattr(thread, "loop") and thread.loop.is_running())}


def test_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with DevServer(tmp_path) as server, requests.Session() as idle:
        idle.trust_env, idle.verify = False, str(server.ca_file)
        for url in (server.url, server.url_ssl):
            assert idle.get(f"{url}/api/v1/system/is_alive", timeout=TIME_LIMIT).ok
        ports = [int(url.rpartition(":")[2]) for url in (server.url, server.url_ssl)]
        started = time.monotonic()
        server.stop()
        while left_behind(before) and time.monotonic() - started < 2.5:
            time.sleep(0.01)  # a worker thread ends a moment after its event loop
        assert time.monotonic() - started < 2.5
        assert not left_behind(before)
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=1)
        server.start()


def test_a_restart_in_the_same_directory_goes_on_where_the_server_was(tmp_path: Path) -> None:
    with DevServer(tmp_path) as first:
        token, proxy, authority = first.token(), first.proxy(), first.ca_file.read_bytes()
        secret = first.control_secret
        assert upload(first, "sources.a.tar.gz", b"twelve bytes")["success"]
    with DevServer(tmp_path) as second:
        assert second.ca_file.read_bytes() == authority
        assert second.control_secret == secret
        assert whoami(second, token=token)["success"]
        assert whoami(second, cert=proxy)["success"]
        assert get(second, "/cache/sources.a.tar.gz").content == b"twelve bytes"
        assert upload(second, "sources.a.tar.gz", b"others")["message"] == "ERROR: cannot overwrite file"


def test_a_taken_port_is_one_clear_sentence(devserver: DevServer, tmp_path: Path) -> None:
    port = int(devserver.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .* Choose another port"):
        DevServer(tmp_path / "other", http_port=port).start()
    DevServer(tmp_path / "other").start().stop()


def test_two_servers_do_not_share_a_directory(devserver: DevServer) -> None:
    pid = os.getpid()
    message = rf"another embedded server, process {pid}, runs in .* Stop it with Ctrl-C or `kill {pid}`"
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            DevServer(devserver.root).start()


def test_a_directory_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot keep state in .*/file/root: Not a directory\. Name a directory"):
        DevServer(tmp_path / "file" / "root").start()


# Strangers


def test_only_this_machine_is_served(devserver: DevServer) -> None:
    for listener in devserver.listeners:
        assert listener.address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:1", 200), ("LocalHost", 200), ("evil.example:25080", 400), ("", 400)],
)
def test_a_web_page_cannot_reach_it_under_a_name_of_its_own(devserver: DevServer, host: str, status: int) -> None:
    for path in ("/api/v1/system/is_alive", "/auth/wlcg_auth_config.json", "/devserver/state"):
        secret = f"Bearer {devserver.control_secret}"
        headers = {"Host": host, "Accept": "application/json"} | ({"Authorization": secret} if "dev" in path else {})
        answer = requests.get(devserver.url + path, headers=headers, timeout=TIME_LIMIT)
        assert answer.status_code == status


def test_other_users_can_read_nothing_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        with DevServer(root) as server:
            server.proxy()
            secrets = [*root.glob("panda.sqlite*"), *root.glob("tls/*key"), *root.glob("tls/proxy*")]
            secrets += [root / "control.secret", root / "tls" / "host.pem"]
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in secrets}
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert modes.keys() >= {"panda.sqlite", "panda.sqlite-wal", "panda.sqlite-shm", "ca.key", "control.secret"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("given", [None, "Bearer ", "Bearer wrong", "Bearer t\xf6ken"])
def test_who_cannot_read_the_secret_controls_nothing(devserver: DevServer, given: str | None) -> None:
    headers = {"Authorization": given.encode("latin-1")} if given else {}
    for method, name in (
        ("GET", "state"),
        ("POST", "token"),
        ("POST", "proxy"),
        ("POST", "faults"),
        ("DELETE", "faults"),
    ):
        answer = requests.request(
            method, f"{devserver.url}/devserver/{name}", headers=headers, json={"kind": "refuse"}, timeout=TIME_LIMIT
        )
        assert (answer.status_code, list(answer.json())) == (403, ["error"])
    assert devserver.faults.describe()["waiting"] == []


# Routes


def test_handlers_have_the_parameters_of_the_clients_stubs() -> None:
    for path, handler in Routes.load().handlers.items():
        stub = [(item.name, item.default) for item in REGISTRY[path].signature.parameters.values()]
        ours = [(item.name, item.default) for item in inspect.signature(handler).parameters.values()]
        assert [name for name, _default in ours[:2]] == ["backend", "caller"], path
        assert ours[2:] == stub, path


def test_every_endpoint_is_served_or_says_why_not(devserver: DevServer) -> None:
    served = Routes.load().handlers.keys()
    for path in REGISTRY.keys() - served:
        answer = requests.request(REGISTRY[path].method, f"{devserver.url}/api/v1/{path}", timeout=TIME_LIMIT)
        assert (answer.status_code, answer.text) == (501, f"ERROR : {path} is not emulated: {not_emulated(path)}")
    assert not {path for path in served if not_emulated(path)}


def test_a_key_that_is_repeated_in_a_query_is_a_list(devserver: DevServer) -> None:
    answer = get(devserver, "/api/v1/job/get_status?job_ids=1&job_ids=2", token=devserver.token())
    assert len(answer.json()["data"]) == 2


# Identities


def test_a_grid_proxy_is_the_user_who_made_it(devserver: DevServer) -> None:
    bob = whoami(devserver, cert=devserver.proxy("Bob Tester"))["data"]
    assert (bob["user_dn_clean"], bob["is_production_user"]) == ("Bob Tester", False)
    alice = whoami(devserver, cert=devserver.proxy("Alice Tester", production=True))["data"]
    assert (alice["user_dn_clean"], alice["is_production_user"]) == ("Alice Tester", True)


def test_a_proxy_is_for_its_owner_only(devserver: DevServer) -> None:
    assert stat.S_IMODE(devserver.proxy().stat().st_mode) == 0o600


def test_an_expired_proxy_does_not_get_through_tls(devserver: DevServer) -> None:
    with pytest.raises(requests.ConnectionError):
        whoami(devserver, cert=devserver.proxy(lifetime=-60))


def test_a_proxy_of_another_authority_does_not_get_through_tls(devserver: DevServer, tmp_path: Path) -> None:
    with DevServer(tmp_path / "other") as other, pytest.raises(requests.ConnectionError):
        whoami(devserver, cert=other.proxy())


def test_nobody_is_anonymous_over_https_too(devserver: DevServer) -> None:
    assert whoami(devserver) == NO_IDENTITY


@pytest.mark.parametrize("flags", [ssl.VERIFY_X509_STRICT, ssl.VERIFY_DEFAULT])
def test_the_hashed_directory_verifies_the_server(devserver: DevServer, flags: ssl.VerifyFlags) -> None:
    context = ssl.create_default_context(capath=str(devserver.ca_directory))
    context.verify_flags |= flags
    host, port = devserver.url_ssl.removeprefix("https://").split(":")
    for name in (host, "127.0.0.1"):
        raw = socket.create_connection(("127.0.0.1", int(port)), timeout=TIME_LIMIT)
        with context.wrap_socket(raw, server_hostname=name) as tls:
            assert tls.version()


def test_the_production_role_needs_membership_and_the_wish(devserver: DevServer) -> None:
    token = devserver.token("alice tester", production=True)
    assert not whoami(devserver, token=token)["data"]["is_production_user"]
    for origin in ("wlcg.production", "wlcg:production"):
        assert whoami(devserver, token=token, origin=origin)["data"]["is_production_user"]


def test_an_expired_token_is_refused_at_once_unless_decisions_are_remembered(tmp_path: Path) -> None:
    for lifetime, status in ((0.0, 403), (600.0, 200)):
        with DevServer(tmp_path / str(lifetime), policy=AccessPolicy(decision_lifetime=lifetime)) as server:
            token = server.token()
            assert get(server, "/api/v1/system/is_alive", token=token).status_code == 200
            server.faults.inject("expire_tokens")
            assert get(server, "/api/v1/system/is_alive", token=token).status_code == status
            assert get(server, "/api/v1/system/is_alive", token=server.token()).status_code == 200


def test_tokens_verify_with_the_published_key(devserver: DevServer) -> None:
    auth = get(devserver, "/auth/wlcg_auth_config.json").json()
    assert {"client_secret", "audience", "client_id", "oidc_config_url", "no_verify", "robot_ids", "vo"} == auth.keys()
    discovery = requests.get(auth["oidc_config_url"], timeout=TIME_LIMIT).json()
    keys = jwt.PyJWKSet.from_dict(requests.get(discovery["jwks_uri"], timeout=TIME_LIMIT).json())
    token = devserver.token("Bob Tester")
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, audience=CLIENT_ID, issuer=discovery["issuer"])
    assert claims["name"] == "bob tester"
    assert get(devserver, "/auth/nosuchvo_auth_config.json").status_code == 404


# Files


@pytest.mark.parametrize("name", ["..", ".", "a/..", "sources./.."])
def test_an_upload_cannot_leave_the_cache(devserver: DevServer, name: str) -> None:
    assert upload(devserver, name, b"x")["message"] == "ERROR: cannot write file"


def test_directories_in_the_name_of_an_upload_are_dropped(devserver: DevServer) -> None:
    assert upload(devserver, "../../tls/sources.a", b"x")["success"]
    assert (devserver.backend.cache / "sources.a").read_bytes() == b"x"
    assert not (devserver.root / "tls" / "sources.a").exists()


@pytest.mark.parametrize("path", ["../panda.sqlite", "%2e%2e/panda.sqlite", "..%2fpanda.sqlite", "", "jedilog"])
def test_a_download_cannot_leave_the_cache(devserver: DevServer, path: str) -> None:
    host, _, port = devserver.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=TIME_LIMIT) as plain:
        plain.sendall(f"GET /cache/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert plain.recv(100).startswith(b"HTTP/1.1 404")


def test_part_of_a_file_can_be_read(devserver: DevServer) -> None:
    assert upload(devserver, "sources.a", b"0123456789")["success"]
    part = requests.get(f"{devserver.url}/cache/sources.a", headers={"Range": "bytes=3-5"}, timeout=TIME_LIMIT)
    assert (part.status_code, part.content) == (206, b"345")


@pytest.mark.parametrize(
    ("name", "allowed"), [("jobO.a", 10), ("a.out", 100), ("sources.a", 768), ("/x/sources.a", 10)]
)
def test_limits_go_by_the_length_that_the_request_declares(devserver: DevServer, name: str, allowed: int) -> None:
    def sent(length: int) -> str:
        with open(os.devnull, "rb") as nothing:
            return upload_cache_file(devserver.backend, None, FileStorage(name, nothing, length)).message

    assert sent(allowed * MB) == ""
    assert re.match(
        rf"ERROR: upload failure. Exceeded size limit {allowed} MB > {allowed} MB. Please", sent(allowed * MB + 1)
    )


def test_a_log_of_jedi_is_replaced(devserver: DevServer) -> None:
    url = f"{devserver.url}/cache/jedilog/task.log"
    for content in (b"one", b"two"):
        answer = upload(devserver, "task.log", content, method="upload_jedi_log", production=True)
        assert answer == {"success": True, "message": "", "data": url}
        assert requests.get(url, timeout=TIME_LIMIT).content == content


# Trouble on demand


@pytest.fixture(params=["http", "https"])
def alive(devserver: DevServer, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Ask whether the server is alive, over either protocol."""
    base = devserver.url if request.param == "http" else devserver.url_ssl
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(devserver.ca_file)
        session.headers["Accept"] = "application/json"
        yield lambda: session.get(f"{base}/api/v1/system/is_alive", timeout=TIME_LIMIT)


def test_refusals_carry_the_wish_to_wait(devserver: DevServer, alive: Any) -> None:
    devserver.faults.inject("refuse", "system/*", times=2, status=429, retry_after=3)
    assert [(answer.status_code, answer.headers["Retry-After"]) for answer in (alive(), alive())] == [(429, "3")] * 2
    assert alive().json() == ALIVE


@pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
def test_dropped_connections_give_no_answer(devserver: DevServer, alive: Any, kind: Any) -> None:
    devserver.faults.inject(kind)
    with pytest.raises(requests.ConnectionError):
        alive()
    assert alive().json() == ALIVE
    assert devserver.faults.recorded == [(kind, "system/is_alive")]


def test_a_drop_comes_before_or_after_the_deed(devserver: DevServer) -> None:
    for kind, name in (("drop_before", "sources.not"), ("drop_after", "sources.done")):
        devserver.faults.inject(kind, "file_server/*")  # type: ignore[arg-type]
        with pytest.raises(requests.ConnectionError):
            upload(devserver, name, b"x")
    assert not (devserver.backend.cache / "sources.not").exists()
    assert (devserver.backend.cache / "sources.done").exists()


@pytest.mark.parametrize(
    ("body", "text"),
    [("html", "<html>"), ("traceback", "Traceback (most recent"), ("truncated", '{"success": true, "mess')],
)
def test_garbage(devserver: DevServer, alive: Any, body: str, text: str) -> None:
    devserver.faults.inject("garbage", body=body)
    answer = alive()
    assert (answer.status_code, answer.text.startswith(text)) == (200, True)
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_a_delay_comes_before_the_answer(devserver: DevServer, alive: Any) -> None:
    devserver.faults.inject("delay", seconds=0.2)
    assert alive().elapsed.total_seconds() >= 0.2


def test_faults_wait_for_their_endpoint_and_can_be_cleared(devserver: DevServer, alive: Any) -> None:
    devserver.faults.inject("refuse", "task/*")
    assert alive().ok
    devserver.faults.inject("refuse")
    devserver.faults.clear()
    assert alive().ok
    with pytest.raises(UsageError, match=r"there is no fault 'burn'. Choose one of refuse, "):
        devserver.faults.inject("burn")  # type: ignore[arg-type]


def test_a_server_without_its_database_is_alive(devserver: DevServer, alive: Any) -> None:
    devserver.faults.inject("database_down")
    assert alive().json() == ALIVE
    refusal = "ERROR : failed to register sandbox to DB with ERROR: DB failure"
    assert upload(devserver, "sources.a", b"x")["message"] == refusal
    devserver.faults.clear()
    assert upload(devserver, "sources.b", b"x")["success"]


def test_another_process_controls_the_server_through_its_url(devserver: DevServer, alive: Any) -> None:
    secret = (devserver.root / "control.secret").read_text()

    def control(method: str, what: str, body: Any = None) -> requests.Response:
        url, headers = f"{devserver.url}/devserver/{what}", {"Authorization": f"Bearer {secret}"}
        return requests.request(method, url, json=body, headers=headers, timeout=TIME_LIMIT)

    fault = {"kind": "refuse", "endpoint": "system/is_alive", "times": 5}
    state = control("POST", "faults", fault).json()
    assert [waiting["times"] for waiting in state["faults"]["waiting"]] == [5]
    assert control("GET", "state").json() == state
    assert alive().status_code == 503
    assert control("DELETE", "faults").json()["faults"]["waiting"] == []
    token = control("POST", "token", {"name": "Carol Tester"}).json()["token"]
    proxy = control("POST", "proxy", {"name": "Carol Tester"}).json()["path"]
    for credential in ({"token": token}, {"cert": Path(proxy)}):
        assert whoami(devserver, **credential)["data"]["user_dn_clean"] == "Carol Tester"
    bad = control("POST", "faults", {"kind": "burn"})
    assert (bad.status_code, "there is no fault" in bad.json()["error"]) == (400, True)


# The unmodified client of PanDA users

REFERENCE_CLIENT = """
import gzip, json
from pandaclient import Client
with open("sources.a.tar.gz", "wb") as sandbox:
    sandbox.write(gzip.compress(b"analysis"))
answers = [Client.hello(), Client.putFile("sources.a.tar.gz"), Client.putFile("sources.a.tar.gz"),
           Client.putFile("sources.a.tar.gz", reuseSandbox=True),
           Client.getFile("sources.a.tar.gz", output_path="copy")]
assert open("copy", "rb").read() == open("sources.a.tar.gz", "rb").read()
print(json.dumps(answers))
"""


@pytest.mark.parametrize("auth", ["oidc", "x509_no_grid", "voms"])
def test_the_reference_client_greets_uploads_and_downloads(devserver: DevServer, tmp_path: Path, auth: str) -> None:
    token = {"PANDA_AUTH_VO": "wlcg", "PANDA_AUTH_ID_TOKEN": devserver.token(), "PANDA_CONFIG_ROOT": str(tmp_path)}
    proxy = {"X509_USER_PROXY": str(devserver.proxy())}
    environment = devserver.environment() | {"PANDA_AUTH": auth} | (token if auth == "oidc" else proxy)
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE_CLIENT],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | environment,
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [
        [0, ""], [0, "True"], [0, "ERROR: cannot overwrite file"], [0, "NewFileName:sources.a.tar.gz"], [0, True],
    ]  # fmt: skip


# The command line


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "panda_airflow.cli", *arguments]
    return subprocess.run(call, capture_output=True, text=True, timeout=30, check=False, **options)


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "panda_airflow.cli", "devserver", "--root", str(tmp_path / "root")]
    with subprocess.Popen(
        [*call, "--http-port", "0", "--https-port", "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        told = []
        for line in server.stdout:
            told.append(line)
            if line.startswith("Ctrl-C"):
                break
        script = '. "$1"; exec "$0" -c "import json, os; print(json.dumps(dict(os.environ)))"'
        shell = ["sh", "-c", script, sys.executable, str(tmp_path / "root" / "env.sh")]
        variables = json.loads(subprocess.run(shell, capture_output=True, text=True, check=True).stdout)
        assert variables["PANDA_AUTH_ID_TOKEN"] not in "".join(told)
        assert f"    . {tmp_path / 'root' / 'env.sh'}\n" in told
        assert {path.stat().st_mode & 0o077 for path in (tmp_path / "root").rglob("*")} == {0}
        base = variables["PANDA_URL_SSL"].removesuffix("/server/panda")
        connection = json.loads(variables["AIRFLOW_CONN_PANDA_DEFAULT"])
        issued = command("token", "--root", str(tmp_path / "root"), "--name", "Carol Tester").stdout.strip()
        for token, name in ((variables["PANDA_AUTH_ID_TOKEN"], "Bob Tester"), (issued, "Carol Tester")):
            answer = requests.get(
                f"{base}/api/v1/system/get_user_attributes",
                headers={"Accept": "application/json", "Authorization": f"Bearer {token}", "Origin": "wlcg"},
                verify=connection["extra"]["ca"],
                timeout=TIME_LIMIT,
            )
            assert answer.json()["data"]["user_dn_clean"] == name
        proxy = command("proxy", "--root", str(tmp_path / "root"), "--production").stdout.strip()
        as_proxy = {"cert": proxy, "verify": connection["extra"]["ca"], "headers": {"Accept": "application/json"}}
        answer = requests.get(f"{base}/api/v1/system/get_user_attributes", timeout=TIME_LIMIT, **as_proxy)
        assert answer.json()["data"]["is_production_user"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(TIME_LIMIT) == 0


def test_command_errors_are_one_line(tmp_path: Path, devserver: DevServer) -> None:
    no_root = command("token", "--root", str(tmp_path / "nothing"))
    assert (no_root.returncode, no_root.stderr.count("\n")) == (1, 1)
    assert "no embedded server has run in" in no_root.stderr
    no_port = command("devserver", "--root", str(tmp_path / "x"), "--http-port", "99999")
    assert (no_port.returncode, no_port.stderr.count("\n")) == (1, 1)
    held = command("devserver", "--root", str(devserver.root), "--http-port", "0", "--https-port", "0")
    assert (held.returncode, held.stderr.count("\n")) == (1, 1)
    assert f"`kill {os.getpid()}`" in held.stderr
    no_directory = command("devserver", "--root", "/proc/root-of-nobody")
    assert (no_directory.returncode, no_directory.stderr.count("\n")) == (1, 1)
    assert "cannot keep state in /proc/root-of-nobody" in no_directory.stderr
    taken = command("devserver", "--root", str(tmp_path / "x"), "--http-port", devserver.url.rpartition(":")[2])
    assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
    assert "cannot listen on" in taken.stderr
