"""Exchanges with a real PanDA server, sent again to the embedded one: status, content type and body are the same."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa

from panda_airflow.devserver.auth.identity import AccessPolicy
from panda_airflow.devserver.auth.tokens import KEY_ID
from panda_airflow.devserver.backend import utc_now
from panda_airflow.devserver.server import DevServer

CAPTURES = Path(__file__).parents[1] / "data" / "captures"

IN_ORDER = [
    "auth_failures",
    "legacy_removed",
    "system_is_alive",
    "system_get_attributes",
    "system_get_user_attributes",
    "system_get_voms_attributes",
    "file_upload_cache_file",
    "file_validate_cache_file",
    "file_touch_cache_file",
    "file_delete_cache_file",
    "file_register_cache_file",
    "file_upload_jedi_log",
    "file_update_jedi_log",
    "file_download_jedi_log",
    "file_download_cache",
    "file_upload_hpo_checkpoint",
    "file_delete_hpo_checkpoint",
    "file_upload_file_recovery_request",
    "creds_user_secrets",
    "creds_not_registered",
    "workflow_submit",
    "idds_absent",
    "other_modules",
    "db_down",
]
"""The captures in the order in which they were made, as some build on the files of others."""

SHORT = 4.0
"""Lifetime of a token that expires during the replay, in seconds; a busy machine may need one to use it."""


def sandbox() -> bytes:
    """A file of the captured size and with the captured checksum in its last bytes."""
    size, checksum = 232, 1426973472
    return b"\x1f\x8b" + b"." * (size - 10) + struct.pack("<II", checksum, 0)


class Replay:
    """Sends captured requests to a server, with credentials that it accepts or refuses in the same way."""

    def __init__(self, server: DevServer) -> None:
        self.server = server
        self.tokens: dict[str, str] = {}
        self.proxies: dict[str, str] = {}
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.clear()
        self.session.verify = str(server.ca_file)

    def send(self, exchange: dict[str, Any]) -> requests.Response:
        request = exchange["request"]
        base = self.server.url_ssl if request["scheme"] == "https" else self.server.url
        return self.session.request(
            request["method"],
            base + request["path"],
            params=request.get("query"),
            headers=self.headers(request["headers"]),
            cert=self.certificate(exchange["identity"]),
            timeout=10,
            **self.body(request),
        )

    def headers(self, captured: dict[str, str]) -> dict[str, str]:
        who = re.search(r"<JWT:(\w+)>", captured.get("Authorization", ""))
        return captured | ({"Authorization": f"Bearer {self.token(who[1])}"} if who else {})

    def token(self, who: str) -> str:
        if who not in self.tokens:
            self.tokens[who] = self.make_token(who)
        return self.tokens[who]

    def make_token(self, who: str) -> str:
        name = {"alice": "alice tester", "mallory": "mallory banned", "eve": "eve outsider"}.get(who, "bob tester")
        changes: dict[str, dict[str, Any]] = {
            "alice": {"production": True},
            "eve": {"groups": ["/other"]},
            "bob_expired": {"lifetime": -60},
            "bob_short": {"lifetime": SHORT},
            "bob_badiss": {"iss": "https://elsewhere.example/"},
            "bob_badaud": {"aud": "somebody-else"},
        }
        token = self.server.token(name, **changes.get(who, {}))
        claims = jwt.decode(token, options={"verify_signature": False})
        stranger = rsa.generate_private_key(65537, 2048)
        if who == "bob_badsig":
            return jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": KEY_ID})
        if who == "bob_badkid":
            return jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": "other"})
        return token

    def certificate(self, identity: str) -> str | None:
        name = {"x509_bob": "Bob Tester", "x509_alice": "Alice Tester"}.get(identity)
        if name and name not in self.proxies:
            self.proxies[name] = str(self.server.proxy(name))
        return self.proxies[name] if name else None

    def body(self, request: dict[str, Any]) -> dict[str, Any]:
        if "multipart" in request:
            return {"files": {field: self.upload(*file) for field, file in request["multipart"].items()}}
        if "raw_body" in request:
            return {"data": ast.literal_eval(request["raw_body"])}
        if "json" in request:
            data = json.dumps(request["json"]).encode()
            return {"data": gzip.compress(data) if request.get("gzip_body") else data}
        return {"data": request.get("form")}

    def upload(self, name: str, captured: str) -> tuple[str, io.BytesIO]:
        """Content as captured where it was captured whole; otherwise a sandbox, or 11 MB."""
        if name == "jobO.big.tar.gz":
            return name, io.BytesIO(b"0" * 11 * 1024 * 1024)
        whole = captured.endswith("'")
        return name, io.BytesIO(ast.literal_eval(captured) if whole else sandbox())

    def expected(self, body: str) -> str:
        """What the real server said, with the names of its machine replaced by those of this one."""
        body = body.replace("http://localhost:25080", self.server.url)
        return body.replace("/srv/panda/var/cache", str(self.server.backend.cache)).replace(
            "FOUND::", "FOUND:localhost:"
        )


def comparable(body: str) -> str:
    """Leave out what differs each time: UUIDs, IDs, and the frames of tracebacks."""
    body = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.log", "<uuid>.log", body)
    return re.sub(r'File ".*?"', 'File "..."', body)


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    policy = AccessPolicy(decision_lifetime=600)
    with DevServer(tmp_path_factory.mktemp("replay"), policy=policy) as server:
        for task_id in (1, 2):
            server.backend.store.insert(
                "tasks", jediTaskID=task_id, taskName=f"user.bob.{task_id}", status="done", userName="Bob Tester",
                vo="wlcg", prodSourceLabel="user", taskType="anal", modificationTime=utc_now(),
            )  # fmt: skip
        yield Replay(server)


def prepare(replay: Replay, note: str) -> None:
    """Bring about what the captures' notes speak of."""
    if note.startswith("same token after its expiry"):
        claims = jwt.decode(replay.token("bob_short"), options={"verify_signature": False})
        time.sleep(max(0.0, claims["exp"] - time.time() + 0.1))
    if note.startswith("database down"):
        replay.server.faults.inject("database_down")
    if note.startswith("after the database came back"):
        replay.server.faults.clear()


def captured() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name the exchanges, in the order in which they were made."""
    for name in IN_ORDER:
        for number, exchange in enumerate(json.loads((CAPTURES / f"{name}.json").read_text())["exchanges"]):
            yield f"{name}-{number}", exchange


def comparison(replay: Replay, exchange: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """What this server says and what the real one said, as far as it can be compared."""
    answer, real = replay.send(exchange), exchange["response"]
    ours: list[Any] = [answer.status_code]
    theirs: list[Any] = [real["status"]]
    if "binary bytes" not in real["body"]:
        ours.append(comparable(answer.text))
        theirs.append(comparable(replay.expected(real["body"])))
    if "Content-Type" in real["headers"]:
        ours.append(answer.headers.get("Content-Type"))
        theirs.append(real["headers"]["Content-Type"])
    if answer.request.method != "HEAD":
        ours.append("Content-Length" in answer.headers)
        theirs.append("Content-Length" in real["headers"])
    return ours, theirs


def test_embedded_server_answers_as_the_real_one(replay: Replay) -> None:
    """One test, as some exchanges build on others."""
    strange = {}
    for name, exchange in captured():
        prepare(replay, exchange["note"])
        ours, theirs = comparison(replay, exchange)
        if ours != theirs:
            strange[name] = (ours, theirs)
    assert strange == {}


def test_every_capture_is_replayed() -> None:
    assert {path.stem for path in CAPTURES.glob("*.json")} == set(IN_ORDER)
