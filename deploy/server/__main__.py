"""Serve bundles over the Open Inference Protocol: ``python -m deploy.server BUNDLE ...``."""

import argparse
import json
import logging
import os
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from deploy.errors import Refused
from deploy.files import read_json
from deploy.server.app import Application
from deploy.server.connection import Connection
from deploy.server.gate import Gate
from deploy.server.lifetime import GRACE_S, Server
from deploy.server.repository import Limits, Repository, shown

log = logging.getLogger("plumbline.server")

TOKEN = "PLUMBLINE_TOKEN"  # noqa: S105  # the variable's name


class Lines(logging.Formatter):
    """One JSON object a line: time, level, message, and what the message is about."""

    KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """``record`` as one line."""
        told: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in self.KNOWN}
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def main() -> None:
    """The command line."""
    limits = Limits()
    parser = argparse.ArgumentParser(prog="python -m deploy.server", description=__doc__)
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", type=Path, help="a folder with a contract.json")
    parser.add_argument("--host", default="127.0.0.1", help="(127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="(8000)")
    parser.add_argument("--grpc-port", type=int, default=8001, help="(8001; 0: no gRPC)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument("--token-file", type=Path, help=f"requests must bear what it holds; also ${TOKEN}")
    parser.add_argument("--tls-cert", type=Path, help="a PEM file; with --tls-key")
    parser.add_argument("--tls-key", type=Path, help="a PEM file")
    parser.add_argument("--verdicts", type=Path, help="build/verdicts.json: what was judged of what is served")
    parser.add_argument("--waiting", type=int, default=limits.waiting, help=f"requests a model ({limits.waiting})")
    parser.add_argument(
        "--deadline", type=float, default=limits.deadline_s, help=f"s, a request ({limits.deadline_s:g})"
    )
    parser.add_argument("--body", type=int, default=limits.body_bytes, help=f"bytes, at most ({limits.body_bytes})")
    parser.add_argument("--idle", type=float, default=limits.idle_s, help=f"s, of a sequence ({limits.idle_s:g})")
    parser.add_argument(
        "--sessions", type=int, default=limits.sessions_bytes, help=f"bytes of all sequences ({limits.sessions_bytes})"
    )
    parser.add_argument("--drain", type=float, default=0.0, help="s to answer on after SIGTERM, no longer ready (0)")
    asked = parser.parse_args()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else its core writes lines of its own when a client misbehaves
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what it warns of, any client can make it say
    try:
        if bool(asked.tls_cert) != bool(asked.tls_key):
            raise Refused("--tls-cert, --tls-key: one of them, expected both or none.")
        serve(asked)
    except (Refused, OSError) as error:
        sys.exit(f"server: {error}")
    except KeyboardInterrupt:  # before it was ready
        sys.exit(130)


def serve(asked: argparse.Namespace) -> None:
    """Serve until a signal ends it.

    Raises:
        Refused: a file that was named cannot be used.
    """
    limits = Limits(
        waiting=asked.waiting,
        deadline_s=asked.deadline,
        body_bytes=asked.body,
        idle_s=asked.idle,
        sessions_bytes=asked.sessions,
    )
    repository = Repository(asked.bundles, asked.device, limits)
    judged = _judged(asked.verdicts) if asked.verdicts else {}
    if asked.tls_key:
        _check_pair(asked.tls_cert, asked.tls_key)
    local = asked.host in ("127.0.0.1", "localhost", "::1")
    gate = Gate(limits, _token(asked.token_file), local)
    application = Application(repository, gate, asked.device, judged)

    config = uvicorn.Config(
        application,
        host=asked.host,
        port=asked.port,
        http=Connection,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        ssl_certfile=asked.tls_cert,
        ssl_keyfile=asked.tls_key,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(GRACE_S),
        backlog=2048,
    )
    tls = (asked.tls_key.read_bytes(), asked.tls_cert.read_bytes()) if asked.tls_key else None
    Server(config, application, asked.drain, asked.grpc_port, tls).run()


def _token(file: Path | None) -> str:
    token = os.environ.get(TOKEN, "").strip()
    if file:
        try:
            token = file.read_text().strip()
        except (OSError, ValueError) as error:
            raise Refused(f"{file}: cannot be read ({error}), expected a token on one line.") from None
        if not token:
            raise Refused(f"{file}: empty, expected a token on one line.")
    return token


def _judged(file: Path) -> dict[str, Any]:
    judged: dict[str, Any] = read_json(file)
    try:
        for of_recipe in judged.values():
            for row in of_recipe["targets"].values():
                shown(row)
    except (AttributeError, KeyError, TypeError) as error:
        raise Refused(
            f"{file}: no verdicts ({type(error).__name__}: {error}), expected what `dvc repro` writes to "
            f"build/verdicts.json."
        ) from None
    return judged


def _check_pair(cert: Path, key: Path) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
    except OSError as error:
        raise Refused(
            f"--tls-cert {cert}, --tls-key {key}: cannot be used ({error}), expected a certificate in PEM and its key."
        ) from None


if __name__ == "__main__":
    main()
