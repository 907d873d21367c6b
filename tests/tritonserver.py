"""A real tritonserver on this machine: Triton 2.51 of the wheel nvidia-pytriton, which has the Python backend alone

It lives in ``.venv-triton/`` of the checkout, made once, in about a minute.
"""

import contextlib
import ctypes.util
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from conftest import ROOT
from filelock import FileLock

from deploy.errors import Refused

VENV = ROOT / ".venv-triton"
REQUIREMENTS = Path(__file__).with_name("triton-requirements.txt")
CLIENT = Path(__file__).with_name("triton_client.py")
START_S = 60.0  # until all models are ready
END_S = 30.0
CLIENT_S = 60.0


@dataclass(frozen=True)
class Triton:
    """A server that is ready. ``http`` and ``grpc`` are addresses without a scheme, as tritonclient takes them."""

    http: str
    grpc: str
    pid: int

    def get(self, path: str) -> dict[str, object]:
        return json.loads(ask(f"http://{self.http}{path}"))


def python() -> Path:
    """The Python of the environment, which is made where there is none, or one of other versions.

    Raises:
        Refused: the wheel has nothing for this machine or this Python; pip's own last line.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Refused(f"{sys.platform} on {platform.machine()}: expected Linux on x86-64, which the wheel is for.")
    if not ctypes.util.find_library(f"python{version}"):
        raise Refused(
            f"no libpython{version}.so, which Triton's Python backend runs: `apt install libpython{version}`."
        )
    wanted = sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    lock = ROOT / "build" / ".cache" / "venv-triton.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        made = VENV / "made"
        if not made.is_file() or made.read_text() != wanted:
            shutil.rmtree(VENV, ignore_errors=True)
            run(sys.executable, "-m", "venv", str(VENV))
            (VENV / ".gitignore").write_text("*\n")
            run(str(VENV / "bin" / "pip"), "install", "--quiet", "--no-deps", "--requirement", str(REQUIREMENTS))
            stub = home() / "python_backend_stubs" / version / "triton_python_backend_stub"
            if not stub.is_file():
                known = ", ".join(sorted(path.name for path in stub.parents[1].iterdir()))
                raise Refused(f"Python {version}: Triton's Python backend of this wheel is for {known}.")
            shutil.copy(stub, home() / "backends" / "python")
            made.write_text(wanted)
    return VENV / "bin" / "python"


def site() -> Path:
    return VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def home() -> Path:
    return site() / "pytriton" / "tritonserver"


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise Refused(f"{Path(words[0]).name} {words[1]}: {(done.stderr.strip() or 'it failed').splitlines()[-1]}")


def environment() -> dict[str, str]:
    """Of a process in the environment, with nothing of the one that runs the tests."""
    return {
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(VENV),
        "PYTHONPATH": str(site()),  # the stub is no python of the environment
        "LD_LIBRARY_PATH": str(site() / "nvidia_pytriton.libs"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def tritonserver(models: Path, log: Path) -> Iterator[Triton]:
    """A server of the repository ``models``, on loopback addresses; ended by its process id.

    Raises:
        AssertionError: a model cannot be loaded, or the server does not end; with the end of its log.
    """
    python()
    http, grpc = free_ports(2)
    words = [
        str(home() / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={home() / 'backends'}",
        *("--http-address=127.0.0.1", f"--http-port={http}", "--http-thread-count=2"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--allow-metrics=false", "--exit-timeout-secs=10"),
        f"--backend-config=python,shm-region-prefix-name=plumbline{os.getpid()}_",
    ]
    with open(log, "wb") as told:
        process = subprocess.Popen(words, stdout=told, stderr=told, env=environment(), cwd=log.parent)
        try:
            triton = Triton(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", process.pid)
            wait_until_ready(triton, process, log)
            yield triton
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"tritonserver did not end within {END_S:g} s:\n{last_lines(log)}") from None


def wait_until_ready(triton: Triton, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(f"tritonserver ended with {process.returncode}:\n{last_lines(log)}")
        with contextlib.suppress(OSError):
            ask(f"http://{triton.http}/v2/health/ready")
            return
        time.sleep(0.1)
    raise AssertionError(f"tritonserver was not ready within {START_S:g} s:\n{last_lines(log)}")


def ask(url: str) -> bytes:
    """What a server on this machine answers; a connection of its own, closed at once."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return answer.read()


def last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([line for line in lines if line.startswith("E")][:20] + lines[-40:])


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, below those that Linux gives away: Triton takes them seconds later, with its models loaded."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port, taken = random.randrange(10_000, 32_000), stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                taken.bind(("127.0.0.1", port))
                found.append(port)
    return found


def in_environment(*words: str, timeout: float = CLIENT_S) -> str:
    """What a Python program says there.

    Raises:
        AssertionError: it fails, or does not end.
    """
    try:
        done = subprocess.run(
            [str(python()), *words], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"no end after {timeout:g} s: {words}\n{error.stderr!r}") from None
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout
