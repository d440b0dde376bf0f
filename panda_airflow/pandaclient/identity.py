"""Functions of the reference that ask no PanDA method: names, tokens and texts."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from panda_airflow.client.auth.tokens import TokenDirectory
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import AuthError, PandaError
from panda_airflow.pandaclient.calls import tell
from panda_airflow.pandaclient.device import sign_in
from panda_airflow.pandaclient.servers import config

log = logging.getLogger(__name__)


def getDN(origString: str) -> str:
    """Take a person's name out of a distinguished name.

    :param origString: such as ``/DC=ch/CN=John Doe/CN=123``.
    :return: the first common name of several words, without blanks, else the first common name.
    """
    parts = [part.removeprefix("CN=") for part in origString.split("/") if part.startswith("CN=")]
    names = [re.sub(r"\d+$", "", part).replace(".", "").strip() for part in parts]
    full = next((name for name in names if " " in name), None)
    return full.replace(" ", "") if full else next(filter(None, names), "")


def hide_sensitive_info(com: object) -> str:
    """Mask bearer tokens in a text.

    :param com: a command line, headers or anything else.
    """
    return re.sub("Bearer [^\"']+", '***"', str(com))


def build_grid_setup_command() -> str:
    """Write the beginning of a shell command that needs the grid's environment.

    :return: it sources the file that PATHENA_GRID_SETUP_SH names, after it has unset what gets in its way.
    """
    setup = os.environ.get("PATHENA_GRID_SETUP_SH", "/dev/null")
    unset = "".join(f"unset {name}; " for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "MANPATH"))
    return f"{unset}export PATH=/usr/local/bin:/bin:/usr/bin; source {setup} > /dev/null;"


def is_https(url: str) -> bool:
    """Tell whether an address starts with ``https://``.

    :param url: the address.
    """
    return url.startswith("https://")


def str_decode(data: bytes | str) -> str:
    """Make text of bytes.

    :param data: UTF-8, or text already.
    """
    return data.decode() if isinstance(data, bytes) else data


def dump_log(func_name: str, exception_obj: BaseException | None, output: object) -> str:
    """Log a reply that cannot be used.

    :param func_name: what was called.
    :param exception_obj: what was raised, if anything was.
    :param output: the reply.
    :return: the text that was logged.
    """
    text = f"{func_name} failed : {exception_obj}"
    log.error("%s\n%s", text, output)
    return text


def get_token_string(tmp_log: logging.Logger | None, verbose: bool) -> str | None:
    """Find the token that the environment gives.

    :param tmp_log: hears which variable it was.
    :param verbose: tell it.
    :return: nothing if there is none.
    """
    for name in ("PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "OIDC_AUTH_ID_TOKEN"):
        if name in os.environ:
            if verbose and tmp_log:
                tmp_log.debug("use $%s", name)
            return Path(os.environ[name]).read_text() if name.endswith("_FILE") else os.environ[name]
    return None


def _stored(settings: ClientConfig) -> TokenDirectory:
    return TokenDirectory(
        settings.config_root or Path(),
        f"{settings.server}/auth/{settings.vo}_auth_config.json",
        settings.verify,
        (settings.connect_timeout, settings.read_timeout),
    )


def get_new_token(verbose: bool = False) -> str | None:
    """Get a token: the one that the environment gives, else the stored one refreshed, else by signing in.

    Only at a terminal is somebody asked to sign in.

    :param verbose: tell where it comes from.
    :return: nothing if there is none; what to do is logged.
    """
    try:
        given = get_token_string(log, verbose)
        return given or _new(config())
    except (PandaError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400 - the error says it all
        return None


def _new(settings: ClientConfig) -> str:
    stored = _stored(settings)
    try:
        stored.renew()
        return stored.token()
    except AuthError:
        if not sys.stdin.isatty():
            raise
        return sign_in(settings, stored.directory, tell)


def get_user_name_from_token() -> tuple[str | None, list[str] | None, str | None]:
    """Read who a token is about.

    :return: the name as the server writes it, groups, and the preferred user name; ``None`` each without a token.
    """
    try:
        claims = _claims(get_token_string(None, verbose=False) or _stored(config()).token())
        name = " ".join(part[:1].upper() + part[1:].lower() for part in str(claims["name"]).split())
    except (PandaError, OSError, ValueError, LookupError, TypeError, binascii.Error):
        return None, None, None
    return name, claims.get("groups"), claims.get("preferred_username")


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims
