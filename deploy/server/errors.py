"""What a request is answered by when it cannot be answered as asked: the status of HTTP, and words."""

import logging

from deploy.errors import Refused

log = logging.getLogger("plumbline.server")


class Status(Refused):
    """A request that is refused by another status than 400, which every other ``Refused`` is answered by.

    401 no token, 404 nothing of that name, 405 another method, 408 too slow, 413 too large, 503 later, 504 too late.
    """

    def __init__(self, status: int, message: str, allow: str = "") -> None:
        """``allow``: of a 405, the methods that there are."""
        super().__init__(message)
        self.status, self.allow = status, allow


def status_of(error: Exception) -> int:
    """The status that ``error`` is answered by; 500 is a mistake of ours."""
    if isinstance(error, Status):
        return error.status
    return 400 if isinstance(error, Refused) else 500


def status_and_words(error: Exception) -> tuple[int, str]:
    """The status and the words that a client is told; a mistake of ours is told in the log alone."""
    status = status_of(error)
    if status == 500:
        log.error("failed", exc_info=error)
        return status, "the server failed at this; its log says how. Ask again, or ask its owner."
    return status, str(error)
