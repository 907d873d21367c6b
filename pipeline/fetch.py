"""One file from the first place that has it: resumed by HTTP ranges, retried, held against its SHA-256.

What has come lies in ``<path>.part`` until it is the file. So it outlives a broken connection, a full disk and a
SIGKILL, and the next attempt, from whatever place, asks for the rest alone (RFC 9110, 14.2).
"""

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, InvalidHeader, ProtocolError, ReadTimeoutError
from urllib3.util import Retry

from deploy.errors import Refused
from deploy.files import sha256, write_bytes

MIRROR = "PLUMBLINE_MIRROR"  # the environment's word for a folder or URL that is tried before the official URLs

CONNECT_S, READ_S = 10, 30
SLOW, SLOW_S = 10_000, 60  # fewer bytes than that in as many seconds is a stall
RETRIES = 4  # attempts in a row that gain nothing, after the first
ATTEMPTS = 1_000  # of all, at one place
BACKOFF_S, BACKOFF_MAX_S, RETRY_AFTER_MAX_S = 0.5, 30, 60
REDIRECTS = 5
BUSY = (429, 500, 502, 503, 504)
BLOCK = 1 << 18

Count = Callable[[int], object]  # is told of bytes that have come, or, below zero, that were dropped


class _Failed(Exception):
    """What came from this place is not the file, and will not be."""


class _Down(_Failed):
    """Nothing is to be had there: neither this file nor others."""


class _Broken(Exception):
    """An attempt that ended before the file did; one that gained ``enough`` bytes was worth its while."""

    def __init__(self, why: str, enough: int = 1, response: requests.Response | None = None) -> None:
        super().__init__(why)
        self.enough, self.response = enough, response


def open_session() -> requests.Session:
    """One for all files of a data set, so that its connection stays open. Proxies come from the environment."""
    session = requests.Session()
    session.max_redirects = REDIRECTS
    # Raw bytes are what the hash is of. Asked for as they are; a server that compresses all the same is not undone.
    session.headers["Accept-Encoding"] = "identity"

    def leave_unread(response: requests.Response, **_: Any) -> None:
        if response.is_redirect:
            response.close()  # requests would read the body of a redirect to its end, and it may have none

    session.hooks["response"].append(leave_unread)
    return session


