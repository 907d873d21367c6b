"""``make results`` and ``make bench``: keep what this host measured, and bring the README's tables up to it.

The only writer of ``results/``. Not a stage: a run elsewhere must not change what is committed.
"""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.errors import Refused
from deploy.files import read_json, write_bytes, write_json
from deploy.host import describe
from pipeline import stage
from pipeline.recipe import Project
from pipeline.report import not_measured, table

BLOCKS = {
    kind: re.compile(rf"(<!-- {kind}: made by `make {kind}` -->\n).*?(<!-- end of {kind} -->)", re.DOTALL)
    for kind in ("results", "paper-results", "bench")
}


def results(project: Project) -> None:
    """Write ``results/<host>.json`` (of another set ``results/<set>/<host>.json``) and the README's block."""
    host = read_json(project.build / "host.json")
    folder = Path.cwd().resolve().relative_to(project.root.resolve())  # of the set: that of its params.yaml
    write_json(
        project.root / "results" / folder / f"{host['name']}.json",
        {
            "commit": _commit(project.root),
            "host": host,
            "verdicts": read_json(project.build / "verdicts.json"),
        },
    )
    readme = project.root / "README.md"
    write_bytes(readme, with_tables(readme.read_text(), project.root / "results").encode())


def keep_benchmark(root: Path, name: str, lines: str) -> None:
    """Write ``results/bench/<name>.json``, a table with where it was measured, and the README's block of benchmarks."""
    host = describe()
    date = datetime.now(UTC).date().isoformat()
    facts = {
        "command": f"python -m benchmarks.{name}",
        "date": date,
        "commit": _commit(root),
        "host": host,
        "table": lines,
    }
    write_json(root / "results" / "bench" / f"{name}.json", facts)
    readme = root / "README.md"
    write_bytes(readme, with_tables(readme.read_text(), root / "results").encode())


def with_tables(readme: str, folder: Path) -> str:
    """``readme`` with its blocks made anew from ``results/``:
    ``<host>.json``, ``paper/<host>.json``, ``bench/<name>.json``.
    """
    made = {
        "results": "\n".join(_block(read_json(path)) for path in sorted(folder.glob("*.json"))),
        "paper-results": "\n".join(_block(read_json(path)) for path in sorted((folder / "paper").glob("*.json"))),
        "bench": "\n".join(_benchmark(read_json(path)) for path in sorted((folder / "bench").glob("*.json"))),
    }
    for kind, block in BLOCKS.items():
        found = block.search(readme)
        if found is None:
            raise Refused(f"README.md: the lines that begin and end its block of {kind} are missing; put them back")
        readme = readme[: found.start()] + found[1] + made[kind] + found[2] + readme[found.end() :]
    return readme


def _benchmark(facts: dict[str, Any]) -> str:
    host = facts["host"]
    return (
        f"{facts['table']}\n\n`{facts['command']}` on {host['processor']}, {host['cores']} cores, torch "
        f"{host['packages']['torch']}; {facts['date']}, commit `{facts['commit']}`.\n"
    )


def _block(result: dict[str, Any]) -> str:
    host, packages = result["host"], result["host"]["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "onnxruntime-gpu", "onnxruntime") if name in packages
    )
    absent = sum(len(rows) for rows in not_measured(result["verdicts"]).values())
    return (
        f"{table(result['verdicts'])}\n\n"
        f"{host['processor']}, {host['cores']} cores, {len(host['gpus']) or 'no'} GPU; {versions}; batch 1, one "
        f"thread; {_dates(result)}, commit `{result['commit']}`. {absent} rows were not measured on this host, "
        f"each with its reason in the report.\n"
    )


def _dates(result: dict[str, Any]) -> str:
    return " and ".join(sorted({recipe["date"] for recipe in result["verdicts"].values()}))


def _commit(root: Path) -> str:
    """The commit that this tree is at; ``-dirty`` where a tracked file other than the lock and the results differs."""
    apart = [":!*dvc.lock", ":!results", ":!README.md"]
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *apart)
    return _git(root, "rev-parse", "--short=10", "HEAD") + ("-dirty" if changed else "")


def _git(root: Path, *words: str) -> str:
    answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    if answer.returncode:
        raise Refused(
            f"git {' '.join(words)}: {answer.stderr.strip()}. Results are kept with the commit they were measured at: "
            f"run this in a clone."
        )
    return answer.stdout.strip()


if __name__ == "__main__":
    stage.run(results)
