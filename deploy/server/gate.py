"""Who is let in, and how much of what they send is held at a time; the same over HTTP and gRPC."""

import hmac
import re

from deploy.server.errors import Status
from deploy.server.repository import Limits

HERE = re.compile(rb"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)


class Gate:
    """One for a process."""

    def __init__(self, limits: Limits, token: str = "", local: bool = False) -> None:
        """
        Args:
            token: what requests must bear; empty: none.
            local: the server is for this machine alone, and is called by no name but its own.
        """
        self.limits = limits
        self.held = 0  # bytes of requests, and of answers that are not taken
        self._token, self._local = token.encode(), local

    def admit(self, bearer: bytes) -> None:
        """Refuse who has no token: ``bearer`` is the value of `authorization`.

        Raises:
            Status: 401.
        """
        if self._token and not hmac.compare_digest(bearer, b"Bearer " + self._token):
            raise Status(401, "authorization: no token, or another, expected `Authorization: Bearer` and the server's.")

    def from_here(self, host: bytes, origin: bytes) -> None:
        """Refuse what another site's page makes a browser send, under a name of its own that leads here too.

        Raises:
            Status: 403.
        """
        if origin and origin.partition(b"://")[2] != host:
            raise Status(403, f"origin: {origin[:100].decode('latin-1')!r}, expected this server's own page.")
        if self._local and host and not HERE.fullmatch(host):
            raise Status(403, f"host: {host[:100].decode('latin-1')!r}, expected localhost or 127.0.0.1.")

    def allow(self, nbytes: int) -> None:
        """Refuse a body that is too large.

        Raises:
            Status: 413.
        """
        if nbytes > self.limits.body_bytes:
            raise Status(413, f"body: {nbytes} bytes, expected at most {self.limits.body_bytes}. Send a smaller batch.")

    def hold(self, nbytes: int) -> None:
        """Count bytes among those that are held, until ``release``.

        Raises:
            Status: 503, there is no room for them; they are not counted then.
        """
        held = self.held + nbytes
        if held > self.limits.held_bytes:
            raise Status(503, f"{held} bytes of requests and answers are held, and no more can be. Ask again later.")
        self.held = held

    def release(self, nbytes: int) -> None:
        """Count them no more."""
        self.held -= nbytes