def fetch(
    place: str, source: dict[str, Any], path: Path, session: requests.Session, down: dict[str, str], count: Count
) -> None:
    """Bring the file to ``path``: out of ``$PLUMBLINE_MIRROR``, else from the first URL that gives it whole.

    Args:
        place: where it lies in a mirror, such as ``mnist/train-images-idx3-ubyte.gz``; names it in messages.
        source: ``urls`` in order, ``sha256`` in hexadecimal, ``bytes``.
        down: host or folder -> why nothing is to be had there; later files pass these over. Added to.

    Raises:
        Refused: no place has it; or it cannot be written, and then what has come is kept.
    """
    failures = []
    places = _places(place, source["urls"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number, (root, where) in enumerate(places, 1):
            if root in down:
                failures.append((where, down[root]))
                continue
            try:
                if isinstance(where, Path):
                    return _from_folder(where, Path(root), source, path, count)
                return _from_url(where, source, path, session, count)
            except _Failed as error:
                failures.append((where, str(error)))
                if isinstance(error, _Down):
                    down[root] = str(error)
                if number < len(places):
                    _say(f"{_shown(where)}: {error}; trying the next place")
    except OSError as error:
        raise Refused(
            f"{path}: {source['bytes']:,} bytes of {place} could not be written ({error.strerror}); what had come is "
            f"kept. Free some space on that disk, or mend its permissions, and run the same command again."
        ) from error
    tried = "".join(f"\n  {_shown(where)}: {why}" for where, why in failures)
    raise Refused(
        f"{place}: no place gave it:{tried}\nOffline, get it elsewhere ({source['bytes']:,} bytes, SHA-256 "
        f"{source['sha256']}), put it at <folder>/{place} and set {MIRROR}=<folder>."
    )


def held(path: Path) -> int:
    """Bytes of the file at ``path`` that have come in attempts before."""
    partial = _partial(path)
    return partial.stat().st_size if partial.is_file() else 0


def _places(place: str, urls: list[str]) -> list[tuple[str, str | Path]]:
    """Each as its root, host or folder, and where the file is: a URL, or a path in a mirror that is a folder."""
    places: list[tuple[str, str | Path]] = []
    mirror = os.environ.get(MIRROR)
    if mirror and "://" in mirror:
        urls = [f"{mirror.rstrip('/')}/{quote(place)}", *urls]
    elif mirror:
        places.append((str(Path(mirror) / place.split("/")[0]), Path(mirror) / place))
    return places + [("/".join(url.split("/")[:3]), url) for url in urls]


def _from_folder(where: Path, root: Path, source: dict[str, Any], path: Path, count: Count) -> None:
    """A copy of ``where``; what had come from elsewhere is of no more use."""
    for folder in (root.parent, root):
        if not folder.is_dir():
            raise _Down(f"{MIRROR}: no folder {folder}")
    try:
        if (came := where.stat().st_size) != source["bytes"]:
            raise _Failed(f"a file of {came:,} bytes, {source['bytes']:,} expected")
        data = where.read_bytes()
    except OSError as error:
        raise _Failed(f"cannot be read ({error.strerror})") from None
    if (digest := hashlib.sha256(data).hexdigest()) != source["sha256"]:
        raise _Failed(f"SHA-256 {digest}, expected {source['sha256']}")
    write_bytes(path, data)
    count(len(data) - held(path))
    _partial(path).unlink(missing_ok=True)


def _from_url(url: str, source: dict[str, Any], path: Path, session: requests.Session, count: Count) -> None:
    """Attempt upon attempt, for as long as they gain bytes; pieces that make another file are fetched anew, once."""
    partial, size = _partial(path), source["bytes"]
    # Spent here and not by the session, which waits in silence and reads the body of an error to its end.
    fresh = Retry(
        RETRIES,
        backoff_factor=BACKOFF_S,
        backoff_jitter=BACKOFF_S,
        backoff_max=BACKOFF_MAX_S,
        retry_after_max=RETRY_AFTER_MAX_S,
    )
    patience, furthest, anew = fresh, held(path), False
    for _ in range(ATTEMPTS):
        try:
            begin = _attempt(url, size, path, session, count)
        except _Broken as error:
            came = held(path)
            patience = fresh if came >= furthest + error.enough else _less(patience, error)
            furthest = max(furthest, came)
            _wait(patience, error, url)
            continue
        if (digest := sha256(partial)) == source["sha256"]:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            return
        _drop(path, count)
        if begin == 0 or anew:
            raise _Failed(f"SHA-256 {digest}, expected {source['sha256']}")
        _say(f"{_shown(url)}: what came in pieces has SHA-256 {digest}, expected {source['sha256']}; once more, anew")
        patience, furthest, anew = fresh, 0, True
    raise _Down(f"{ATTEMPTS:,} attempts, and {furthest:,} of {size:,} bytes")


def _attempt(url: str, size: int, path: Path, session: requests.Session, count: Count) -> int:
    """One request for what is missing, which leaves the partial file whole.

    Returns:
        The byte with which it began: 0 where the whole file came in one piece.
    """
    if held(path) > size:
        _drop(path, count)
    had = held(path)
    if had and had == size:
        return had
    with _ask(url, had, session) as response:
        begin = _begin(response, had, size)
        if begin is None:
            _drop(path, count)  # or it would be asked for the same again
            raise _Broken(f"HTTP {response.status_code}, no bytes from {had:,} on")
        with open(_partial(path), "ab" if begin else "wb") as file:
            count(begin - had)
            came, seen, since = begin, begin, time.monotonic()
            while came < size:
                try:
                    # At most what is missing: a body without end must not fill the disk. One read of the socket: a
                    # server that sends a byte now and then must not hold it for ever.
                    block = response.raw.read1(min(BLOCK, size - came), decode_content=False)
                except ReadTimeoutError:
                    raise _Broken(f"nothing for {READ_S} s, after {came:,} of {size:,} bytes", SLOW) from None
                except HTTPError:
                    raise _Broken(f"the connection broke after {came:,} of {size:,} bytes") from None
                if not block:
                    raise _Broken(f"it ended after {came:,} of {size:,} bytes")
                file.write(block)
                count(len(block))
                came += len(block)
                if time.monotonic() - since >= SLOW_S:
                    if came - seen < SLOW:
                        raise _Broken(f"{came - seen:,} bytes in {SLOW_S} s, after {came:,} of {size:,} bytes", SLOW)
                    seen, since = came, time.monotonic()
    return begin


def _ask(url: str, had: int, session: requests.Session) -> requests.Response:
    """The answer to a request for all bytes from ``had`` on; its body is still to be read."""
    if not re.match("https?://", url, re.IGNORECASE):
        raise _Failed("no http or https URL")
    headers = {"Range": f"bytes={had}-"} if had else {}
    try:
        return session.get(url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S))
    except requests.TooManyRedirects:
        raise _Failed(f"more than {REDIRECTS} redirects") from None
    except requests.exceptions.InvalidSchema as error:
        if "SOCKS" in str(error):
            raise _Down("the environment names a SOCKS proxy, which needs a package: pip install PySocks") from None
        raise _Failed("it redirects to no http or https URL") from None
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Broken(_reason(error)) from None
    except (requests.RequestException, HTTPError, ValueError) as error:  # whose text may hold the URL's password
        raise _Failed(f"the URL, or one that it redirects to, cannot be asked ({type(error).__name__})") from None
    except OSError as error:  # certificates that are not where the environment says
        raise _Down(str(error)) from None


def _reason(error: requests.RequestException) -> str:
    """The innermost cause, without the names of the classes around it."""
    cause: Any = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    if isinstance(cause, ProtocolError):
        cause = cause.args[-1]
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(cause))


