"""A TensorRT build that tells how far it is, and that Ctrl-C ends cleanly."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

Progress = Callable[[float, str], None]  # is told the share that is done, 0 to 1, and the phase with its steps


def compile_network(trt: ModuleType, builder: Any, network: Any, config: Any, progress: Progress | None) -> Any:
    """Build ``network``: the plan, or ``None`` where TensorRT gives none.

    TensorRT runs in a thread of its own. It catches what Python raises in its callbacks, so that Ctrl-C there would be
    lost; here it stops the build at its next step.

    Raises:
        KeyboardInterrupt: once the build has stopped. And whatever ``progress`` raises.
    """
    stop = threading.Event()
    failed: list[Exception] = []
    config.progress_monitor = monitor = _monitor(trt, progress, stop, failed)  # TensorRT does not keep it alive
    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(builder.build_serialized_network, network, config)
        try:
            plan = work.result()
        except KeyboardInterrupt:
            stop.set()
            raise
    del monitor
    if failed:
        raise failed[0]
    return plan


def _monitor(trt: ModuleType, progress: Progress | None, stop: threading.Event, failed: list[Exception]) -> Any:
    """Ends the build once ``stop`` is set. A phase has steps, and a step may be a phase with steps of its own."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int, int]] = {}  # name -> the phase it is in, steps, steps done
            self.furthest = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase, num_steps, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            parent, steps, _ = self.phases.get(phase_name, (None, step + 1, 0))
            self.phases[phase_name] = (parent, steps, step + 1)
            self.furthest = max(self.furthest, self.share(None))
            try:
                if progress:
                    progress(self.furthest, f"{phase_name} {step + 1}/{steps}")
            except Exception as error:  # TensorRT would print it and call the build cancelled
                failed.append(error)
                stop.set()
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def share(self, of: str | None) -> float:
            inside = [(name, steps, done) for name, (parent, steps, done) in self.phases.items() if parent == of]
            return max((min(1.0, (done + self.share(name)) / steps) for name, steps, done in inside), default=0.0)

    return Monitor()
