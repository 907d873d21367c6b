"""Why a row was not measured, and what would measure it.

Reasons are told by whoever found them: `deploy/targets.py`, `deploy/trt.py`, `deploy/engines.py`, `deploy/builder.py`,
and the stage `quantize`.
"""

import re
import textwrap

QUOTED = 240  # characters at most, of what a runtime or a reason said
GPUS = {"8.6": "a GeForce RTX 30", "8.9": "a GeForce RTX 40", "12.0": "a GeForce RTX 50"}  # of that capability

# What a reason of a row that was not measured looks like -> what would measure it; the first that is found holds. These
# are of the graphs, and hold wherever it was to be measured.
OF_GRAPHS = [
    (
        r"TensorRT has no int8 form of it.*Deploy (fp16 there(?:, or int8 with ONNX Runtime on a CPU)?)",
        r"No command would measure it: TensorRT has no int8 form of a recurrent layer (LSTM, GRU, RNN). Deploy \1.",
    ),
    (
        r"would not be an int8 network\. Deploy fp32 there",
        r"No command would measure it: a recurrent layer in it would stay float32. Deploy fp32, and take int8-cpu "
        r"out of the recipe's `precisions:`.",
    ),
    (
        r"to quantize; it has.*Take (\S+) out",
        r"No command would measure it: the network has no layer to quantize. Deploy fp32 or fp16, and take \1 out of "
        r"the recipe's `precisions:`.",
    ),
    (
        r"the recipe does not ask for (\S+)",
        r"Add \1 to the recipe's `precisions:` in `params.yaml`, then run `dvc repro`.",
    ),
    (
        r"this is a limit of TensorRT-RTX",
        r"No command would measure it with TensorRT-RTX, which does not take what TensorRT itself takes. Build it with "
        r"TensorRT, on the machine that will run it, or deploy it with ONNX Runtime.",
    ),
    (
        r"The file is damaged, or no ONNX",
        r"Bring the graph back with `dvc checkout --force`, then run `dvc repro`; on another machine copy the bundle "
        r"again.",
    ),
    (
        r"cannot parse this graph",
        r"No command would measure it as the network stands: this runtime does not take one of its operators. Deploy "
        r"it with ONNX Runtime, or write the network without that operator and run `dvc repro`.",
    ),
    (
        r"onnxruntime's quantizer|ONNX's checker refuses|onnxruntime cannot open this graph",
        r"No command would measure it as the network stands: a graph of this precision could not be made or opened. "
        r"Deploy another precision, or write the network without the node that is named and run `dvc repro`.",
    ),
]
OF_THIS_HOST = [
    *(
        (
            rf"no GPU of compute capability {re.escape(capability)} ",
            f"Run `dvc repro` on a host with an NVIDIA GPU of compute capability {capability}, such as {gpu}.",
        )
        for capability, gpu in GPUS.items()
    ),
    (
        r"no GPU of compute capability ([\d.]+) ",
        r"Run `dvc repro` on a host with an NVIDIA GPU of compute capability \1.",
    ),
    (
        r"TensorRT builds for the GPU that is there",
        r"On a host with an NVIDIA GPU run `pip install -c constraints.txt -e '.[tensorrt]'`, then `dvc repro`.",
    ),
    (r"no NVIDIA GPU that works", r"Run `dvc repro` on a host with an NVIDIA GPU, its driver, CUDA and cuDNN."),
    (r"(pip install -c constraints\.txt -e '\.\[\w+\]')", r"Run `\1`, then `dvc repro`."),
    (
        r"cannot build this graph",
        r"Free memory on the GPU and run `dvc repro --force --single-item build@RECIPE`, then `dvc repro`; or write "
        r"the network without the layer that is named.",
    ),
    (
        r"does not work on this machine",
        r"Update the GPU's driver, or install the TensorRT that goes with it, then run `dvc repro`.",
    ),
    (r"fell back to .*(Install the CUDA and cuDNN .+?)\.?$", r"\1, then run `dvc repro`."),
    (r"install the CUDA runtime", r"Install the CUDA runtime, then run `dvc repro`."),
    (
        r"it was not built|built from another graph|changed since it was built|cannot load this engine|"
        r"reads its own engines only|engines are tied to the GPU",
        r"Run `dvc repro --force --single-item build@RECIPE` on this host, then `dvc repro`.",
    ),
    (r"(`dvc repro measure@[^`]+`)", r"Run \1, then `dvc repro`."),
]


def measure_by(reason: str, recipe: str = "RECIPE", host: str = "") -> str:
    """What would measure a row that was not measured for ``reason``, and where; or that nothing would, and what then.

    Args:
        recipe: the recipe's name, for commands that need it.
        host: which one did not measure it, if not this one; it may have neither DVC nor PyTorch.
    """
    for pattern, told in OF_GRAPHS if host else OF_GRAPHS + OF_THIS_HOST:
        if found := re.search(pattern, reason, re.DOTALL):
            return found.expand(told).replace("@RECIPE", f"@{recipe}")
    if host:
        return f"Mend there what the reason names. {again(host)}"
    return "Mend what the reason names, then run `dvc repro` on this host."


def again(host: str) -> str:
    """How a row of another host comes anew."""
    return f"Measure the bundle of now on {host}, and take in what comes back: `python -m pipeline.verify --from FILE`."


REMEDY = re.compile(  # where a reason ends and its remedy begins, which `measure_by` tells at more length
    r"; (measure on|build on|build it again)|: run the build stage|: pip install"
    r"|\. (Deploy|Take|Write|Free|Update|Install|Build|Make|Engines|Mend|Measure|Remove) "
)


def why(reason: str, host: str = "") -> str:
    """A reason without its remedy; of another host, which said it of itself, as one says it from here."""
    told = REMEDY.split(reason, maxsplit=1)[0]
    return quoted(re.sub(r"\bthis (host|machine|GPU)\b", r"that \1", told) if host else told)


def quoted(text: str) -> str:
    """What somebody else said, ``QUOTED`` characters at most, without its full stop and half a pair of backticks."""
    short = textwrap.shorten(text, QUOTED, placeholder=" …").rstrip(".")
    return short.replace("`", "'") if short.count("`") % 2 else short
