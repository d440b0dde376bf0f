"""Functions of the reference whose server methods are gone: they warn once and answer their failure."""

from __future__ import annotations

import warnings
from functools import cache

from panda_airflow.pandaclient.calls import Answer, EC_Failed


@cache
def _warn(name: str) -> None:
    text = f"{name} is obsolete: PanDA servers have no such method any more; remove the call."
    warnings.warn(text, DeprecationWarning, stacklevel=3)


def getCachePrefixes(verbose: bool) -> Answer:
    """Fail: there are no cache prefixes any more.

    :param verbose: without effect.
    """
    _warn("getCachePrefixes")
    return EC_Failed, None


def getCmtConfigList(athenaVer: str, verbose: bool) -> Answer:
    """Fail: the server knows no CMT configurations any more.

    :param athenaVer: without effect.
    :param verbose: without effect.
    """
    _warn("getCmtConfigList")
    return EC_Failed, None


def getPandaClientVer(verbose: bool) -> Answer:
    """Fail: the server tells no version of its client any more.

    :param verbose: without effect.
    """
    _warn("getPandaClientVer")
    return EC_Failed, None


def getProxyKey(verbose: bool = False) -> Answer:
    """Fail: there are no proxy keys any more.

    :param verbose: without effect.
    """
    _warn("getProxyKey")
    return EC_Failed, None


def registerProxyKey(credname: str, origin: str, myproxy: str, verbose: bool = False) -> Answer:
    """Fail: there are no proxy keys any more.

    :param credname: without effect.
    :param origin: without effect.
    :param myproxy: without effect.
    :param verbose: without effect.
    """
    _warn("registerProxyKey")
    return EC_Failed, None
