"""How an opened engine or session carries out its calls, told to whoever hands a ``Told`` in."""

from dataclasses import dataclass, field


@dataclass
class Told:
    """Filled as calls are made.

    ``timing``: set by who asks: time each call by the device's clock, which costs the host some microseconds.
    ``device_s``: seconds of each call timed so, from its first copy's start to its last copy's end; without a CUDA
    graph the device's waits for the host are in it. ``calls``, and ``replays`` of them by a CUDA graph. ``plain``: why
    calls are launched step by step; empty where nothing hinders a graph. ``on_cpu``: the nodes that the runtime placed
    on the processor, all of them to compute sizes; ``None`` where it does not tell.
    """

    timing: bool = False
    device_s: list[float] = field(default_factory=list)
    calls: int = 0
    replays: int = 0
    plain: str = ""
    on_cpu: tuple[str, ...] | None = None
