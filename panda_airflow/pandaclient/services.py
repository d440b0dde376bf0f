"""Functions of the reference for the server itself, secrets, workflows and iDDS."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.errors import UsageError
from panda_airflow.client.http.envelope import encode
from panda_airflow.client.models import Envelope, Json
from panda_airflow.client.session import PandaClient
from panda_airflow.pandaclient.calls import Answer, EC_Failed, Given, applied, attempt, calls, request, verdict, words


def _alive(envelope: Envelope, given: Given) -> Answer:
    return (0, envelope.message) if envelope.success else (EC_Failed, f"Problem with is_alive: {envelope.message}")


@calls("system/is_alive", _alive, words)
def hello(verbose: bool = False) -> Answer:
    """Ask whether the server is there.

    :param verbose: show verbose messages.
    :return: status and a message, empty if all is well.
    """


def _certificate(envelope: Envelope, given: Given) -> Answer:
    if not envelope.success:
        return 0, "Could not retrieve certificate attributes"
    environment = envelope.data["environment"]
    return 0, {name: value for name, value in environment.items() if name.startswith("GRST_CRED")}


@calls("system/get_attributes", _certificate, words)
def get_cert_attributes(verbose: bool = False) -> Answer:
    """Read how the server sees the certificate of the caller.

    :param verbose: show verbose messages.
    :return: status and attributes by name, or a message.
    """


@calls("creds/set_user_secrets", verdict, key="key", value="value")
def set_user_secret(key: str | None, value: str | None, verbose: bool = False) -> Answer:
    """Store a secret, or delete some.

    :param key: its name; ``None`` deletes all secrets.
    :param value: ``None`` deletes this secret.
    :param verbose: show verbose messages.
    :return: status and (True, ``None``) or (False, message).
    """


def _secrets(envelope: Envelope, given: Given) -> Answer:
    return 0, (envelope.success, json.loads(envelope.data) if envelope.success else envelope.message)


@calls("creds/get_user_secrets", _secrets)
def get_user_secrets(verbose: bool = False) -> Answer:
    """Read one's secrets.

    :param verbose: show verbose messages.
    :return: status and (True, text by name) or (False, message).
    """


set_user_secert, get_user_secerts = set_user_secret, get_user_secrets


def _as_list(envelope: Envelope, given: Given) -> Answer:
    """Answer with what was in the body: the verdict, and the value or the message."""
    return 0, [envelope.success, envelope.data if envelope.success else envelope.message]


def _loaded(envelope: Envelope, given: Given) -> Answer:
    status, result = _as_list(envelope, given)
    return status, applied(given["loader"], encode(result)) if given["loader"] else result


def _dumped(name: str) -> Callable[[Given], str | None]:
    return lambda given: applied(given.get("dumper") or json.dumps, given[name]) if given[name] else None


@calls(
    replace(REGISTRY["idds/relay_idds_command"], legacy=True),
    _loaded,
    words,
    command_name="command_name",
    args=_dumped("args"),
    kwargs=_dumped("kwargs"),
    manager=lambda given: given["manager"] or None,
    json_outputs=lambda given: given["json_outputs"] or None,
)
def call_idds_command(
    command_name: str,
    args: list[Any] | None = None,
    kwargs: dict[str, Any] | None = None,
    dumper: Callable[[Any], str] | None = None,
    verbose: bool = False,
    compress: bool = False,
    manager: bool = False,
    loader: Callable[[str], Any] | None = None,
    json_outputs: bool = False,
    n_try: int = 1,
) -> Answer:
    """Call a method of the iDDS client on the server.

    :param command_name: the method.
    :param args: its positional arguments.
    :param kwargs: its named arguments.
    :param dumper: writes the arguments as JSON.
    :param verbose: show verbose messages.
    :param compress: without effect: the server wants a compressed body.
    :param manager: take the method of ``ClientManager``.
    :param loader: reads the result from JSON.
    :param json_outputs: ask a manager for values instead of text.
    :param n_try: without effect: a command is sent once.
    :return: status and [True, result] or [False, message], or what the loader makes of it.
    """


@calls(
    replace(REGISTRY["idds/execute_idds_workflow_command"], legacy=True),
    _as_list,
    words,
    command_name="command_name",
    kwargs=_dumped("kwargs"),
    json_outputs=lambda given: given["json_outputs"] or None,
)
def call_idds_user_workflow_command(
    command_name: str,
    kwargs: dict[str, Any] | None = None,
    verbose: bool = False,
    json_outputs: bool = False,
    n_try: int = 1,
) -> Answer:
    """Look at or command a workflow of one's own.

    :param command_name: ``get_status``, ``abort``, ``retry``, ...
    :param kwargs: its arguments, such as ``{"request_id": 3}``.
    :param verbose: show verbose messages.
    :param json_outputs: ask for values instead of text.
    :param n_try: without effect: a command is sent once.
    :return: as from :func:`call_idds_command`.
    """


def _put_workflow_request(self: object, data: str, check: bool = False, sync: bool = False) -> Json:
    """Specify the method of the server that processes a workflow at once and answers what came of it."""


_PUT_WORKFLOW = Endpoint(
    "POST", "file_server/put_workflow_request", _put_workflow_request, idempotent=False, legacy=True
)


def send_workflow_request(
    params: dict[str, Any], relay_host: str | None = None, check: bool = False, verbose: bool = False
) -> Answer:
    """Submit a CWL, Snakemake or yadage workflow.

    :param params: ``language``, ``sandbox``, ``sourceURL``, ``outDS``, ``workflowSpecFile``, ``workflowInputFile``.
    :param relay_host: send it to this host.
    :param check: only check the description.
    :param verbose: show verbose messages.
    :return: status and [True, what came of it] or [False, message].
    """
    overrides = {"url_ssl": f"https://{relay_host}:25443"} if relay_host else {}
    switch = "check" if check else "sync"

    def send(client: PandaClient) -> Answer:
        return _as_list(request(client, _PUT_WORKFLOW, {"data": applied(json.dumps, params), switch: True}), {})

    return attempt(send, words, **overrides)


@calls("workflow/submit_workflow_raw_request", verdict, params="params")
def submit_workflow(params: dict[str, Any], **kwargs: Any) -> Answer:
    """Submit a workflow that PanDA itself carries out.

    :param params: its definition.
    :param kwargs: without effect.
    :return: status and (True, ``{"workflow_id": n}``) or (False, message).
    """


def submit_workflow_tmp(
    params: dict[str, Any], relay_host: str | None = None, check: bool = False, verbose: bool = False
) -> Answer:
    """Submit a workflow as :func:`submit_workflow` does, under the name that old programs use.

    :param params: its definition.
    :param relay_host: without effect.
    :param check: without effect.
    :param verbose: show verbose messages.
    :return: as from :func:`submit_workflow`.
    """
    return submit_workflow(params)


def _get_workflow_details(self: object, workflow_id: int) -> dict[str, Json]:
    """Specify a server method that panda-server 1.0.4 does not have yet."""


@calls(
    Endpoint("GET", "workflow/get_workflow_details", _get_workflow_details, idempotent=True),
    verdict,
    workflow_id="workflow_id",
)
def get_workflow_details(workflow_id: int, verbose: bool = False) -> Answer:
    """Read a workflow with its steps and data; fails with panda-server 1.0.4.

    :param workflow_id: as :func:`submit_workflow` returned it.
    :param verbose: show verbose messages.
    :return: status and (True, the workflow) or (False, message).
    """


def requestEventPicking(
    eventPickEvtList: str,
    eventPickDataType: str,
    eventPickStreamName: str,
    eventPickDS: str,
    eventPickAmiTag: str,
    fileList: list[str],
    fileListName: str,
    outDS: str,
    lockedBy: str,
    params: str,
    eventPickNumSites: int,
    eventPickWithGUID: bool,
    ei_api: str,
    verbose: bool = False,
) -> tuple[bool, str]:
    """Ask for a dataset of chosen events.

    :param eventPickEvtList: file with a run and an event number on each line.
    :param eventPickDataType: such as ``AOD``.
    :param eventPickStreamName: such as ``physics_Main``.
    :param eventPickDS: where to look.
    :param eventPickAmiTag: processing version of the input.
    :param fileList: names of files to look into.
    :param fileListName: file with more of them, one a line; may be empty.
    :param outDS: the dataset is called like its first two parts.
    :param lockedBy: who asks.
    :param params: parameters of the job that uses the dataset.
    :param eventPickNumSites: number of sites.
    :param eventPickWithGUID: the lines carry GUIDs.
    :param ei_api: version of the event index.
    :param verbose: show verbose messages.
    :return: (True, name of the dataset) or (False, message).
    """
    dataset = f"{'.'.join(outDS.split('.')[:2])}.{uuid.uuid4()}/"

    def send(client: PandaClient) -> Answer:
        arguments = {
            "run_event_list": _read(eventPickEvtList),
            "data_type": eventPickDataType,
            "stream_name": eventPickStreamName,
            "dataset_name": eventPickDS,
            "ami_tag": eventPickAmiTag,
            "user_dataset_name": dataset,
            "locked_by": lockedBy,
            "parameters": params,
            "input_file_list": ",".join(filter(None, [*fileList, *(_read(fileListName).split("\n"))])),
            "n_sites": str(eventPickNumSites) if eventPickNumSites > 1 else None,
            "ei_api": ei_api or None,
            "include_guids": bool(eventPickWithGUID),
        }
        envelope = request(client, "file_server/upload_event_picking_request", arguments)
        return (0, dataset) if envelope.success else (EC_Failed, envelope.message)

    status, output = attempt(send, words)
    return status == 0, output


def _read(name: str) -> str:
    """Read a file of the caller; no name stands for an empty one.

    :raises UsageError: it cannot be read.
    """
    try:
        return Path(name).read_text() if name else ""
    except OSError as error:
        raise UsageError(f"{name} cannot be read ({error.strerror}); nothing was sent.") from error
