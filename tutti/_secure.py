"""Who may speak in a run: whoever knows its token, 32 random bytes; connections are TLS 1.3, both sides prove it.

From the token both sides derive the key of one certificate authority (HKDF-SHA256, then Ed25519), never sent anywhere.
Every process signs a certificate of its own with it, for a fresh key that never leaves the process.  The authority is
the only one trusted, so a peer without the token fails in the handshake and nothing that it sends is looked at.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import socket
import ssl
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutti.errors import ParameterError

TOKEN_BYTES = 32
_SKEW = datetime.timedelta(days=1)  # clocks of two hosts may differ so much
_FRESH = datetime.timedelta(days=1)  # a certificate older than that is replaced for new connections
_MAX_FILE = 1024


class Token:
    """The secret of a run; it does not show itself.

    Parameters
    ----------
    secret : 32 bytes nobody can guess.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != TOKEN_BYTES:
            raise ValueError(f"a token has {TOKEN_BYTES} bytes, came {len(secret)}")
        self._secret = bytes(secret)

    @classmethod
    def new(cls) -> Token:
        return cls(secrets.token_bytes(TOKEN_BYTES))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Token:
        """Read a token file.

        Raises
        ------
        ParameterError : if it cannot be read, others may read it, or it holds no token.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _refused(path, f"it cannot be opened ({error.strerror}); write the path of a token file") from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _refused(path, "it is not a plain file; write the path of a token file")
            if found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise _refused(path, f"others may read or change it (mode {mode:04o}); run chmod 600 on it")
            text = os.read(fd, _MAX_FILE)
        finally:
            os.close(fd)
        try:
            return cls(bytes.fromhex(text.decode("ascii").strip()))
        except ValueError:
            raise _refused(path, f"it holds no token, which is {2 * TOKEN_BYTES} hexadecimal digits") from None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a token file that its owner alone can read; a file that exists is left alone.

        Raises
        ------
        ParameterError : if it exists or cannot be written.
        """
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(path, f"it cannot be created ({error.strerror}); write a path that is free") from None
        with open(fd, "w") as file:
            os.fchmod(fd, 0o600)
            file.write(self._secret.hex() + "\n")

    def __bytes__(self) -> bytes:
        return self._secret

    def __repr__(self) -> str:
        return "Token(...)"

    def __reduce__(self) -> Any:
        raise TypeError("a token is not written down with other things")


def _refused(path: str | os.PathLike[str], expected: str) -> ParameterError:
    return ParameterError("token_file", os.fspath(path), expected)


class Credentials:
    """What a process needs to speak with the others of a run, made from its token.

    Parameters
    ----------
    token : the secret that all processes of the run know.
    run : a name of the run, where one token serves several; peers of another name are refused like any stranger.
    """

    def __init__(self, token: Token, run: str = "") -> None:
        self._token, self._run = token, run
        self._lock = threading.Lock()
        self._made: datetime.datetime | None = None
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def context(self, *, server: bool) -> ssl.SSLContext:
        """Return the TLS settings of one side: version 1.3 only, certificates of this run only, on both sides."""
        now = datetime.datetime.now(datetime.UTC)
        with self._lock:
            if self._made is None or abs(now - self._made) > _FRESH:
                self._contexts, self._made = _contexts(bytes(self._token), self._run, now), now
            return self._contexts[server]

    def __repr__(self) -> str:
        return "Credentials(...)"


def _contexts(token: bytes, run: str, now: datetime.datetime) -> dict[bool, ssl.SSLContext]:
    authority, chain, key = _certificates(token, run, now)
    found = {}
    with _private_file(key + chain) as path:
        for server in (False, True):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
            context.check_hostname = False  # the authority exists for this run alone; its peers have no other names
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=authority.decode())
            context.load_cert_chain(path)
            if server:
                context.num_tickets = 0  # every connection proves itself anew
            found[server] = context
    return found


def _certificates(token: bytes, run: str, now: datetime.datetime) -> tuple[bytes, bytes, bytes]:
    """Return as PEM the authority that the token stands for, a certificate signed by it, and the key of that."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    seed = HKDF(hashes.SHA256(), 32, None, b"tutti certificate authority 1\0" + run.encode()).derive(token)
    root, own = Ed25519PrivateKey.from_private_bytes(seed), Ed25519PrivateKey.generate()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tutti run")])

    def certificate(name: x509.Name, key: Ed25519PrivateKey, is_root: bool) -> bytes:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _FRESH + _SKEW)
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    **usage,
                    digital_signature=not is_root,
                    key_cert_sign=is_root,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
        )
        if not is_root:
            both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(both, critical=False)
        return builder.sign(root, None).public_bytes(serialization.Encoding.PEM)

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tutti process")])
    key = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate(issuer, root, True), certificate(subject, own, False), key


@contextlib.contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """A path under which ``content`` can be read meanwhile: memory without a name, or a private file."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        fd = os.memfd_create("tutti-key", os.MFD_CLOEXEC)
        try:
            os.write(fd, content)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    with tempfile.TemporaryDirectory(prefix="tutti-") as folder:  # its mode is 0700
        path = Path(folder, "key.pem")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
        yield str(path)


def is_loopback(host: str) -> bool:
    """True if every address of ``host`` is this machine's own loopback: there alone plain text may travel."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return all(ipaddress.ip_address(str(where[4][0]).split("%")[0]).is_loopback for where in found)


def forbid_core_dumps() -> None:
    """Keep the keys of this process, and of those it forks, out of files that a crash would write."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
