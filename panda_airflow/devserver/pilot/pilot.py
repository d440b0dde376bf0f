"""The pilot: runs one job as a local process group in its own scratch directory.

The payload's environment holds ``PATH``, ``HOME`` (the scratch directory), ``LANG`` and what a pilot gives:
``PandaID`` and ``PANDAID``, ``PanDA_TaskID`` (the JediTaskID) and ``PanDA_AttemptNr`` (from 1).
"""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from panda_airflow.devserver.pilot.payload import BadParameters, Payload, read_payload
from panda_airflow.devserver.storage.store import Row

GENERAL_ERROR, STAGE_IN_FAILED, SETUP_FAILED, STAGE_OUT_FAILED, KILLED_BY_SERVER = 1008, 1099, 1110, 1137, 1144
MISSING_OUTPUT, OUT_OF_TIME, PAYLOAD_FAILED = 1165, 1213, 1305
"""Error codes of the pilot."""

_TAIL = 400
_GRACE = 2.0
_LOOK = 0.05


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    :param code: the pilot's error code, 0 for success.
    :param text: its diagnostics.
    :param exit_code: what the payload returned, ``None`` if it never ran.
    :param tail: end of the payload's standard error.
    """

    code: int = 0
    text: str = ""
    exit_code: int | None = None
    tail: str = ""


class Failed(Exception):
    """The job cannot go on.

    :param outcome: why.
    """

    def __init__(self, outcome: JobOutcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


@dataclass
class Pilot:
    """Runs one job.

    :param job: its row.
    :param outputs: logical names of the files it has to make, logs apart.
    :param cache: directory of sandboxes, inputs and outputs.
    :param scratch: directory for this job alone, made and removed here.
    """

    job: Row
    outputs: list[str]
    cache: Path
    scratch: Path
    stop: Event = field(default_factory=Event)

    def run(self) -> JobOutcome:
        """Prepare the scratch directory, run the payload and copy its outputs into the cache."""
        try:
            payload = self._prepare()
            outcome = self._execute(payload)
            self._stage_out(payload, outcome)
        except Failed as failure:
            return failure.outcome
        except (OSError, ValueError) as error:
            return JobOutcome(GENERAL_ERROR, f"{type(error).__name__}: {error}")
        return outcome

    @property
    def _work(self) -> Path:
        return self.scratch / "work"

    def _prepare(self) -> Payload:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._work.mkdir(parents=True)
        try:
            payload = read_payload(self.job["jobParameters"])
        except BadParameters as error:
            raise Failed(JobOutcome(SETUP_FAILED, str(error))) from error
        if payload.sandbox:
            self._unpack(payload.sandbox)
        start = (self._work / payload.run_directory).resolve()
        if not start.is_relative_to(self._work.resolve()) or not start.is_dir():
            raise Failed(JobOutcome(SETUP_FAILED, f"the sandbox has no directory {payload.run_directory}"))
        for lfn in payload.inputs:
            self._stage_in(lfn, start)
        return payload

    def _unpack(self, name: str) -> None:
        archive = self.cache / Path(name).name
        if not archive.is_file():
            raise Failed(JobOutcome(SETUP_FAILED, f"the sandbox {name} is not in the cache"))
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(self._work, filter="data")
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise Failed(JobOutcome(SETUP_FAILED, f"cannot unpack the sandbox {name}: {error}")) from error

    def _stage_in(self, lfn: str, start: Path) -> None:
        source = self.cache / Path(lfn).name
        if not source.is_file():
            raise Failed(JobOutcome(STAGE_IN_FAILED, f"the input file {lfn} is not in the cache"))
        shutil.copy2(source, start / source.name)

    def _environment(self) -> dict[str, str]:
        python = Path(sys.executable).parent
        return {
            "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self._work),
            "LANG": "C.UTF-8",
            "PandaID": str(self.job["PandaID"]),
            "PANDAID": str(self.job["PandaID"]),
            "PanDA_TaskID": str(self.job["jediTaskID"]),
            "PanDA_AttemptNr": str(self.job["attemptNr"]),
        }

    def _execute(self, payload: Payload) -> JobOutcome:
        with (self.scratch / "payload.stdout").open("wb") as out, (self.scratch / "payload.stderr").open("wb") as err:
            process = subprocess.Popen(  # noqa: S603 - running what the author submitted is the pilot's task
                ["/bin/sh", "-c", payload.command],
                cwd=self._work / payload.run_directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        (self.scratch / "pgid").write_text(str(process.pid))
        try:
            trouble = self._watch(process)
        finally:
            end_group(process)
        tail = (self.scratch / "payload.stderr").read_bytes()[-_TAIL:].decode(errors="replace").strip()
        if trouble:
            raise Failed(JobOutcome(*trouble, process.returncode, tail))
        if process.returncode:
            said = f"Failed to execute payload: {tail}" if tail else "Failed to execute payload"
            raise Failed(JobOutcome(PAYLOAD_FAILED, said, process.returncode, tail))
        return JobOutcome(exit_code=0)

    def _watch(self, process: subprocess.Popen[bytes]) -> tuple[int, str] | None:
        """Wait for the payload to end; say why if it has to be ended."""
        deadline = time.monotonic() + self.job["maxWalltime"]
        while not self.stop.is_set():
            if time.monotonic() > deadline:
                return OUT_OF_TIME, f"Job has exceeded the maximum walltime of {self.job['maxWalltime']} s"
            try:
                process.wait(_LOOK)
            except subprocess.TimeoutExpired:
                continue
            return None
        return KILLED_BY_SERVER, "This job was killed by panda server"

    def _stage_out(self, payload: Payload, outcome: JobOutcome) -> None:
        start = self._work / payload.run_directory
        local_names = {lfn: local for local, lfn in payload.outputs.items()}
        for lfn in self.outputs:
            local = local_names.get(lfn, lfn)
            found = sorted(glob.glob(local, root_dir=start))
            if not found:
                said = f"Expected output file does not exist: {local}"
                raise Failed(JobOutcome(MISSING_OUTPUT, said, outcome.exit_code))
            self._keep([start / name for name in found], self.cache / Path(lfn).name, pack="*" in local)

    def _keep(self, sources: list[Path], target: Path, *, pack: bool) -> None:
        if not pack:
            shutil.copyfile(sources[0], target)
            return
        with tarfile.open(target, "w:gz") as archive:
            for source in sources:
                archive.add(source, source.name)

    def pack_log(self, lfn: str) -> None:
        """Pack what the payload printed into a log file in the cache.

        :param lfn: logical name of the log file.
        """
        with tarfile.open(self.cache / Path(lfn).name, "w:gz") as archive:
            for name in ("payload.stdout", "payload.stderr"):
                if (self.scratch / name).exists():
                    archive.add(self.scratch / name, f"tarball_PandaJob_{self.job['PandaID']}/{name}")

    def clean(self) -> None:
        """Remove the scratch directory."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def adler32(path: Path) -> str:
    """Checksum a file as PanDA writes it, ``ad:0a1b2c3d``."""
    value = 1
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            value = zlib.adler32(block, value)
    return f"ad:{value:08x}"


def _signal_group(group: int, number: signal.Signals) -> None:
    # An empty group is what is wanted; some systems refuse to signal one that holds only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End a process and all others of its group: politely at first, soon by force.

    :param leader: started as the leader of a new session.
    """
    _signal_group(leader.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        leader.wait(_GRACE)
    _signal_group(leader.pid, signal.SIGKILL)
    leader.wait()


def end_orphans(scratch: Path) -> None:
    """End the payloads that a server which died left behind, and remove their scratch directories.

    :param scratch: directory of all scratch directories.
    """
    for note in scratch.glob("*/pgid"):
        group = int(note.read_text())
        place = Path(f"/proc/{group}/cwd")
        if place.exists() and place.resolve().is_relative_to(note.parent.resolve()):
            _signal_group(group, signal.SIGKILL)
    shutil.rmtree(scratch, ignore_errors=True)
