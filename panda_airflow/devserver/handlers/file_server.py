"""Server module ``file_server``: the cache of sandboxes, outputs and logs, which everybody may read."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Backend, FileStorage, Identity
from panda_airflow.devserver.storage.store import DatabaseDown, Row

MB = 1024 * 1024
SANDBOX_LIMIT = 768 * MB
NO_BUILD_LIMIT = 10 * MB
LOG_LIMIT = 100 * MB
CHECKPOINT_LIMIT = 500 * MB
UNRECORDED = ".out"
"""Files with this ending count as logs and are not recorded in the database."""

_TOO_LARGE = "ERROR: upload failure. Exceeded size limit"
_ACCEPTED = "The request was accepted and will be processed in a few minutes"
_DATABASE_DOWN = "ERROR: DB failure"
_REMEMBERED = timedelta(days=3)


def upload_cache_file(backend: Backend, caller: Identity | None, file: FileStorage) -> Envelope:
    """Keep a file under its own name; the first upload of a name wins, a later one only renews its time."""
    if refusal := _too_large(file):
        return Envelope(success=False, message=refusal)
    try:
        path = _inside(backend.cache, file.filename)
        if path.exists() and not file.filename.endswith(".__ow__"):
            os.utime(path)
            return Envelope(success=False, message="ERROR: cannot overwrite file")
        _store(file.file, path)
    except (OSError, ValueError):
        return Envelope(success=False, message="ERROR: cannot write file")
    if not file.filename.endswith(UNRECORDED):
        failure = _record(backend, caller.name if caller else "", file.filename, path.stat().st_size, _footer_crc(path))
        if failure:
            return Envelope(False, f"ERROR : failed to register sandbox to DB with {failure}")
    return Envelope(success=True)


def validate_cache_file(backend: Backend, caller: Identity | None, file_size: int, checksum: int | str) -> Envelope:
    """Find a file that the caller uploaded within three days by its size and checksum."""
    try:
        found = _find(backend, caller, file_size, str(checksum))
    except DatabaseDown:
        return Envelope(success=False, message=_DATABASE_DOWN)
    if found is None:
        return Envelope(success=False, message="NOTFOUND")
    return Envelope(success=True, message=f"FOUND:{found['hostName']}:{found['fileName']}")


def _find(backend: Backend, caller: Identity | None, size: int, checksum: str) -> Row | None:
    return backend.store.row(
        "SELECT hostName, fileName FROM cache_files"
        " WHERE userName = ? AND fileSize = ? AND checkSum = ? AND creationTime > ?",
        caller.name if caller else "", size, checksum, backend.clock() - _REMEMBERED,
    )  # fmt: skip


def touch_cache_file(backend: Backend, caller: Identity | None, file_name: str) -> Envelope:
    """Renew a file's time."""
    try:
        os.utime(_inside(backend.cache, file_name))
    except FileNotFoundError as error:
        message = f"Failed to touch file with: {type(error)} [Errno {error.errno}] {error.strerror}"
        return Envelope(success=False, message=message)
    except ValueError as error:
        return Envelope(success=False, message=f"Failed to touch file with: {type(error)} {error}")
    return Envelope(success=True)


def delete_cache_file(backend: Backend, caller: Identity | None, file_name: str) -> Envelope:
    """Say yes and keep the file."""
    return Envelope(success=True)


def register_cache_file(
    backend: Backend, caller: Identity | None, user_name: str, file_name: str, file_size: int, checksum: str
) -> Envelope:
    """Record a file as an upload does."""
    failure = _record(backend, user_name, file_name, file_size, checksum)
    return Envelope(success=not failure, message=failure)


def upload_jedi_log(backend: Backend, caller: Identity | None, file: FileStorage) -> Envelope:
    """Keep a log of JEDI and tell its URL; an older one is replaced."""
    if file.content_length > LOG_LIMIT:
        return Envelope(success=False, message=_TOO_LARGE)
    try:
        path = _inside(backend.cache / "jedilog", file.filename)
        _store(file.file, path)
    except (OSError, ValueError) as error:
        return Envelope(success=False, message=f"failed to write log with {type(error).__name__}:{error}")
    return Envelope(success=True, data=f"{backend.base_url}/cache/jedilog/{path.name}")


def update_jedi_log(backend: Backend, caller: Identity | None, file: FileStorage) -> Envelope:
    """Fail, as panda-server 1.0.4 does on every well-formed request: it mixes up text and bytes."""
    problem: Exception = TypeError("write() argument must be str, not bytes")
    try:
        zlib.decompress(file.file.read())
    except zlib.error as error:
        problem = error
    return Envelope(success=False, message=f"ERROR: cannot update file with {type(problem)} {problem}")


def download_jedi_log(backend: Backend, caller: Identity | None, log_name: str, offset: int = 0) -> str:
    """Read a text file of the cache after a blank; only the blank if there is none."""
    try:
        with _inside(backend.cache, log_name).open() as file:
            file.seek(offset)
            return f" {file.read()}"
    except (OSError, ValueError):
        return " "


