"""Files to and from the cache: progress, uploads that are not needed, downloads that go on where they broke."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client import ClientConfig, PandaClient, Refused, ServerError, UsageError
from panda_airflow.client.files import CHUNK, Partial, gzip_checksum
from panda_airflow.devserver.server import DevServer
from tests.support.rude_server import Rude, reply, serve

CONTENT = os.urandom(3 * CHUNK // 2)


@pytest.fixture
def bob(devserver: DevServer) -> Iterator[PandaClient]:
    config = ClientConfig(
        url_ssl=devserver.url_ssl, auth="oidc", vo="wlcg", token=devserver.token(), ca=devserver.ca_file
    )
    with PandaClient(config) as client:
        yield client


def downloader(rude: Rude) -> PandaClient:
    return PandaClient(ClientConfig(url=rude.url, auth="oidc", vo="wlcg", token="a.b.c"), sleep=lambda _: None)


def broken(content: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A reply that promises the whole content and sends a part."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def test_a_file_goes_up_and_down_with_progress(bob: PandaClient, tmp_path: Path) -> None:
    file = tmp_path / "sources.1.tar.gz"
    file.write_bytes(CONTENT)
    up: list[tuple[int, int | None]] = []
    down: list[tuple[int, int | None]] = []
    name = bob.put_file(file, progress=lambda done, total: up.append((done, total)))
    copy = bob.download(name, tmp_path / "copy", progress=lambda done, total: down.append((done, total)))
    assert copy.read_bytes() == CONTENT
    for heard in (up, down):
        assert heard == sorted(heard)
        assert len(heard) > 1
        assert heard[-1] == (len(CONTENT), len(CONTENT))


def test_a_file_that_was_uploaded_before_is_not_sent_again(bob: PandaClient, tmp_path: Path) -> None:
    first, second, other = (tmp_path / f"sources.{n}.tar.gz" for n in range(3))
    for file in (first, second):
        file.write_bytes(gzip.compress(b"the same", mtime=0))
    other.write_bytes(gzip.compress(b"another", mtime=0))
    heard: list[int] = []
    assert bob.put_file(first, reuse=True) == first.name
    assert bob.put_file(second, reuse=True, progress=lambda done, _: heard.append(done)) == first.name
    assert heard == []
    assert bob.put_file(other, reuse=True) == other.name
    assert bob.find_file(second).name == first.name


def test_a_name_holds_what_was_uploaded_first(bob: PandaClient, tmp_path: Path) -> None:
    file = tmp_path / "sources.1.tar.gz"
    file.write_bytes(b"first")
    assert bob.put_file(file) == bob.put_file(file) == file.name
    file.write_bytes(b"other")
    with pytest.raises(Refused, match="holds another file called"):
        bob.put_file(file)


def test_a_file_too_short_for_a_checksum_can_be_looked_for(bob: PandaClient, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"")
    assert not bob.find_file(file)
    with pytest.raises(UsageError, match="nosuch cannot be read"):
        bob.put_file(tmp_path / "nosuch", reuse=True)


@given(st.binary())
def test_the_checksum_is_that_of_gzip(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("gzip") / "x.gz"
    file.write_bytes(gzip.compress(content))
    assert gzip_checksum(file) == zlib.crc32(content)


def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    length = f"Content-Length: {len(CONTENT)}"
    first = broken(CONTENT[:1000], length, 'ETag: "v1"')
    left = len(CONTENT) - 1000
    rest = [f"Content-Length: {left}", f"Content-Range: bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}", 'ETag: "v1"']
    with serve(first, broken(CONTENT[1000:], *rest, status="206 Partial Content")) as rude, downloader(rude) as client:
        assert client.download("x", tmp_path).read_bytes() == CONTENT
        asked = rude.requests[1].headers
    assert (asked["Range"], asked["If-Range"]) == ("bytes=1000-", '"v1"')
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("tag", ['ETag: "v1"', 'ETag: W/"v1"', "X-None: 1"])
def test_a_file_that_changed_meanwhile_is_read_from_the_start(tmp_path: Path, tag: str) -> None:
    first = broken(b"old beginning", "Content-Length: 100", tag)
    with serve(first, reply(CONTENT, ETag='"v2"')) as rude, downloader(rude) as client:
        assert client.download("x", tmp_path).read_bytes() == CONTENT
        assert ("Range" in rude.requests[1].headers) == (tag == 'ETag: "v1"')


def test_another_part_than_was_asked_for_is_not_taken(tmp_path: Path) -> None:
    with Partial(tmp_path / "x") as partial:
        partial.take(200, {"ETag": '"v1"'}, [b"123"])
        with pytest.raises(ServerError, match="another part of x"):
            partial.take(206, {"Content-Range": "bytes 2-5/6"}, [b"3456"])
    assert list(tmp_path.iterdir()) == []


def test_nothing_takes_the_place_of_a_file_before_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), Partial(file) as partial:
        partial.take(200, {}, (bytes(1 // n) for n in (1, 0)))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
