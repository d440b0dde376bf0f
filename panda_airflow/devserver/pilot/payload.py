"""How ``runGen``, the transformation of prun, reads its command line. No I/O.

``prun`` and its likes describe a job as
``-j "" --sourceURL URL -r RUNDIR -a SANDBOX -o "{'local': 'LFN'}" -i "['LFN', ...]" -p "URL-quoted command"``.
Here ``--bexec "URL-quoted command"`` may follow, a command of ``buildGen``: what to do before, in the same directory.
"""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from urllib.parse import unquote

_OPTIONS = frozenset({"-p", "-r", "-a", "-l", "-o", "-i", "-j", "--bexec"})
"""Options with a value; ``-j`` is read only so that its value is not taken for another."""


class BadParameters(ValueError):
    """The job parameters cannot be understood."""


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
    try:
        options = _options(shlex.split(parameters))
        inputs = ast.literal_eval(options.get("-i", "[]"))
        outputs = ast.literal_eval(options.get("-o", "{}"))
    except (ValueError, SyntaxError) as error:
        raise BadParameters(f"cannot read the job parameters {parameters!r}: {error}") from error
    if "-p" not in options or not isinstance(inputs, list) or not isinstance(outputs, dict):
        raise BadParameters(f"the job parameters {parameters!r} lack -p, or -i and -o are no list and map")
    command = _with_inputs(unquote(options["-p"]), inputs)
    if build := unquote(options.get("--bexec", "")):
        command = f"(\n{build}\n) || exit\n{command}"
    sandbox = options.get("-a") or options.get("-l", "")
    return Payload(command, options.get("-r", "."), sandbox, tuple(map(str, inputs)), outputs)


def _options(words: list[str]) -> dict[str, str]:
    rest = iter(words)
    return {word: next(rest, "") for word in rest if word in _OPTIONS}


def _with_inputs(command: str, inputs: list[str]) -> str:
    return re.sub(r"%IN\b", lambda _: ",".join(inputs), command)