def _begin(response: requests.Response, had: int, size: int) -> int | None:
    """The byte with which the body begins, 0 or ``had``; None where what is there cannot be continued."""
    status = response.status_code
    if status in BUSY:
        raise _Broken(_status(status), response=response)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and had:
        return None
    if status == HTTPStatus.OK:
        total = response.headers.get("Content-Length", "")
    elif status == HTTPStatus.PARTIAL_CONTENT:
        ranged = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        if not ranged or int(ranged[1]) != had:
            return None
        total = ranged[2]
    else:
        raise _Failed(_status(status))
    if re.fullmatch(r"\d{1,18}", total) and int(total) != size:
        encoding = response.headers.get("Content-Encoding", "")
        raise _Failed(f"a file of {int(total):,} bytes{encoding and f' ({encoding!r})'}, {size:,} expected")
    return had if status == HTTPStatus.PARTIAL_CONTENT else 0


def _less(patience: Retry, error: _Broken) -> Retry:
    """What is left after an attempt that gained nothing."""
    try:
        return patience.increment("GET")
    except HTTPError:
        raise _Down(f"{error}; {RETRIES + 1} attempts that gained nothing") from None


def _wait(patience: Retry, error: _Broken, url: str) -> None:
    """The longer, the more attempts gained nothing, or as long as a busy server asks for, up to a limit."""
    seconds = patience.get_backoff_time()
    if error.response is not None:
        with contextlib.suppress(InvalidHeader, ValueError, OverflowError):
            seconds = max(seconds, patience.get_retry_after(error.response.raw) or 0)
    _say(f"{_shown(url)}: {error}; again" + (f" in {seconds:.1f} s" if seconds else ""))
    time.sleep(seconds)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _drop(path: Path, count: Count) -> None:
    count(-held(path))
    _partial(path).unlink(missing_ok=True)


def _status(code: int) -> str:
    return f"HTTP {code} {HTTPStatus(code).phrase}" if code in list(HTTPStatus) else f"HTTP {code}"


def _shown(where: str | Path) -> str:
    """Without the name and password that a URL may carry."""
    return re.sub(r"(?<=://)[^/?#]*@", "***@", str(where))


def _say(line: str) -> None:
    """A line above the bar, at once: a pipe would hold it back until the end."""
    tqdm.write(line)
    sys.stdout.flush()
