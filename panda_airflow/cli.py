"""The command ``panda-airflow``: run the embedded PanDA server, issue credentials for it, and check any server."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from panda_airflow.check.command import add_check
from panda_airflow.client.errors import ConfigError, PandaError
from panda_airflow.devserver.auth.certificates import Authority, write_private
from panda_airflow.devserver.auth.identity import AccessPolicy
from panda_airflow.devserver.auth.tokens import TokenIssuer
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer

HOUR = 3600.0
TOKEN_LIFETIME = 7 * 24 * HOUR
PRIVATE = 0o077
"""The umask under which nobody else can read what is written."""

EXAMPLES = Path(__file__).parents[1] / "dags_examples"
"""Beside the package, in a checkout and where it is installed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: without the program's name; those of the process if not given.
    :return: exit code: 0, or 1 after one line on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        text: str = options.run(options)
    except (PandaError, OSError) as error:
        sys.stderr.write(f"panda-airflow: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="panda-airflow", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_devserver(commands)
    token = commands.add_parser("token", help="print a token for the embedded server")
    token.add_argument("--vo", default="wlcg", help="virtual organisation (default: %(default)s)")
    proxy = commands.add_parser("proxy", help="make a grid proxy for the embedded server and print its path")
    for command, run, hours in ((token, _token, TOKEN_LIFETIME / HOUR), (proxy, _proxy, 12.0)):
        _add_root(command)
        command.add_argument("--name", default="Bob Tester", help="of the user (default: %(default)s)")
        command.add_argument("--production", action="store_true", help="with the production role")
        command.add_argument(
            "--lifetime",
            type=float,
            default=hours,
            metavar="HOURS",
            help="negative for an expired one (default: %(default)g)",
        )
        command.set_defaults(run=run)
    _add_demo(commands)
    add_check(commands)
    return parser


def _add_devserver(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pace = Pace()
    server = commands.add_parser(
        "devserver",
        help="run a PanDA server on this machine",
        description="Run a PanDA server on 127.0.0.1 until Ctrl-C. Jobs run as processes of this machine; "
        "tasks, files and keys stay in the root directory for the next start.",
    )
    _add_root(server)
    for name, default in (("http", 25080), ("https", 25443)):
        text = "0 takes a free one (default: %(default)s)"
        server.add_argument(f"--{name}-port", type=int, default=default, metavar="PORT", help=text)
    seconds = (
        ("registration", pace.registration, "how long a submitted task stays invisible"),
        ("cycle", pace.cycle, "time between two looks of JEDI at its tasks"),
        ("command", pace.command, "how long a command waits before JEDI executes it"),
        ("token-cache", 0.0, "how long a decision on a token is remembered; 600 on a real server"),
    )
    for name, value, meaning in seconds:
        text = f"seconds: {meaning} (default: %(default)g)"
        server.add_argument(f"--{name}", type=float, default=value, metavar="S", help=text)
    text = "jobs that run at the same time (default: %(default)s)"
    server.add_argument("--slots", type=int, default=pace.slots, metavar="N", help=text)
    server.set_defaults(run=_devserver)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "run an example DAG through a real Airflow and an embedded PanDA server"
    demo = commands.add_parser("demo", help=text, description=f"{text}, print its steps and check its result")
    demo.add_argument(
        "--root", type=Path, default=Path(".demo"), metavar="DIR", help="of all state (default: %(default)s)"
    )
    text = "of the example DAGs (default: %(default)s)"
    demo.add_argument("--dags", type=Path, default=EXAMPLES, metavar="DIR", help=text)
    demo.set_defaults(run=_demo)


def _add_root(command: argparse.ArgumentParser) -> None:
    text = "directory of the server's state (default: %(default)s)"
    command.add_argument("--root", type=Path, default=Path(".panda-devserver"), metavar="DIR", help=text)


def _devserver(options: argparse.Namespace) -> str:
    """Serve until SIGINT or SIGTERM."""
    os.umask(PRIVATE)
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    server = DevServer(
        options.root,
        pace=Pace(options.registration, options.cycle, options.command, options.slots),
        http_port=options.http_port,
        https_port=options.https_port,
        policy=AccessPolicy(decision_lifetime=options.token_cache),
    )
    with server:
        sys.stdout.write(_welcome(server))
        sys.stdout.flush()
        stopped.wait()
    return "stopped\n"


def _welcome(server: DevServer) -> str:
    """Describe how to reach a server, and leave a file to source, which alone holds a token."""
    token = server.token(lifetime=TOKEN_LIFETIME)
    variables = server.environment() | {
        "PANDA_AUTH": "oidc",
        "PANDA_AUTH_VO": "wlcg",
        "PANDA_AUTH_ID_TOKEN": token,
        "AIRFLOW_CONN_PANDA_DEFAULT": server.airflow_connection(token),
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    path = write_private(server.root / "env.sh", exports.encode())
    return (
        f"PanDA development server: {server.url} and {server.url_ssl}, state in {server.root}\n"
        f"For PanDA clients and Airflow in another shell, as Bob Tester of wlcg:\n\n"
        f"    . {shlex.quote(str(path))}\n\nCtrl-C stops it.\n"
    )


def _demo(options: argparse.Namespace) -> str:
    from panda_airflow.demo.runner import run_demo  # noqa: PLC0415 - needs what the other commands do not

    os.umask(PRIVATE)
    return run_demo(options.root, options.dags)


def _token(options: argparse.Namespace) -> str:
    issuer = TokenIssuer(_existing(options.root))
    lifetime = options.lifetime * HOUR
    return issuer.token(options.name, vo=options.vo, production=options.production, lifetime=lifetime) + "\n"


def _proxy(options: argparse.Namespace) -> str:
    authority = Authority(_existing(options.root))
    return f"{authority.proxy(options.name, production=options.production, lifetime=options.lifetime * HOUR)}\n"


def _existing(root: Path) -> Path:
    """Refuse a directory whose keys no server knows.

    :raises ConfigError: no embedded server has run there.
    """
    if not (root / "tls").is_dir():
        raise ConfigError(
            f"no embedded server has run in {root}.", advice="Name its directory with --root, or start one there."
        )
    return root.resolve()


if __name__ == "__main__":
    sys.exit(main())
