"""Where the PanDA server is and who is calling: one frozen configuration, documented by its own fields.

The metadata of each field (``env``, ``label``, ``help``, ``secret``) is what the table of settings and the form
of the Airflow connection are made of. Precedence: argument > environment > default.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Self
from urllib.parse import urlsplit

from panda_airflow.client.auth.reread import reread
from panda_airflow.client.errors import ConfigError

CERN_SERVER = "https://pandaserver.cern.ch"
CERN_CACHE = "https://pandacache.cern.ch"
GRID_CA_DIRECTORY = Path("/etc/grid-security/certificates")
TOPICS = ("/topic/", "/exchange/")
AUTH_METHODS = ("oidc", "x509_no_grid", "voms", "x509")

LONGEST_TIME = 86400
"""Seconds of a time limit, at most."""

TOKEN_SOURCES = ("token", "token_file", "config_root")
"""Ways to give a token, of which the first that is given counts."""


def _flag(text: str) -> bool:
    if text.strip().lower() not in ("1", "on", "yes", "true", "0", "off", "no", "false", ""):
        raise ValueError("it must be on or off")
    return text.strip().lower() in ("1", "on", "yes", "true")


def _unless_off(text: str) -> bool:
    return text.strip().lower() not in ("0", "off", "no", "false")


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _about(
    label: str, help_text: str, *env: str, read: Callable[[str], Any] = str, secret: bool = False
) -> dict[str, Any]:
    return {"env": env, "label": label, "help": help_text, "read": read, "secret": secret}


@dataclass(frozen=True)
class ClientConfig:
    """Everything a client needs to know; the help of each field is in its metadata."""

    url_ssl: str = field(
        default="",
        metadata=_about(
            "Server URL (https)",
            "The PanDA server, such as https://host:25443; a path is ignored. Without it the plain URL is used, "
            f"without both {CERN_SERVER}.",
            "PANDA_URL_SSL",
        ),
    )
    url: str = field(
        default="",
        metadata=_about(
            "Server URL (plain http)",
            "The PanDA server without TLS, such as http://host:25080; used only where the https URL is not given.",
            "PANDA_URL",
        ),
    )
    cache_url: str = field(
        default="",
        metadata=_about(
            "Cache URL",
            f"The server that keeps uploaded files; without it {CERN_CACHE} for the server at CERN, "
            "the PanDA server itself for any other.",
            "PANDACACHE_URL",
        ),
    )
    auth: str = field(
        default="voms",
        metadata=_about(
            "Authentication",
            "oidc for a token; voms, x509 or x509_no_grid for a grid proxy or certificate.",
            "PANDA_AUTH",
        ),
    )
    vo: str = field(
        default="",
        metadata=_about(
            "VO", "Virtual organisation; a token is not accepted without.", "PANDA_AUTH_VO", "OIDC_AUTH_VO"
        ),
    )
    production: bool = field(
        default=False,
        metadata=_about("Production role", "Ask for the production role of the VO (with a token).", read=_flag),
    )
    token: str = field(
        default="",
        repr=False,
        metadata=_about("Token", "The OIDC ID token itself.", "PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_ID_TOKEN", secret=True),
    )
    token_file: Path | None = field(
        default=None,
        metadata=_about(
            "Token file", "File that holds the token; read again when it changes.", "OIDC_AUTH_TOKEN_FILE", read=_path
        ),
    )
    config_root: Path | None = field(
        default=None,
        metadata=_about(
            "Token directory",
            "Directory of the .token file that panda-client writes; the token is refreshed before it expires.",
            "PANDA_CONFIG_ROOT",
            read=_path,
        ),
    )
    proxy: Path | None = field(
        default=None,
        metadata=_about(
            "Grid proxy",
            "PEM file with certificate, key and chain; without it /tmp/x509up_u<uid>.",
            "X509_USER_PROXY",
            read=_path,
        ),
    )
    ca: Path | None = field(
        default=None,
        metadata=_about(
            "CA certificates",
            "Directory of hashed CA certificates, or one PEM file, that the server's certificate is checked with; "
            f"without it {GRID_CA_DIRECTORY} for voms and x509 where that exists, else what the system trusts.",
            "X509_CERT_DIR",
            read=_path,
        ),
    )
    verify_host: bool = field(
        default=True,
        metadata=_about(
            "Check the server's certificate",
            "off talks to a server whose identity nobody has checked.",
            "PANDA_VERIFY_HOST",
            read=_unless_off,
        ),
    )
    real_load_balancer: bool = field(
        default=False,
        metadata=_about(
            "Real load balancer",
            "Set: the cache URL is used as it is. Unset: uploads stay with one machine behind its DNS alias.",
            "PANDA_BEHIND_REAL_LB",
            read=_unless_off,
        ),
    )
    monitor_url: str = field(
        default="https://bigpanda.cern.ch",
        metadata=_about("Monitor URL", "The PanDA monitor, for links to task pages.", "PANDAMON_URL"),
    )
    connect_timeout: float = field(
        default=10.0, metadata=_about("Connect time limit", "Seconds to wait for a connection.", read=float)
    )
    read_timeout: float = field(
        default=120.0,
        metadata=_about(
            "Read time limit",
            "Seconds to wait for the next bytes of a request or its reply; the whole ends after twice that, and a "
            "second more for each 100 KB. A wait may end so much after its deadline.",
            read=float,
        ),
    )
    attempts: int = field(
        default=4, metadata=_about("Attempts", "How often a request that may be repeated is sent at most.", read=int)
    )
    retry_budget: float = field(
        default=60.0,
        metadata=_about("Retry budget", "Seconds after which a failed request is not repeated any more.", read=float),
    )
    push_url: str = field(
        default="",
        metadata=_about(
            "Message broker",
            "The STOMP broker to which the PanDA server tells changes of status of tasks with pushStatusChanges, such "
            "as stomp+ssl://host:61614, or stomp+ssl://host:61614/%2F to name a virtual host; without it the server "
            "is only asked. Needs panda-airflow[stomp]. Its certificate is checked with ca if that is a file, else "
            "with what the system trusts.",
        ),
    )
    push_destination: str = field(
        default="",
        metadata=_about(
            "Destination at the broker",
            "Where the changes of status are, such as /topic/panda.status; not a queue, of which each message has "
            "one reader.",
        ),
    )
    push_user: str = field(default="", metadata=_about("User at the broker", "Who listens at the broker."))
    push_password: str = field(
        default="", repr=False, metadata=_about("Password at the broker", "The password of that user.", secret=True)
    )

    def __post_init__(self) -> None:
        """Read what is given as text, and refuse what is of another type.

        :raises ConfigError: names the setting.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            object.__setattr__(self, item.name, _typed(item, _convert(type(self), item.name, value)))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the variables that PanDA users already have.

        :param environ: the environment; without it the process's own, read now.
        :param overrides: fields that win over the environment, as values or as text; ``None`` leaves one alone.
        :raises ConfigError: a value cannot be read, or a field does not exist.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        known = [item.name for item in fields(cls)]
        for name in given.keys() - set(known):
            near = get_close_matches(str(name), known, 1)
            raise ConfigError(f"there is no setting called {name}{f'; did you mean {near[0]}' if near else ''}.")
        texts = _from_environment(os.environ if environ is None else environ, given)
        return cls(**(texts | given))

    @property
    def server(self) -> str:
        """Scheme, host and port of the PanDA server."""
        return _origin(self.url_ssl or self.url or CERN_SERVER)

    @property
    def cache(self) -> str:
        """Scheme, host and port of the server that keeps uploaded files."""
        default = CERN_CACHE if self.server == CERN_SERVER else self.server
        return _origin(self.cache_url or default)

    @property
    def verify(self) -> str | bool:
        """How to check the server's certificate, as ``requests`` wants it."""
        if not self.verify_host:
            return False
        if self.ca:
            return str(self.ca)
        if self.auth in ("voms", "x509") and GRID_CA_DIRECTORY.is_dir():
            return str(GRID_CA_DIRECTORY)
        return True

    @property
    def proxy_path(self) -> Path:
        """The grid proxy, wherever that is."""
        return self.proxy or Path(f"/tmp/x509up_u{os.getuid()}")  # noqa: S108 - where every grid tool puts it

    @property
    def credential_file(self) -> Path | None:
        """The file that somebody renews and the credential is read from, if it is from one."""
        if self.auth != "oidc":
            return self.proxy_path
        if self.token or self.token_file:
            return None if self.token else self.token_file
        return self.config_root / ".token" if self.config_root else None

    @property
    def task_label(self) -> str:
        """The ``prodSourceLabel`` that this identity's tasks have as a rule."""
        is_production = self.production or self.vo.endswith((".production", ":production"))
        return "managed" if is_production else "user"

    def task_page(self, task_id: int) -> str:
        """Address of a task's page on the PanDA monitor."""
        return f"{self.monitor_url.rstrip('/')}/task/{task_id}/"

    def log_page(self, panda_id: int) -> str:
        """Address of a job's log on the PanDA monitor."""
        return f"{self.monitor_url.rstrip('/')}/filebrowser/?pandaid={panda_id}"

    def validate(self) -> None:
        """Refuse what cannot work, before anything is sent.

        :raises ConfigError: names the setting and what to change.
        """
        for item in fields(self):
            if item.name.endswith(("url", "url_ssl")) and item.name != "push_url":
                _origin(getattr(self, item.name) or CERN_SERVER, _name(item))
        _pushed(self.push_url, self.push_destination)
        if self.auth not in AUTH_METHODS:
            raise ConfigError(f"PANDA_AUTH is {self.auth!r}; it must be one of {', '.join(AUTH_METHODS)}.")
        if not self.vo.isascii():
            raise ConfigError(f"PANDA_AUTH_VO (vo) is {self.vo!r}, which is not ASCII.")
        if self.auth == "oidc" and not self.vo:
            raise ConfigError("PANDA_AUTH is oidc but the VO is not given; set PANDA_AUTH_VO, or vo in the connection.")
        if self.auth != "oidc" and not self.server.startswith("https://"):
            raise ConfigError(
                f"X.509 needs https, the server is {self.server}; set PANDA_URL_SSL (url_ssl) or PANDA_AUTH=oidc."
            )
        reread(lambda: _readable(self.ca, "X509_CERT_DIR"))
        reread(lambda: _readable(self.token_file, "OIDC_AUTH_TOKEN_FILE"))
        self._validate_limits()

    def _validate_limits(self) -> None:
        for name in ("connect_timeout", "read_timeout", "attempts"):
            if not 0 < getattr(self, name) <= LONGEST_TIME:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be greater than 0, {LONGEST_TIME} at most."
                )
        if not 0 <= self.retry_budget < math.inf:
            raise ConfigError(f"retry_budget is {self.retry_budget}; it must be 0 or more.")


def _from_environment(environ: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Pick one text per field; another way to give the token must not outrank one that was given as argument."""
    token_given = any(name in given for name in TOKEN_SOURCES)
    texts: dict[str, Any] = {}
    for item in fields(ClientConfig):
        present = [variable for variable in item.metadata["env"] if environ.get(variable)]
        if present and not (token_given and item.name in TOKEN_SOURCES):
            texts[item.name] = environ[present[0]]
    if environ.get("OIDC_AUTH_TOKEN_FILE") and not environ.get("PANDA_AUTH_ID_TOKEN"):
        texts.pop("token", None)
    return texts


def _convert(cls: type[ClientConfig], name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    item = cls.__dataclass_fields__[name]
    try:
        return item.metadata["read"](value)
    except (ValueError, RuntimeError) as error:  # the home directory of nobody is the latter
        raise ConfigError(f"{_name(item)} is {value!r}: {error}.") from error


_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")  # the surrogates between stand for bytes of a path
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "a text"),
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": ((float, int), "a number"),
    "Path | None": ((Path, NoneType), "a path"),
}
"""By its annotation, what a field holds."""


def _typed(item: Field[Any], value: Any) -> Any:
    """Check the type of a value, which may come from JSON, and that a text fits into a header."""
    kind, what = _TYPES[str(item.type)]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{_name(item)} must be {what}, not a {type(value).__name__}.")
    text = str(value) if isinstance(value, Path | str) else ""
    if _UNFIT.search(text.strip() if item.metadata["secret"] else text):
        raise ConfigError(f"{_name(item)} holds a line break or another control character.")
    return value


def _name(item: Field[Any]) -> str:
    """Name a field as its users know it: by its environment variable, and by its own name in a connection."""
    variable = next(iter(item.metadata["env"]), "")
    return f"{variable} ({item.name})" if variable else item.name


def _origin(url: str, name: str = "the URL", schemes: tuple[str, ...] = ("https", "http")) -> str:
    """Reduce a URL to scheme, host and port; users have values such as https://host:25443/server/panda."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{name} is not a URL: {error}.") from error
    if parts.scheme not in schemes or not host:
        raise ConfigError(f"{name} must look like {schemes[0]}://host:port, not {url.rpartition('@')[2]!r}.")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _pushed(url: str, destination: str) -> None:
    if url:
        _origin(url, "push_url", ("stomp+ssl", "stomp"))
        if not destination.startswith(TOPICS):
            raise ConfigError(f"push_destination is {destination!r}; it must begin with {' or '.join(TOPICS)}.")


def _readable(path: Path | None, name: str) -> None:
    """Refuse a file that is not there; one that is renewed may be away for a moment.

    :raises ConfigError: it is none, and a renewal or a deployment may bring it back.
    """
    if path and not os.access(path, os.R_OK):
        raise ConfigError(f"{name} names {path}, which does not exist or cannot be read.", hopeless=False)
