"""Task parameters: which the server accepts, and those of the commonest task, a command in many jobs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Json

RUN_GEN = "https://pandaserver-doma.cern.ch/trf/user/runGen-00-00-02"
"""The transformation that unpacks a sandbox and runs a command, as PanDA serves it."""

TASK_NAME_LIMIT = 256
"""Longest task name that the server's database holds, in characters."""

REQUIRED_TO_REGISTER = ("taskName", "vo", "prodSourceLabel")
"""Without one of these the server answers ``failed to register task``."""

REQUIRED_TO_REFINE = ("processingType", "taskType", "architecture", "transUses", "transHome")
"""Without one of these the server accepts the task and JEDI breaks it minutes later; ``None`` is a value."""

STAMP = "airflow"
"""The task parameter that says who submitted a task, and the framework of a task that names none itself."""


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


def check_submission(arguments: Mapping[str, Any]) -> None:
    """Refuse what the server would refuse, or accept and break.

    :param arguments: those of ``task/submit``.
    :raises UsageError: names every missing parameter, or the one that is too long.
    """
    parameters = arguments["task_parameters"]
    if not isinstance(parameters, Mapping):
        raise UsageError(f"task_parameters must be a dict, not {type(parameters).__name__}; nothing was submitted.")
    absent = [name for name in REQUIRED_TO_REGISTER if not parameters.get(name)]
    absent += [name for name in REQUIRED_TO_REFINE if name not in parameters]
    if absent:
        raise UsageError(f"the task parameters lack {', '.join(absent)}; nothing was submitted.")
    name = parameters["taskName"]
    if not isinstance(name, str) or len(name) > TASK_NAME_LIMIT:
        raise UsageError(
            f"taskName must be text of at most {TASK_NAME_LIMIT} characters, this one has {len(str(name))}; "
            "nothing was submitted."
        )


def definition_digest(parameters: Mapping[str, Any]) -> str:
    """Tell one task definition from another, whatever the order of its parameters.

    :param parameters: JEDI's task parameters, in JSON primitives.
    """
    return digest(json.dumps(parameters, sort_keys=True, default=repr))


def digest(text: str) -> str:
    """Write 16 characters that tell a text from any other."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
