"""Stage ``build@recipe``: every TensorRT engine that this host can build, and a reason for every one it cannot."""

from dataclasses import asdict

from tqdm import tqdm

from deploy.contract import open_bundle
from deploy.engines import build_engines
from deploy.files import read_json
from deploy.targets import engine_targets
from pipeline import stage
from pipeline.recipe import Project

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total} targets [{elapsed}, {remaining} left{postfix}]"


def build(project: Project, name: str) -> None:
    """Write the engines, the layers of each, and ``build.json`` into ``build/engines/<name>/``.

    Raises:
        Refused: a damaged bundle, a full disk, Ctrl-C. What was built until then is kept in ``build/.cache/``.
    """
    bundle = open_bundle(project.build / "bundle" / name)
    host = read_json(project.build / "host.json")
    out, cache = project.build / "engines" / name, project.build / ".cache" / f"build@{name}"
    targets = engine_targets()
    with tqdm(total=len(targets), desc=f"build {name}", bar_format=BAR, disable=None) as bar:

        def progress(done: float, what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        built = build_engines(bundle, host, targets, asdict(project.engines), out, cache, progress)
    print(f"{name}: {sum('reason' not in entry for entry in built.values())} engines built")
    for reason in sorted({entry["reason"] for entry in built.values() if "reason" in entry}):
        print(f"  not built: {reason}")


if __name__ == "__main__":
    stage.run_named(build)
