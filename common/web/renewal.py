"""The server's certificate: told of where it ends, and taken anew where its files were renewed, without a restart."""

import logging
import ssl
from pathlib import Path

import anyio.to_thread

from common.clock import Clock
from common.http.certificates import Certificate, CertificateError, Pair

log = logging.getLogger(__name__)

LOOK_SECONDS = 60
_TELL_AGAIN_US = 86_400_000_000
_REMEDY = "renew it, under the same file names: serve takes it within a minute"

_Stamp = tuple[tuple[int, int, int] | None, ...]


class RenewedCertificate:
    """What a server shows. All but `look_at_files` in its loop."""

    def __init__(self, pair: Pair, clock: Clock) -> None:
        """Raises CertificateError."""
        self._pair = pair
        self._clock = clock
        self._stamp = self._stamped()
        self._failed: _Stamp | None = None
        self._certificate = pair.read()
        self._context: ssl.SSLContext | None = None
        self._told_us: int | None = None
        self.tell()

    def show_in(self, context: ssl.SSLContext) -> None:
        """Let each new connection of the server's context see the newest certificate."""

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            if self._context is not None:
                connection.context = self._context

        # Called for each handshake, with or without a name. What is loaded into a live context would not be safe.
        context.sni_callback = choose

    async def look(self) -> None:
        """Take renewed files; those that can't be used are told of, and the certificate of before stays."""
        found = await anyio.to_thread.run_sync(self.look_at_files)
        if found is not None:
            self._certificate, self._context = found
            self._told_us = None
            log.info("serve.certificate_renewed", extra={"ends": self._certificate.ends.isoformat()})
        self.tell()

    def look_at_files(self) -> tuple[Certificate, ssl.SSLContext] | None:
        """Return what the files hold now, where that is another certificate."""
        stamp = self._stamped()
        if stamp == self._stamp:
            return None
        try:
            certificate = self._pair.read()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._pair.load_into(context)
        except CertificateError as error:
            # One of the two may come a moment later: the next look tries once more.
            if stamp != self._failed:
                remedy = "put a pair there that fits; until then the one of before is shown"
                log.error("serve.certificate_not_taken", extra={"error": str(error), "remedy": remedy})
                self._failed = stamp
            return None
        self._stamp = stamp
        return certificate, context

    def tell(self) -> None:
        """Warn once a day of a certificate that others refuse, or soon will."""
        now_us = self._clock.now_us()
        fault = self._certificate.fault(now_us)
        is_soon = self._certificate.ends_soon(now_us)
        if not (fault or is_soon) or (self._told_us is not None and now_us - self._told_us < _TELL_AGAIN_US):
            return
        self._told_us = now_us
        fields = {"file": str(self._pair.cert_file), "ends": self._certificate.ends.isoformat(), "remedy": _REMEDY}
        if fault is not None:
            log.error("serve.certificate_refused", extra={"error": f"the certificate {fault}", **fields})
        else:
            log.warning("serve.certificate_ends_soon", extra=fields)

    def _stamped(self) -> _Stamp:
        return tuple(_stamp_of(file) for file in (self._pair.cert_file, self._pair.key_file) if file is not None)


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
