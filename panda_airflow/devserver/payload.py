"""How ``runGen``, the transformation of prun, reads its command line. No I/O.

``prun`` and its likes describe a job as
``-j "" --sourceURL URL -r RUNDIR -a SANDBOX -o "{'local': 'LFN'}" -i "['LFN', ...]" -p "URL-quoted command"``.
"""

from __future__ import annotations

import ast
import re
import shlex
from argparse import ArgumentParser
from dataclasses import dataclass
from urllib.parse import unquote


class BadParameters(ValueError):
    """The job parameters cannot be understood."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise BadParameters(message)


@dataclass(frozen=True)
class Payload:
    """What a job has to run.

    :param command: a shell command.
    :param run_directory: where it starts, relative to the unpacked sandbox.
    :param sandbox: name of the archive in the cache, or an empty string.
    :param inputs: logical names of the input files.
    :param outputs: logical name by the name, or pattern with ``*``, that the command gives a file.
    """

    command: str
    run_directory: str
    sandbox: str
    inputs: tuple[str, ...]
    outputs: dict[str, str]


def read_payload(parameters: str) -> Payload:
    """Read job parameters, placeholders already filled in.

    Options that steer experiment software are ignored.

    :raises BadParameters: there is no command, or an option has no readable value.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-p", dest="command")
    parser.add_argument("-r", dest="run_directory", default=".")
    parser.add_argument("-a", dest="sandbox", default="")
    parser.add_argument("-l", dest="library", default="")
    parser.add_argument("-o", dest="outputs", default="{}")
    parser.add_argument("-i", dest="inputs", default="[]")
    for ignored in ("-j", "--sourceURL"):
        parser.add_argument(ignored)
    try:
        options = parser.parse_known_args(shlex.split(parameters))[0]
        inputs, outputs = ast.literal_eval(options.inputs), ast.literal_eval(options.outputs)
    except (ValueError, SyntaxError) as error:
        raise BadParameters(f"cannot read the job parameters {parameters!r}: {error}") from error
    if options.command is None or not isinstance(inputs, list) or not isinstance(outputs, dict):
        raise BadParameters(f"the job parameters {parameters!r} lack -p, or -i and -o are no list and map")
    command = _with_inputs(unquote(options.command), inputs)
    sandbox = options.sandbox or options.library
    return Payload(command, options.run_directory, sandbox, tuple(map(str, inputs)), outputs)


def _with_inputs(command: str, inputs: list[str]) -> str:
    return re.sub(r"%IN\b", lambda _: ",".join(inputs), command)
