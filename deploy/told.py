"""What an opened engine or session tells of itself beside its answers, to whoever hands a ``Told`` in."""

from dataclasses import dataclass, field


@dataclass
class Told:
    """How the calls were carried out; filled as they are made.

    ``device_s``: seconds of each call as the device's clock has them, from its first copy's start to its last copy's
    end; without a CUDA graph the device's waits for the host are in it. ``replays``: calls served by a CUDA graph.
    ``plain``: why calls are launched step by step; empty where nothing hinders a graph. ``on_cpu``: the nodes that the
    runtime placed on the processor, all of them to compute sizes; ``None`` where it does not tell.
    """

    device_s: list[float] = field(default_factory=list)
    replays: int = 0
    plain: str = ""
    on_cpu: tuple[str, ...] | None = None
