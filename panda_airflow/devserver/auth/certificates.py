"""The embedded server's own certificate authority: host certificate, user certificates, grid proxies.

Below ``tls/`` of the server's root: ``ca.pem``, ``ca.key``, ``host.pem`` (certificate and key) and
``certificates/``, the CA under its OpenSSL hash, which is what ``X509_CERT_DIR`` wants.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from panda_airflow.client.errors import ConfigError

Extensions = Sequence[tuple[x509.ExtensionType, bool]]

PRODUCTION_UNIT = "Production"
"""Organisational unit in the subject of certificates that carry the production role."""

PROXY_INFO = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
)
"""RFC 3820 ``ProxyCertInfo``: inherits all rights, may be delegated further."""

_LONG = timedelta(days=3650)
# OpenSSL hashes the lower-cased name, so a lower-case name is its own canonical form.
_AUTHORITY = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "panda-airflow"),
        x509.NameAttribute(NameOID.COMMON_NAME, "panda-airflow devserver ca"),
    ]
)


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter, or make an existing one so.

    :param path: made with the directories above it.
    :return: the absolute path.
    :raises ConfigError: that cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        advice = "Name a directory of your own with --root."
        raise ConfigError(f"cannot keep state in {path}: {error.strerror}.", advice=advice) from error
    return path.resolve()


def write_private(path: Path, content: bytes) -> Path:
    """Write a file that only its owner can read, replacing an older one.

    :param path: its folder exists.
    :return: the path.
    """
    incoming = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return incoming.replace(path)


def distinguished_name(name: x509.Name) -> str:
    """Write a subject the way grid software does: ``/O=panda-airflow/CN=Bob Tester``."""
    return "".join(f"/{part.rfc4514_attribute_name}={part.value!s}" for part in name)


class Authority:
    """A certificate authority kept in a directory; made on first use.

    :param root: the server's root directory.
    """

    def __init__(self, root: Path) -> None:
        self.directory = root / "tls"
        self.ca_file = self.directory / "ca.pem"
        self.ca_directory = self.directory / "certificates"
        self.host_file = self.directory / "host.pem"
        if not self.ca_file.exists():
            self._create()

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key((self.directory / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self.directory / 'ca.key'} is no elliptic-curve key; remove {self.directory}.")
        return key

    def _create(self) -> None:
        self.ca_directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(self.directory / "ca.key", _key_pem(key))
        authority = _sign(
            _AUTHORITY,
            key,
            _AUTHORITY,
            key,
            _LONG,
            [(x509.BasicConstraints(ca=True, path_length=None), True), _usage(signs=True)],
        )
        write_private(self.host_file, self._host())
        for path in (self.ca_directory / f"{openssl_hash(_AUTHORITY)}.0", self.ca_file):
            path.write_bytes(_pem(authority))

    def _host(self) -> bytes:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in ("localhost", "localhost.localdomain")]
        names.append(x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")))
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        host = self._issue(subject, key, _LONG, [(x509.SubjectAlternativeName(names), False), (usage, False)])
        return _pem(host) + _key_pem(key)

    def _issue(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta, extensions: Extensions
    ) -> x509.Certificate:
        plain: Extensions = [(x509.BasicConstraints(ca=False, path_length=None), True), _usage(signs=False)]
        return _sign(subject, key, _AUTHORITY, self._key, lifetime, [*plain, *extensions])

    def proxy(self, name: str, *, production: bool = False, lifetime: float = 12 * 3600) -> Path:
        """Issue an RFC 3820 grid proxy: proxy certificate, its key and the user's certificate in one file.

        :param name: of the user, such as ``Bob Tester``.
        :param production: with the production role.
        :param lifetime: of the proxy, in seconds; negative for one that has expired.
        :return: the file, readable for its owner only.
        """
        user_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        subject = _user(name, production=production)
        user = self._issue(
            subject, user_key, _LONG, [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]
        )
        serial = x509.NameAttribute(NameOID.COMMON_NAME, str(secrets.randbelow(10**9)))
        proxy_name = x509.Name([*subject, serial])
        extensions: Extensions = [(PROXY_INFO, True), _usage(signs=False)]
        proxy = _sign(proxy_name, key, subject, user_key, timedelta(seconds=lifetime), extensions)
        path = self.directory / f"proxy.{name.replace(' ', '_').replace('/', '_')}.{serial.value!s}.pem"
        return write_private(path, _pem(proxy) + _key_pem(key) + _pem(user))


def openssl_hash(name: x509.Name) -> str:
    """Hash a subject as ``openssl rehash`` does; the name must be lower-case and short.

    :return: eight hexadecimal digits.
    """
    header = 2
    digest = hashlib.sha1(name.public_bytes()[header:], usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _user(name: str, *, production: bool) -> x509.Name:
    unit = PRODUCTION_UNIT if production else "Users"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "panda-airflow"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    lifetime: timedelta,
    extensions: Extensions,
) -> x509.Certificate:
    now = datetime.now(UTC)
    # Clocks may differ a little, and an expired proxy must still begin before it ends.
    start = min(now, now + lifetime) - timedelta(minutes=5)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(*, signs: bool) -> tuple[x509.KeyUsage, bool]:
    usage = x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
    return usage, True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
