"""TLS of a peer link, between the bytes of the wire and the frames. It does no I/O.

    wire -> `feed` -> `shake` until ready -> `read_into` -> frames
    frames -> `encrypt` -> wire;  `outgoing` is what TLS itself wants to say

It is done here, and not by the event loop's own TLS transport, for three reasons. Connections that
a loop holds in their TLS handshake could be neither counted nor ended, and strangers must be both.
One layer behaves alike on every loop (uvloop reads before `start_tls` can stop it). And
`pause_writing`, on which fairness between channels rests, stays that of the socket itself.

The contexts come from outside. A server context that requires client certificates makes it mutual.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from typing import ClassVar, Final

from kv.cluster.link_protocol import LinkError, Violation

STRANGER_WIRE_BYTES: Final = 4 * 1024
"""What is read at a time before the other side is authenticated."""
WIRE_BYTES: Final = 256 * 1024
HANDSHAKE_LIMIT_BYTES: Final = 64 * 1024
"""A whole TLS handshake, certificates included, is far smaller."""

_BEGINNINGS: Final = (b"\x16\x03", b"\x15\x03")
"""Of a handshake and of an alert. The checksum that our own frames begin with may hit one of them
by chance, once in 32768 times; then OpenSSL finds out."""


@dataclass(frozen=True, slots=True)
class LinkTls:
    """`server_hostname` is what peers' certificates are checked for; None: the host dialed."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    server_hostname: str | None = None

    @property
    def mutual(self) -> bool:
        """Whoever dials us must show a certificate of an authority that we trust."""
        return self.server.verify_mode is ssl.CERT_REQUIRED

    def accept(self) -> TlsLayer:
        return TlsLayer(self.server, server_side=True, hostname=None)

    def dial(self, host: str) -> TlsLayer:
        return TlsLayer(self.client, server_side=False, hostname=self.server_hostname or host)


class TlsError(LinkError):
    """The bytes are no TLS, or the certificates do not do. Never leaves the link."""

    code: ClassVar[str] = "tls"

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.sentence)
        self.violation = violation


class TlsLayer:
    def __init__(self, context: ssl.SSLContext, *, server_side: bool, hostname: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=hostname
        )
        self._wire = bytearray(STRANGER_WIRE_BYTES)
        self._view = memoryview(self._wire)
        self._fed_bytes = 0
        self.ready = False
        self.ended = False
        """The other side said that nothing follows."""

    def buffer(self) -> memoryview:
        """Where the next bytes of the wire go."""
        return self._view

    def feed(self, count: int) -> None:
        """`count` bytes were put into `buffer()`."""
        first = bytes(self._wire[: min(count, 2)])
        if self._fed_bytes == 0 and not any(known.startswith(first) for known in _BEGINNINGS):
            raise TlsError(
                Violation(
                    "tls_mismatch",
                    "one side of this link speaks TLS and the other does not; configure [tls] on "
                    "both or on none",
                )
            )
        self._fed_bytes += count
        if not self.ready and self._fed_bytes > HANDSHAKE_LIMIT_BYTES:
            raise TlsError(
                Violation("tls", f"the TLS handshake is over {HANDSHAKE_LIMIT_BYTES} bytes")
            )
        self._incoming.write(self._view[:count])

    def authenticated(self) -> None:
        """The other side is a peer now: read more at a time."""
        self._wire = bytearray(WIRE_BYTES)
        self._view = memoryview(self._wire)

    def shake(self) -> bool:
        """Go on with the handshake. True once, when it is through."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise self._failure(error) from error
        self.ready = True
        return True

    def read_into(self, room: memoryview) -> int:
        """Clear bytes, as many as there are and fit; 0 when more must come from the wire."""
        try:
            return self._tls.read(len(room), room)  # type: ignore[return-value]
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLZeroReturnError:
            self.ended = True
            return 0
        except ssl.SSLError as error:
            raise self._failure(error) from error

    def encrypt(self, clear: bytes) -> bytes:
        rest = memoryview(clear)
        try:
            while rest:  # one record at a time
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError as error:
            raise self._failure(error) from error
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """Say that nothing follows."""
        with contextlib.suppress(ssl.SSLError):  # the answer is not waited for
            self._tls.unwrap()
        return self._outgoing.read()

    @staticmethod
    def _failure(error: ssl.SSLError) -> TlsError:
        reason = getattr(error, "verify_message", None) or error.reason or str(error)
        return TlsError(
            Violation(
                "tls",
                f"TLS failed ({reason}); every node needs a certificate of the cluster's authority "
                "for the name that its peers dial",
            )
        )
