"""A recorder that answers each call of a list with what is foreseen, and keeps the requests field by field."""

from __future__ import annotations

import email
import gzip
import json
from collections.abc import Mapping
from email import policy
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.recorder import Recorder, Request

Fields = dict[str, Any]
HEADERS = ("Accept", "Authorization", "Content-Encoding", "Content-Type", "Origin")


class CaseRecorder(Recorder):
    """Answers with status and body of the case that was begun last, by a request for ``/begin/<number>``.

    :param answers: one list per case: an answer for each request, the last one for all further ones.
    """

    def __init__(self, answers: list[list[tuple[int, str]]]) -> None:
        super().__init__()
        self.answers = answers
        self.requests: list[list[Fields]] = [[] for _ in answers]
        self.case = 0

    def reply(self, request: Request) -> tuple[int, str]:
        target = request[1]
        if target.startswith("/begin/"):
            self.case = int(target.rpartition("/")[2])
            return 200, ""
        requests, answers = self.requests[self.case], self.answers[self.case]
        requests.append(_fields(*request))
        return answers[min(len(requests), len(answers)) - 1]


def _fields(method: str, target: str, headers: Mapping[str, str], content: bytes) -> Fields:
    where = urlsplit(target)
    given = {name.title(): value for name, value in headers.items()}
    fields: Fields = {"method": method, "path": where.path}
    fields |= {f"query {name}": value for name, value in parse_qs(where.query, keep_blank_values=True).items()}
    fields |= {f"header {name.lower()}": given[name].split(";")[0] for name in HEADERS if name in given}
    return fields | {f"body {name}": value for name, value in _body(given.get("Content-Type", ""), content).items()}


def _body(kind: str, content: bytes) -> Fields:
    if kind.startswith("multipart/"):
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content, policy=policy.HTTP)
        return {
            str(part["Content-Disposition"].params["name"]): [part.get_filename(), part.get_content().decode()]
            for part in message.iter_parts()
        }
    zipped = content.startswith(b"\x1f\x8b")
    text = (gzip.decompress(content) if zipped else content).decode()
    form: Fields = dict(parse_qs(text))
    return ({"is zipped": True} if zipped else {}) | (json.loads(text) if text.startswith("{") else form)
