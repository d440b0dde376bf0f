"""Which server a call goes to and as whom: the environment at the time of the call, and the switches over it."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from panda_airflow.client.config import ClientConfig
from panda_airflow.client.session import PandaClient

LEGACY = "/server/panda"
_VARIABLES = tuple(variable for item in fields(ClientConfig) for variable in item.metadata["env"])
_switched: dict[str, str] = {}
_CLIENT = "panda_airflow.pandaclient.Client"
_ASSIGNABLE = {
    "baseURL": "url",
    "server_base_path": "url",
    "baseURLSSL": "url_ssl",
    "server_base_path_ssl": "url_ssl",
    "baseURLCSRVSSL": "cache_url",
    "cache_base_path_ssl": "cache_url",
}
"""Variables of the reference's module and the settings that they stand for."""


def _present() -> dict[str, str]:
    """Return the switches, and over them what a program has assigned to variables of the module."""
    module = vars(sys.modules[_CLIENT]) if _CLIENT in sys.modules else {}
    return _switched | {setting: module[name] for name, setting in _ASSIGNABLE.items() if name in module}


def _switch(**settings: str) -> None:
    """Switch from now on, whatever was assigned before."""
    _switched.update(settings)
    for name, setting in _ASSIGNABLE.items():
        if setting in settings and _CLIENT in sys.modules:
            vars(sys.modules[_CLIENT]).pop(name, None)


def config(**overrides: Any) -> ClientConfig:
    """Read the environment, now.

    :param overrides: settings that win over switches and environment.
    :raises ConfigError: a value cannot be read.
    """
    found = ClientConfig.from_env(**(_present() | overrides))
    elsewhere = found.token or found.token_file or found.config_root
    return found if elsewhere or not _token_is_here() else replace(found, config_root=Path())


def _token_is_here() -> bool:
    return Path(".token").exists()


def session(**overrides: Any) -> PandaClient:
    """Give the client for the present configuration, the same one as long as nothing changes.

    :param overrides: settings that win over switches and environment.
    :raises ConfigError: the configuration cannot work.
    """
    environment = tuple(map(os.environ.get, _VARIABLES))
    return _session(tuple((_present() | overrides).items()), environment, _token_is_here(), os.getpid())


@lru_cache(maxsize=8)
def _session(settings: tuple[tuple[str, Any], ...], *_everything_else_that_matters: object) -> PandaClient:
    """Make a client; a forked process gets one of its own, since two must not talk over one connection."""
    return PandaClient(config(**dict(settings)))


def _switch_to(host: str) -> None:
    ssl = f"https://{host}:25443"
    _switch(url=f"http://{host}:25080{LEGACY}", url_ssl=f"{ssl}{LEGACY}", cache_url=ssl)


def useDevServer() -> None:
    """Talk to the development server at CERN from now on."""
    _switch_to("aipanda007.cern.ch")


def useIntrServer() -> None:
    """Talk to the integration server at CERN from now on."""
    _switch_to("aipanda123.cern.ch")


def setCacheServer(host_name: str) -> None:
    """Keep files on another machine from now on.

    :param host_name: the machine, if it listens elsewhere with its port.
    """
    present = urlsplit(config().cache)
    port = f":{present.port}" if present.port and ":" not in host_name else ""
    _switch(cache_url=f"{present.scheme}://{host_name}{port}")


def setGlobalTmpDir(tmpDir: str) -> None:
    """Accept the directory for temporary files, of which there are none: bodies are streamed.

    :param tmpDir: the directory.
    """


def use_oidc() -> bool:
    """Tell whether PANDA_AUTH asks for tokens."""
    return os.environ.get("PANDA_AUTH") == "oidc"


def use_x509_no_grid() -> bool:
    """Tell whether PANDA_AUTH asks for a certificate without grid tools."""
    return os.environ.get("PANDA_AUTH") == "x509_no_grid"


def address(name: str) -> str:
    """Give what the reference keeps in a module variable, as the environment has it now.

    :param name: such as ``baseURLSSL``.
    :raises AttributeError: there is no such variable.
    """
    settings = config()
    plain = _origin(settings.url) or "http://pandaserver.cern.ch:25080"
    servers = {"baseURL": plain, "baseURLSSL": settings.server, "server_base_path": plain}
    servers |= {"server_base_path_ssl": settings.server}
    if name in servers:
        return servers[name] + (LEGACY if name.startswith("base") else "/api/v1")
    if name == "baseURLCSRVSSL":
        return session().cache_url + LEGACY
    if name == "cache_base_path_ssl":
        return session().cache_url + "/api/v1"
    raise AttributeError(f"module 'panda_airflow.pandaclient.Client' has no attribute {name!r}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if url else ""
