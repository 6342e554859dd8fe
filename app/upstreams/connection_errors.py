"""Why a connection to upstream failed.

Exception
├── CouldNotConnect     no byte of the request was sent
└── ConnectionLost      the connection broke after something may have been sent, or what came is not HTTP
"""

from __future__ import annotations

import errno
import socket
import ssl

UNKNOWN_HOST = {getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)}
ERRORS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "timed out",
    errno.EMFILE: "too many open files",
}
CERTIFICATES = {
    9: "not valid yet",
    10: "expired",
    18: "self-signed",
    19: "self-signed authority",
    20: "unknown authority",
    21: "unknown authority",
    23: "revoked",
    62: "for another host",
    64: "for another address",
}
"""What OpenSSL's codes mean (x509_vfy.h)."""


class CouldNotConnect(Exception):
    """No byte of the request was sent.

    `reason` is made of our own words and codes, so a log can carry it. `may_retry`: the same may succeed soon.
    """

    def __init__(self, reason: str, *, may_retry: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_retry = may_retry


class ConnectionLost(Exception):
    """The connection broke after something may have been sent, or what came on it is not HTTP."""


def could_not_connect(exc: OSError | UnicodeError) -> CouldNotConnect:
    """Tell why, without a word of the other side's. A certificate that was refused will be refused again."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        meaning = CERTIFICATES.get(exc.verify_code, f"refused (OpenSSL code {exc.verify_code})")
        return CouldNotConnect(f"certificate {meaning}", may_retry=False)
    if isinstance(exc, ssl.SSLError):
        return CouldNotConnect(f"TLS failed ({exc.reason or type(exc).__name__})")
    if isinstance(exc, socket.gaierror):
        return CouldNotConnect("unknown host" if exc.errno in UNKNOWN_HOST else "name lookup failed")
    if isinstance(exc, UnicodeError):
        return CouldNotConnect("unknown host", may_retry=False)
    return CouldNotConnect(ERRORS.get(exc.errno or 0) or errno.errorcode.get(exc.errno or 0, "failed"))
