"""A TLS certificate and its key as they lie in files: whether they can be used, and until when."""

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509

SOON_SECONDS = 14 * 86_400
"""So long before its end somebody should renew a certificate, where nothing does that by itself."""

NOT_TRUSTED = "certificate is not trusted"
"""In what is said of a broker or a peer that can't show that it is the one that is meant."""
NO_TLS = "WRONG_VERSION_NUMBER"
"""How OpenSSL calls an answer that is none of TLS."""
_KEY = re.compile(rb"-----BEGIN ((?:[A-Z]+ )*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)
_NO_PASSWORD = "is encrypted, and nobody can enter its password: write it without one, with chmod 600"


class CertificateError(ConfigError):
    """A file for TLS can't be used."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, and what they are called in the configuration."""

    section: str
    cert_file: Path
    key_file: Path | None

    def read(self) -> "Certificate":
        """Return the certificate. Raises CertificateError, which names the file that is wrong and why."""
        # Not at the top: it takes a part of a second to import.
        from cryptography import x509

        text = _bytes(self.cert_file, self._cert)
        try:
            found = x509.load_pem_x509_certificates(text)[0]
            certificate = Certificate(found.not_valid_before_utc, found.not_valid_after_utc)
        except (ValueError, x509.InvalidVersion) as error:
            what = "a certificate that is torn or damaged" if b"BEGIN CERTIFICATE" in text else "no certificate in PEM"
            raise CertificateError(f"{self._cert} holds {what}") from error
        self._check_key(text, found)
        return certificate

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make a context show the certificate. Raises CertificateError."""
        try:
            context.load_cert_chain(self.cert_file, self.key_file, self._refuse)
        except OSError as error:
            files = self._cert if self.key_file is None else f"{self._cert}, {self._key}"
            raise CertificateError(f"{files} can't be used: {error}") from error

    def _check_key(self, cert_text: bytes, certificate: "x509.Certificate") -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

        text = cert_text if self.key_file is None else _bytes(self.key_file, self._key)
        block = _KEY.search(text)
        if block is None:
            missing = f": set {self.section}.tls_key_file" if self.key_file is None else " in PEM, or a damaged one"
            raise CertificateError(f"{self._key} holds no private key{missing}")
        try:
            own = load_pem_private_key(block[0], None).public_key()
            its = certificate.public_key()
        except TypeError:
            raise CertificateError(f"{self._key} {_NO_PASSWORD}") from None
        except ValueError as error:
            raise CertificateError(f"{self._key} holds a private key that is damaged") from error
        except UnsupportedAlgorithm:
            # OpenSSL may know it all the same.
            return
        form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        if own.public_bytes(*form) != its.public_bytes(*form):
            raise CertificateError(f"{self._key} is not the key of the certificate in {self.cert_file}")

    def _refuse(self) -> str:
        # Without this OpenSSL would ask for it on the terminal, and wait.
        raise CertificateError(f"{self._key} {_NO_PASSWORD}")

    @property
    def _cert(self) -> str:
        return f"{self.section}.tls_cert_file: {self.cert_file}"

    @property
    def _key(self) -> str:
        return self._cert if self.key_file is None else f"{self.section}.tls_key_file: {self.key_file}"


@dataclass(frozen=True, slots=True)
class Certificate:
    """When a certificate is good."""

    begins: datetime
    ends: datetime

    def fault(self, now_us: int) -> str | None:
        """Return why others refuse it now; None where its time is nothing against it."""
        now = datetime.fromtimestamp(now_us / 1_000_000, UTC)
        if now >= self.ends:
            return f"expired on {self.ends:%Y-%m-%d %H:%M} UTC: no client accepts it any more"
        if now < self.begins:
            return f"is valid only from {self.begins:%Y-%m-%d %H:%M} UTC: no client accepts it yet"
        return None

    def ends_soon(self, now_us: int) -> bool:
        """Tell whether it is time to renew it."""
        return now_us / 1_000_000 > self.ends.timestamp() - SOON_SECONDS


def _bytes(file: Path, where: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CertificateError(f"{where} can't be read: {error.strerror}") from error
