"""The command ``panda-airflow check``: whether a connection can be used, and the server answers as real ones do."""

from __future__ import annotations

import argparse
import os
import sys

from panda_airflow.check.reading import READING
from panda_airflow.check.scenario import DIFFERENT, Patience, Result, Stage, perform
from panda_airflow.check.table import table
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import AuthError, ConfigError, PandaError, ServerError, TransportError
from panda_airflow.client.session import PandaClient

AS_EXPECTED, DIFFERS, UNUSABLE, OUT_OF_REACH = range(4)
"""Exit codes."""


def add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command.

    :param commands: of ``panda-airflow``.
    """
    check = commands.add_parser(
        "check",
        help="tell whether a PanDA server can be reached, and answers as it should",
        description="Ask a PanDA server who we are; with --live also many other questions, which change nothing there. "
        "Exit code: 0 all as expected, 1 something differs, 2 the connection cannot be used, 3 the server cannot be "
        "reached.",
    )
    check.add_argument("--conn-id", metavar="ID", help="Airflow connection; without it PANDA_URL_SSL and the like")
    check.add_argument("--live", action="store_true", help="compare the server's answers with those of real servers")
    check.set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> str:
    """Check, and print what was found.

    :param options: ``conn_id`` and ``live``.
    :return: what remains to be printed: nothing.
    :raises SystemExit: with another exit code than 0.
    """
    try:
        text, code = check(find_config(options.conn_id), live=options.live)
    except PandaError as error:
        text, code = f"panda-airflow: {error}\n", exit_code(error)
    (sys.stderr if code >= UNUSABLE else sys.stdout).write(text)
    if code:
        raise SystemExit(code)
    return ""


def exit_code(error: PandaError) -> int:
    """Tell a connection that cannot be used from a server that cannot be reached."""
    return OUT_OF_REACH if isinstance(error, TransportError | ServerError) else UNUSABLE


def find_config(conn_id: str | None = None) -> ClientConfig:
    """Read which server to ask.

    :param conn_id: of an Airflow connection; the environment is read if not given.
    :raises ConfigError: neither names a server.
    """
    if conn_id:
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")  # lets Airflow read its own database here
        from panda_airflow.hooks.panda import PandaHook  # noqa: PLC0415 - imports Airflow

        return PandaHook(conn_id).config
    config = ClientConfig.from_env()
    if not (config.url_ssl or config.url):
        raise ConfigError("no server is named.", advice="Set PANDA_URL_SSL, or name an Airflow connection.")
    return config


def check(config: ClientConfig, *, live: bool) -> tuple[str, int]:
    """Ask a server.

    :param live: also all that only reads.
    :return: what to print, and the exit code.
    :raises PandaError: the server cannot be asked.
    """
    with PandaClient(config) as client:
        text = f"{greet(client)}\n"
        if not live:
            return text, AS_EXPECTED
        results = perform([(scenario, Stage(client)) for scenario in READING], Patience(seconds=0.0, interval=0.0))
    return text + report(results), DIFFERS if any(result.verdict == DIFFERENT for result in results) else AS_EXPECTED


def greet(client: PandaClient) -> str:
    """Ask a server whether it lives and who we are, and say so.

    :raises PandaError: it cannot be reached, or does not know us.
    """
    client.system.is_alive()
    user = client.system.get_user_attributes()
    if not user.name:
        raise AuthError("the server does not say who we are.", endpoint="system/get_user_attributes")
    return f"{client.config.server} knows you as {user.name}{', with the production role' if user.production else ''}."


def report(results: list[Result]) -> str:
    """Write what was expected beside what was seen."""
    rows = [(item.scenario, str(item), "; ".join(item.expects), item.verdict) for item in results]
    return "\n" + table(("asked", "this server", "a real server", ""), rows)
