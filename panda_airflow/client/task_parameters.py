"""Task parameters for the commonest task: run a command in many jobs, as ``prun`` does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Json

RUN_GEN = "https://pandaserver-doma.cern.ch/trf/user/runGen-00-00-02"
"""The transformation that unpacks a sandbox and runs a command, as PanDA serves it."""


def command_task(
    name: str,
    command: str,
    *,
    vo: str,
    jobs: int = 1,
    outputs: Sequence[str] = (),
    sandbox: str | None = None,
    site: str | None = None,
    max_attempt: int = 3,
    **more: Json,
) -> dict[str, Json]:
    """Build the parameters of a task that runs one command in several jobs, without input datasets.

    :param name: task name and stem of the dataset names, such as ``user.alice.higgs.20260101``.
    :param command: shell command; ``%RNDM:0`` in it becomes the number of the job, counted from 1, as JEDI counts.
        A Jinja expression, ``{{ ds }}``, is rendered by the step that submits.
    :param vo: virtual organisation.
    :param jobs: how many jobs run it.
    :param outputs: files that each job leaves in its directory, each gathered in its own dataset.
    :param sandbox: archive in the cache, as ``put_file`` returned it, unpacked before the command runs.
    :param site: run here only.
    :param max_attempt: attempts of each job within the task.
    :param more: further task parameters, such as ``ramCount``; they win over these.
    :raises UsageError: an output has a name that the job's command line cannot carry.
    """
    for output in outputs:
        if not re.fullmatch(r"[\w.+*-]+", output):
            raise UsageError(f"the output {output!r} needs a name of letters, digits and . _ + - * only.")
    files = {output: f"{name}.$JEDITASKID._${{SN/P}}.{output}" for output in outputs}
    arguments = [_constant('-j "" --sourceURL ${SURL}'), _constant("-r .")]
    arguments += [_constant(f"-a {sandbox}")] if sandbox else []
    arguments += [_hidden_output(f"{name}_{output}/", lfn) for output, lfn in files.items()]
    arguments += [_constant(f'-o "{files}"')] if files else []
    arguments += [_constant('-p "', padding=False), *_payload(command), _constant('"')]
    return {
        "taskName": name,
        "vo": vo,
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": "panda-airflow",
        "architecture": "",
        "transUses": "",
        "transHome": None,
        "transPath": RUN_GEN,
        "site": site,
        "noInput": True,
        # JEDI splits a task without input by its events; one by its files would be a single job.
        "nEvents": jobs,
        "nEventsPerJob": 1,
        "maxAttempt": max_attempt,
        "skipScout": True,
        "jobParameters": arguments,
        "log": _dataset(f"{name}.log/", "log", f"{name}.log.$JEDITASKID.${{SN}}.log.tgz"),
    } | more


def _constant(value: str, **more: Json) -> dict[str, Json]:
    return {"type": "constant", "value": value} | more


def _payload(command: str) -> list[dict[str, Json]]:
    """Quote the command for the job, with JEDI's sequence number in place of ``%RNDM:<offset>``."""
    number = {"type": "template", "param_type": "pseudo_input", "dataset": "seq_number", "value": "${SEQNUMBER}"}
    text, *numbered = re.split(r"%RNDM:(\d+)", command)
    arguments = [_constant(_quoted(text), padding=False)]
    for offset, text in zip(numbered[::2], numbered[1::2], strict=True):
        arguments += [number | {"offset": int(offset), "padding": False}, _constant(_quoted(text), padding=False)]
    return arguments


def _quoted(text: str) -> str:
    """Quote text for a URL; a Jinja expression in it stays one, and what it yields is quoted when it is rendered."""
    parts = re.split(r"\{\{(.*?)\}\}", text, flags=re.DOTALL)
    parts[::2] = map(quote, parts[::2])
    parts[1::2] = (f"{{{{ ({expression}) | string | urlencode }}}}" for expression in parts[1::2])
    return "".join(parts)


def _hidden_output(dataset: str, lfn: str) -> dict[str, Json]:
    return _dataset(dataset, "output", lfn) | {"hidden": True}


def _dataset(dataset: str, kind: str, lfn: str) -> dict[str, Any]:
    return {"type": "template", "param_type": kind, "dataset": dataset, "container": dataset, "value": lfn}
