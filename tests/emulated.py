"""Processors that this machine does not have, by Debian's user-mode emulation: answers as there, times not

A machine is the words before ``-c PROGRAM`` or ``FILE.py``. There is no other root, and nothing is registered with the
kernel: a program finds the Arm's files first, then this machine's, and every process that it starts runs here.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
from conftest import ROOT
from filelock import FileLock

from deploy.errors import Refused

os.environ["PATH"] += f"{os.pathsep}/usr/sbin"  # where debootstrap is, which not every account looks into
# Kept from run to run; `PLUMBLINE_EMULATED` names another folder.
CACHE = Path(os.environ.get("PLUMBLINE_EMULATED", ROOT / "build" / ".cache" / "emulated")).resolve()
NEEDS = {  # command -> Debian package
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-x86_64-static": "qemu-user-static",
    "debootstrap": "debootstrap",
}
INCLUDED = "python3,libgomp1,libstdc++6"  # debootstrap adds what they depend on
LEFT_OUT = ("./usr/share", "./var", "./etc", "./dev")  # a program needs none of it
WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
CPUINFO = "\n".join(  # of a Cortex-A76; without one, onnxruntime ends at its import
    (
        "processor\t: 0",
        "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x0",
        "CPU part\t: 0xd0b",
        "CPU revision\t: 1\n",
    )
)
PATIENCE = 300.0  # seconds without an end after which a download is given up


def lacking() -> str:
    """Which Debian packages are missing for ``arm`` and ``haswell``, and how to get them; empty if none is."""
    missing = sorted({package for command, package in NEEDS.items() if not shutil.which(command)})
    return f"no {', '.join(missing)}: `apt install {' '.join(missing)}`, on Debian" if missing else ""


def haswell() -> list[str]:
    """An x86 with AVX2 and neither AVX-512 nor VNNI, and this environment's own Python on it.

    Raises:
        Refused: this machine is no x86, so that its Python cannot run there.
    """
    if platform.machine() != "x86_64":
        raise Refused(f"an x86 Python: this one is for {platform.machine()}. Run the test on an x86-64 machine.")
    return [emulator("qemu-x86_64-static"), "-cpu", "Haswell", sys.executable]


def arm(cache: Path = CACHE) -> list[str]:
    """A 64-bit Arm with Debian's Python, numpy and ONNX Runtime, nothing else; made once, in about half a minute.

    It has this machine's release of Debian, from this machine's mirror, and this environment's versions.

    Raises:
        Refused: no Debian, no network, no wheel of that version, or what came is damaged.
    """
    suite, mirror = debian()
    wheels = [f"numpy=={np.__version__}", f"onnxruntime=={onnxruntime.__version__}"]
    made = cache / "-".join(re.sub(r"[^a-z0-9.]+", "-", word) for word in (suite, *wheels))
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        if not made.is_dir():
            making = cache / "making"
            shutil.rmtree(making, ignore_errors=True)  # of one that was killed
            for package in packages(suite, mirror, making / "downloaded"):
                unpack(package, making / "root")
            (making / "root" / "proc").mkdir(exist_ok=True)
            (making / "root" / "proc" / "cpuinfo").write_text(CPUINFO)
            fetch_wheels(wheels, python(making / "root").name.removeprefix("python"), making / "site")
            shutil.rmtree(making / "downloaded")
            making.rename(made)
    found = ["-L", str(made / "root"), "-E", f"PYTHONPATH={made / 'site'}", str(python(made / "root"))]
    return [emulator("qemu-aarch64-static"), "-cpu", "cortex-a76", *found]  # `-cpu max` takes ten times as long


def emulator(command: str) -> str:
    """The emulator's whole path: a program may be started with no ``PATH``."""
    return shutil.which(command) or command


def debian() -> tuple[str, str]:
    """This machine's release of Debian, and the mirror that apt has it from.

    Raises:
        Refused: there is no Debian here, or apt has no such mirror.
    """
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if release.get("ID") != "debian":
        raise Refused(f"the system: {release.get('PRETTY_NAME', platform.system())}, expected Debian. Run it on one.")
    suite = release["VERSION_CODENAME"]
    told = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    listed = run("apt-get", "indextargets", "--no-release-info", "--format", told, "Created-By: Packages")
    mirrors = [line.split()[2] for line in listed.splitlines() if line.startswith(f"{suite} main ")]
    if not mirrors:
        raise Refused(f"apt's sources: none of {suite} main, expected one. Add Debian's mirror to them.")
    return suite, mirrors[0]


def packages(suite: str, mirror: str, folder: Path) -> list[Path]:
    """Download Debian's smallest Arm system with Python, checked against Debian's signature; its packages.

    Raises:
        Refused: debootstrap's own last line.
    """
    asked = ("--arch=arm64", "--variant=minbase", "--download-only", "--force-check-gpg", f"--include={INCLUDED}")
    folder.mkdir(parents=True)
    run("debootstrap", *asked, suite, str(folder), mirror)
    return sorted(folder.glob("var/cache/apt/archives/*.deb"))


def unpack(package: Path, root: Path) -> None:
    """Unpack a Debian package into ``root``, where ``/lib`` is ``/usr/lib`` as on every Debian.

    Raises:
        Refused: it is damaged.
    """
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    tar = root.parent / "package.tar"
    try:
        with open(tar, "wb") as file:
            done = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=file, stderr=subprocess.PIPE)
        if done.returncode:
            raise Refused(f"{package.name}: damaged ({last_line(done.stderr.decode())}). Download it again.")
        left_out = [f"--exclude={name}" for name in LEFT_OUT]
        run("tar", "-x", "--keep-directory-symlink", "--no-same-owner", *left_out, "-f", str(tar), "-C", str(root))
    finally:
        tar.unlink()


def fetch_wheels(wheels: list[str], python_version: str, folder: Path) -> None:
    """Download wheels for the Arm, as pip is set up here, and unpack them into ``folder``; nothing that they depend on.

    Raises:
        Refused: pip's own last line; it holds each wheel against the index's hash.
    """
    downloaded = folder.with_name("downloaded") / "wheels"
    of = [word for name in WHEELS for word in ("--platform", name)] + ["--python-version", python_version]
    asked = ("--quiet", "--no-deps", "--only-binary=:all:", *of, "--dest", str(downloaded), *wheels)
    run(sys.executable, "-m", "pip", "download", *asked)
    for wheel in sorted(downloaded.glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder)


def python(root: Path) -> Path:
    """Debian's Python under ``root``: ``/usr/bin/python3.11``, say."""
    return (root / "usr" / "bin" / "python3").resolve()


def run(*words: str) -> str:
    """What a command says on its standard output.

    Raises:
        Refused: it fails, with its last line, or does not end.
    """
    name = "pip" if "pip" in words else words[0]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Refused(f"{name}: no end after {PATIENCE:g} s. Look at the network, and run it again.") from None
    if done.returncode:
        said = last_line(done.stderr) or last_line(done.stdout)
        raise Refused(f"{name}: {said or f'status {done.returncode}'}. Look at the network, and run it again.")
    return done.stdout


def last_line(said: str) -> str:
    return ([line.strip() for line in said.splitlines() if line.strip()] or [""])[-1]
