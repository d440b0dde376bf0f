"""Whom a secret may be shown to, and whose files are believed."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

ROOT = 0


def is_open(url: str) -> bool:
    """Whether what is sent to a URL can be read on its way: it is neither https nor on this machine."""
    parts = urlsplit(url)
    return parts.scheme != "https" and not is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, without asking anybody."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_foreign(path: Path) -> bool:
    """Whether another user than this one or root owns a file, or the link to it, in a directory all may write to."""
    try:
        shared = path.parent.stat().st_mode & stat.S_IWOTH
        owners = {path.lstat().st_uid, path.stat().st_uid}
    except OSError:
        return False  # whoever reads it says what is wrong
    return bool(shared) and not owners <= {ROOT, os.geteuid()}
