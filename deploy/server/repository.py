"""What is served at present: bundles opened, models by name, loaded anew and unloaded while requests come.

A bundle is held against its hashes and its models are tried out before any of it is served; where that fails, what was
served before is served on, and a bundle that was never whole is told by name.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deploy.contract import Bundle, open_bundle
from deploy.errors import Refused, words
from deploy.server.batching import Batcher
from deploy.server.errors import Status
from deploy.server.metrics import Counts
from deploy.server.model import Model, open_models
from deploy.server.serving import Served
from deploy.server.writing import Writer
from deploy.targets import GRAPHS

log = logging.getLogger("plumbline.server")


@dataclass(frozen=True)
class Limits:
    """What bounds the work that is taken on."""

    waiting: int = 256  # requests of a model that wait
    texts: int = 64  # that a model writes at a time
    deadline_s: float = 30.0  # of a request
    body_bytes: int = 16 * 2**20
    held_bytes: int = 256 * 2**20  # of all bodies that are being read or waiting
    idle_s: float = 600.0  # of a sequence
    sessions_bytes: int = 256 * 2**20


@dataclass
class Entry:
    """A name, and what answers to it; where nothing does, why."""

    folder: Path
    precision: str
    served: Served | None = None
    reason: str = ""


class Repository:
    """All that is served. Changed in the event loop's thread alone."""

    def __init__(self, folders: Sequence[Path], device: str, limits: Limits) -> None:
        self.limits = limits
        self.entries: dict[str, Entry] = {}
        self.routes: dict[bytes, Served] = {}  # path of `infer` -> what answers there
        self._folders, self._device = folders, device
        self._threads = ThreadPoolExecutor(thread_name_prefix="model")
        self._loading = asyncio.Lock()  # one at a time: two would need the memory of both

    async def load_all(self) -> None:
        """Open every bundle; one that cannot be is told, and the others are served."""
        for folder in self._folders:
            bundle: Bundle | Exception
            try:
                bundle = await asyncio.get_running_loop().run_in_executor(None, open_bundle, folder)
            except Exception as error:  # whatever is wrong with one, the others are served
                bundle = error
            for precision, of in GRAPHS[f"onnxruntime-{self._device}"].items():
                await self._load_or_tell(folder, precision, of, bundle)

    async def _load_or_tell(self, folder: Path, precision: str, of: str, bundle: Bundle | Exception) -> None:
        name = f"{folder.resolve().name}-{precision}"
        try:
            if isinstance(bundle, Exception):
                raise bundle
            if why := bundle.lacks(of):
                why = f"{bundle.recipe}: {of}: {why}."
                self.entries[name] = Entry(folder, precision, reason=why)
                log.info("there is none", extra={"model": name, "reason": why})
            else:
                await self._load(folder, precision, lambda: bundle)
        except Exception as error:
            self.entries[name] = Entry(folder, precision, reason=words(error))
            log.error("not served", extra={"model": name, "reason": words(error)})

    async def load(self, name: str) -> None:
        """Open the bundle of ``name`` as it is now; what is served before is served until that is ready.

        Raises:
            Refused: it cannot be opened; nothing has changed.
            Status: 404, no such name.
        """
        entry = self._entry(name)
        try:
            bundle = partial(open_bundle, entry.folder)
            await self._load(entry.folder, entry.precision, bundle, name if entry.served else "")
        except Refused as refused:
            log.error("not loaded", extra={"model": name, "reason": str(refused)})
            raise

    async def _load(self, folder: Path, precision: str, bundle: Callable[[], Bundle], name: str = "") -> None:
        """``name``: what must be among its models, since it is served from there now."""
        loop = asyncio.get_running_loop()
        async with self._loading:
            models = await loop.run_in_executor(None, lambda: open_models(bundle(), self._device, precision))
            if name and name not in [model.name for model in models]:
                raise Refused(f"{folder}: holds {models[0].name} by now, expected {name}. Put that bundle there again.")
            for model in models:
                self.entries[model.name] = Entry(folder, precision, self._serve(model))
                log.info("served", extra={"model": model.name, "version": model.version, "joined": model.joined})
            self._route()

    def _serve(self, model: Model) -> Served:
        entry = self.entries.get(model.name)
        before = entry.served if entry else None
        counts = before.counts if before and before.model.version == model.version else Counts()
        writes = model.task == "language_model"
        return Served(
            model,
            Batcher(model, self._threads, self.limits.waiting, counts),
            Writer(model, self._threads, self.limits.texts, counts) if writes else None,
            counts,
        )

    def unload(self, name: str) -> None:
        """Serve ``name`` no more; what it has taken on it still answers.

        Raises:
            Status: 404, no such name.
        """
        entry = self._entry(name)
        entry.served, entry.reason = None, "unloaded"
        self._route()
        log.info("unloaded", extra={"model": name})

    def find(self, name: str, version: str = "") -> Served:
        """What answers to ``name``.

        Raises:
            Status: 404, nothing does.
        """
        entry = self._entry(name)
        if entry.served is None:
            raise Status(404, f"model {name!r}: not served: {entry.reason}")
        served = entry.served
        if version and version != served.model.version:
            raise Status(404, f"model {name!r}: version {version[:50]!r}, expected {served.model.version}.")
        return served

    def served(self) -> Iterator[Served]:
        """All that answers."""
        return (entry.served for entry in self.entries.values() if entry.served)

    def index(self, only_ready: bool) -> list[dict[str, str]]:
        """Each name, and whether it answers."""
        return [
            {
                "name": name,
                "version": entry.served.model.version if entry.served else "",
                "state": "READY" if entry.served else "UNAVAILABLE",
                "reason": entry.reason,
            }
            for name, entry in sorted(self.entries.items())
            if entry.served or not only_ready
        ]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            known = ", ".join(sorted(self.entries))
            raise Status(404, f"model {name[:100]!r}: unknown, expected one of {known}.")
        return self.entries[name]

    def _route(self) -> None:
        self.routes = {}
        for served in self.served():
            path = f"/v2/models/{served.model.name}"
            for of in (path, f"{path}/versions/{served.model.version}"):
                self.routes[f"{of}/infer".encode()] = served


def verdict(model: Model, device: str, judged: dict[str, Any]) -> dict[str, Any] | None:
    """What was judged of the very graphs of ``model`` on such a device; ``None`` if nothing was.

    Args:
        judged: ``build/verdicts.json``.
    """
    row = judged.get(model.recipe, {}).get("targets", {}).get(f"onnxruntime-{device}-{model.precision}")
    whole = model.name == f"{model.recipe}-{model.precision}"
    if not (row and whole and row["graph_sha256"] in (model.sha256, *model.sha256.values())):
        return None
    return shown(row)


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """What is told of a row of ``build/verdicts.json``.

    Raises:
        KeyError: it is no such row.
    """
    kept = ("verdict", "reason", "metric", "trained", "deployed", "latency_ratio", "host", "date")
    return {name: row[name] for name in kept}
