"""Functions of the reference that move files."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

from panda_airflow.client.errors import NotFound, PandaError
from panda_airflow.client.files import refuse_large
from panda_airflow.client.session import PandaClient
from panda_airflow.pandaclient.calls import Answer, attempt, request, words
from panda_airflow.pandaclient.servers import session, setCacheServer


def putFile(
    file: str, verbose: bool = False, useCacheSrv: bool = False, reuseSandbox: bool = False, n_try: int = 1
) -> Answer:
    """Upload a file to the cache.

    :param file: at most 768 MB if it is called ``sources.*``, 100 MB if ``*.out``, else 10 MB.
    :param verbose: show verbose messages.
    :param useCacheSrv: upload to the cache server, not to the PanDA server itself.
    :param reuseSandbox: use an earlier upload of the same content, and the machine that holds it.
    :param n_try: how often to try, if more often than usual.
    :return: status and ``True`` as text, ``NewFileName:<name>`` for an earlier upload, or a message.
    """

    def put(client: PandaClient) -> Answer:
        found = client.find_file(Path(file)) if reuseSandbox else None
        if found:
            if found.host:
                setCacheServer(found.host)
            return 0, f"NewFileName:{found.name}"
        uploader = client if useCacheSrv else session(cache_url=client.config.server, **_tries(n_try))
        return 0, _upload(uploader, Path(file))

    return attempt(put, words, **_tries(n_try))


def _upload(client: PandaClient, file: Path) -> str:
    """Upload a file and return the server's words, unless it holds the same already."""
    refuse_large(file)
    envelope = request(client, "file_server/upload_cache_file", {"file": file})
    taken = "cannot overwrite file" in envelope.message
    return "True" if envelope.success or (taken and client.holds(file)) else envelope.message


def getFile(filename: str, output_path: str | None = None, verbose: bool = False, n_try: int = 1) -> Answer:
    """Download a file from the cache.

    :param filename: its name in the cache.
    :param output_path: where to write it; its own name if not given.
    :param verbose: show verbose messages.
    :param n_try: how often to try, if more often than usual.
    :return: (0, ``True``), or 404 if there is no such file, 1 for any other failure, and a message.
    """

    def get(client: PandaClient) -> Answer:
        client.download(filename, Path(output_path or filename))
        return 0, True

    def failed(error: PandaError) -> Answer:
        return int(HTTPStatus.NOT_FOUND) if isinstance(error, NotFound) else 1, str(error)

    return attempt(get, failed, **_tries(n_try))


def _tries(number: int) -> dict[str, Any]:
    return {"attempts": number} if number > 1 else {}
