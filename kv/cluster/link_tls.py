"""The TLS of a peer link: contexts that the composition root made, and what they amount to."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


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
