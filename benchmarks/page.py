"""How long the report takes to open: from navigation to the end of its ``load`` event, in chromium, its cache empty.

    python -m benchmarks.page

The page is ``build/report.html`` as it is, served on this machine, and by then all of it stands there: its charts are
drawn, and its script has run. The browser itself is started, and has opened the page once, before the first time that
counts.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from tqdm import tqdm

from pipeline.intervals import ALPHA
from pipeline.recipe import load_project
from pipeline.results import keep_benchmark

LOADS, DESK = 20, (1280, 900)
TIMING = """() => {
  const at = performance.getEntriesByType("navigation")[0];
  return at.loadEventEnd > 0 ? [at.loadEventEnd, at.transferSize] : null;
}"""


class Quiet(SimpleHTTPRequestHandler):
    """The files of one folder, without a line a request."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the base class
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of ``folder``, which is served until the block ends, and to this machine alone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def loads(browser: Browser, url: str, n: int) -> tuple[np.ndarray, int]:
    """Milliseconds ``(n,)`` from navigation to ready, and the bytes that came over the wire, headers and all."""
    ready_ms, transferred = [], 0
    width, height = DESK
    for i in tqdm(range(n + 1), unit="load", disable=None):
        context = browser.new_context(viewport={"width": width, "height": height})  # a cache of its own
        page = context.new_page()
        page.goto(url, wait_until="load")
        ms, transferred = page.wait_for_function(TIMING).json_value()
        ready_ms += [ms] if i else []
        context.close()
    return np.array(ready_ms), int(transferred)


def table(name: str, ready_ms: np.ndarray, transferred: int) -> str:
    """The median with bootstrap bounds over loads, as Markdown."""
    picks = np.random.default_rng(0).integers(len(ready_ms), size=(2_000, len(ready_ms)))
    low, high = np.quantile(np.median(ready_ms[picks], axis=1), (ALPHA, 1 - ALPHA))
    cells = [name, f"{np.median(ready_ms):,.0f} ({low:,.0f}–{high:,.0f})"]
    cells += [f"{ready_ms.min():,.0f}–{ready_ms.max():,.0f}", f"{transferred / 1e6:.2f} MB"]
    heads = [
        "page",
        f"navigation to ready, ms (median of {len(ready_ms)}, 95 % bounds)",
        "least to greatest",
        "transferred",
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), cells))


def main() -> None:
    """Print and keep the time to ready; one line where there is no chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        print("page: skipped, there is no chromium: `apt install chromium`, or Google Chrome")
        return
    project = load_project()
    page = project.build / "report.html"
    if not page.is_file():
        sys.exit(f"page: {page}: not found, expected the report. Make it: `make repro`.")
    with served(page.parent) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        ready_ms, transferred = loads(browser, f"{address}/{page.name}", LOADS)
    lines = table(f"`report.html` of {len(project.recipes)} recipes", ready_ms, transferred)
    print(lines)
    keep_benchmark(Path.cwd(), "page", lines)


if __name__ == "__main__":
    main()