def upload_hpo_checkpoint(backend: Backend, caller: Identity | None, file: FileStorage) -> Envelope:
    """Keep a checkpoint that is named ``<task ID>_<sub ID>``; an older one is replaced."""
    parts = file.filename.split("/")[-1].split("_")
    if len(parts) != 2:  # noqa: PLR2004 - task and sub ID
        return Envelope(success=False, message="Failed to extract task and sub IDs")
    if file.content_length > CHECKPOINT_LIMIT:
        return Envelope(success=False, message=f"Exceeded size limit {file.content_length}>{CHECKPOINT_LIMIT}")
    path = _checkpoint(backend, *parts)
    _store(file.file, path)
    return Envelope(True, f"Successfully placed at {path}", str(path))


def delete_hpo_checkpoint(backend: Backend, caller: Identity | None, task_id: str, sub_id: str) -> Envelope:
    """Delete a checkpoint."""
    try:
        _checkpoint(backend, task_id, sub_id).unlink()
    except (OSError, ValueError) as error:
        return Envelope(success=False, message=f"Failed to delete file due to {error}")
    return Envelope(success=True)


def upload_file_recovery_request(
    backend: Backend,
    caller: Identity | None,
    task_id: int | None = None,
    dry_run: bool | None = None,
    dataset: str | None = None,
    files: list[str] | None = None,
    no_child_retry: bool = True,
    resurrect_datasets: bool = False,
    force: bool = False,
    reproduce_parent: bool = False,
    reproduce_upto_nth_gen: int = 0,
) -> Envelope:
    """Write the request down as ``recov.<uuid>`` in the cache and name the log; JEDI looks there."""
    if not task_id and not dataset:
        return Envelope(success=False, message="Either task_id or dataset must be provided")
    log_name = f"jedilog/lost_file_recovery.{uuid4()}.log"
    request: dict[str, Any] = {
        "userName": caller.dn if caller else "", "creationTime": f"{backend.clock():%Y-%m-%d %H:%M:%S}",
        "logFilename": log_name, "isProductionManager": bool(caller and caller.production), "jediTaskID": task_id,
        "dryRun": dry_run, "ds": dataset, "files": ",".join(files or ()), "noChildRetry": no_child_retry,
        "resurrectDS": resurrect_datasets, "force": force, "reproduceParent": reproduce_parent,
        "reproduceUptoNthGen": reproduce_upto_nth_gen,
    }  # fmt: skip
    (backend.cache / f"recov.{uuid4()}").write_text(json.dumps({key: value for key, value in request.items() if value}))
    (backend.cache / log_name).touch()
    return Envelope(True, _ACCEPTED, {"logFileURL": f"{backend.base_url}/cache/{log_name}"})


def _inside(directory: Path, filename: str) -> Path:
    """Take the last part of a name, as the server does, and refuse what is no name of a file.

    :raises ValueError: the name is empty, a directory or holds a NUL.
    """
    name = filename.rsplit("/", maxsplit=1)[-1]
    if name in ("", ".", "..") or "\0" in name:
        raise ValueError(f"{filename!r} is no file name")
    return directory / name


def _checkpoint(backend: Backend, task_id: str, sub_id: str) -> Path:
    return _inside(backend.cache, f"hpo_cp_{task_id}_{sub_id}".replace("/", "_"))


def _too_large(file: FileStorage) -> str:
    """Say by how much a request is too large; the limits go by the name as the client gave it."""
    limit, advice = (
        NO_BUILD_LIMIT,
        ("Please submit the job without --noBuild/--libDS since those options impose a tighter size limit"),
    )
    if file.filename.endswith(UNRECORDED) or file.filename.startswith("sources."):
        limit = LOG_LIMIT if file.filename.endswith(UNRECORDED) else SANDBOX_LIMIT
        advice = "Please remove redundant files from your work area"
    if file.content_length <= limit:
        return ""
    return f"{_TOO_LARGE} {file.content_length // MB} MB > {limit // MB} MB. {advice}"


def _store(source: BinaryIO, path: Path) -> None:
    """Write a file so that nobody sees half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".incoming.", delete=False) as incoming:
        shutil.copyfileobj(source, incoming)
    Path(incoming.name).chmod(0o644)
    Path(incoming.name).replace(path)


def _footer_crc(path: Path) -> str | None:
    """Read what would be the CRC32 in the footer of a gzip file, whatever the file is."""
    footer = 8
    with path.open("rb") as file:
        if path.stat().st_size < footer:
            return None
        file.seek(-footer, os.SEEK_END)
        return str(struct.unpack("<II", file.read())[0])


def _record(backend: Backend, user: str, name: str, size: int, checksum: str | None) -> str:
    """Record a file in the database; return the server's words if it is there already, or cannot be."""
    try:
        return _insert(backend, user, name, size, checksum)
    except DatabaseDown:
        return _DATABASE_DOWN


def _insert(backend: Backend, user: str, name: str, size: int, checksum: str | None) -> str:
    with backend.store.transaction():
        if backend.store.value("SELECT 1 FROM cache_files WHERE hostName = ? AND fileName = ?", "localhost", name):
            return "WARNING: file exist"
        backend.store.insert(
            "cache_files", userName=user, hostName="localhost", fileName=name, fileSize=size, checkSum=checksum,
            creationTime=backend.clock(),
        )  # fmt: skip
    return ""
