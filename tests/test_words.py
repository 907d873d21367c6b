"""Words, split and looked up inside the graph, against plain Python; and the classifiers that read them."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from texts import to_bytes
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.trt import logger
from models import words as module
from models.bag_of_words import BagOfWords
from models.sequence_classifier import TextClassifier
from models.words import PRIME, STEPS, Words
from pipeline.export import check_graph, to_onnx
from pipeline.fp16 import to_fp16
from pipeline.network import open_pytorch
from pipeline.preflight import devices, preflight

TRAIN = ["the cat sat on the mat", "the dog  ate\tthe cat", " é é ein Wort \r\n", "", "one mat on dog", f"{'x' * 63} " * 2,
         f"{'y' * 64} " * 2]  # fmt: skip
KNOWN = {b"the", b"cat", b"on", b"mat", b"dog", "é".encode(), b"x" * 63}  # twice or more, of 63 bytes at most
TEXT = to_bytes(TRAIN)
MOST = 12
FLOAT = onnx.TensorProto.FLOAT


class Rows(nn.Module):
    """The row of each word's vector, as a number that float16 can hold."""

    axes = {"text": {1: "time"}}

    def __init__(self, words: Words) -> None:
        super().__init__()
        self.words = words

    def forward(self, text: Tensor) -> Tensor:
        return self.words(text)[0]


def fitted(network: nn.Module) -> nn.Module:
    network.fit(torch.from_numpy(TEXT))
    return network.eval()


def rows() -> Rows:
    network = Rows(fitted(Words(1, MOST)))
    network.words.embedding.weight.data[:, 0] = torch.arange(2 + MOST)
    return network


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "bag": lambda: BagOfWords(3, MOST),
    "LSTM": lambda: TextClassifier(3, "LSTM", size=4, units=5, most=MOST, layers=2),
    "GRU": lambda: TextClassifier(3, "GRU", size=4, units=5, most=MOST),
}


def classifier(name: str) -> nn.Module:
    torch.manual_seed(0)
    return fitted(CLASSIFIERS[name]())


def exported(network: nn.Module, output: str) -> onnx.ModelProto:
    model = to_onnx(network, {"text": TEXT}, (output,))
    check_graph(model, network, {"text": TEXT}, (output,))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Name -> the fp32 graph's file and the fp16 graph's."""
    folder = tmp_path_factory.mktemp("graphs")
    networks = {"rows": (rows(), "rows")} | {name: (classifier(name), "logits") for name in CLASSIFIERS}
    for name, (network, output) in networks.items():
        onnx.save(exported(network, output), folder / f"{name}.onnx")
        (folder / f"{name}-fp16.onnx").write_bytes(to_fp16(folder / f"{name}.onnx", {})[0])
    return {name: (folder / f"{name}.onnx", folder / f"{name}-fp16.onnx") for name in networks}


@pytest.fixture(scope="module")
def readers(graphs: dict[str, tuple[Path, Path]]) -> list[Run]:
    """``text`` to rows: PyTorch, the graph in fp32, and in fp16."""
    return [open_pytorch(rows(), ("rows",)), *(open_onnxruntime(path.read_bytes()) for path in graphs["rows"])]


def said(run: Run, lines: list[bytes], padding: int = 0) -> np.ndarray:
    longest = max([1, *map(len, lines)]) + padding
    text = np.array([list(line.ljust(longest, b"\0")) for line in lines], np.uint8)
    return run({"text": text})["rows"][:, :, 0]


def of_line(line: bytes) -> list[bytes]:
    """The oracle's words."""
    return bytes(max(byte, 32) for byte in line).split()


ROW = {word: int(said(open_pytorch(rows(), ("rows",)), [word])[0, 0]) for word in KNOWN}


def expected(lines: list[bytes], padding: int = 0) -> np.ndarray:
    longest = max([1, *map(len, lines)]) + padding
    found = [[ROW.get(word, 1) for word in of_line(line)] for line in lines]
    return np.array([row + [0] * ((longest + 1) // 2 - len(row)) for row in found])


def test_every_word_of_the_vocabulary_has_a_row_of_its_own() -> None:
    assert sorted(ROW.values()) == list(range(2, 2 + len(KNOWN)))


tokens = st.sampled_from(
    [*sorted(KNOWN), b"x" * 62, b"y" * 64, b"x" * 64, b"th", b"teh", b"The", b"unknown", b"z" * 200]
)
blanks = st.sampled_from([b" ", b"\t", b"  \n ", b"\x01", b"\0", b"\r\n", b""])
lines = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=20).map(str.encode),
    st.lists(st.tuples(blanks, tokens, blanks).map(b"".join), max_size=12).map(b"".join),
)


@settings(deadline=None)
@given(st.lists(lines, min_size=1, max_size=4), st.integers(0, 7))
@example([b""], 0)
@example([b"a"], 0)
@example([b" "], 0)
@example([b"the", b"", b"  the", b"a b c the"], 0)
@example(["\u3000é ïé".encode(), b"\x7f\xff \x85"], 1)
def test_rows_are_those_of_plain_python(readers: list[Run], texts: list[bytes], padding: int) -> None:
    for run in readers:
        np.testing.assert_array_equal(said(run, texts, padding), expected(texts, padding))


@given(st.binary(min_size=1, max_size=2 ** (STEPS + 1)))
@settings(deadline=None)
def test_hashes_are_horners(line: bytes) -> None:
    words = fitted(Words(1, MOST))
    bases = words.power[0].flatten().tolist()
    hashes, there = words._split(torch.tensor([list(line)]))
    assert int(there.sum()) == len(of_line(line))
    for i, word in enumerate(of_line(line)):
        values = []
        for base in bases:
            value = 0
            for byte in word:
                value = (value * base + byte) % PRIME
            values.append(value)
        told = [values[0] * PRIME + values[1], values[2] * PRIME + values[3]]
        assert hashes[:, 0, i].tolist() == (told if len(word) < 2**STEPS else [PRIME * PRIME] * 2)


def test_no_number_of_the_graph_needs_more_than_31_bits(graphs: dict[str, tuple[Path, Path]]) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(graphs["rows"][0]))
    whole = [tensor for tensor in model.graph.value_info if tensor.type.tensor_type.elem_type == onnx.TensorProto.INT64]
    computed = {name for node in model.graph.node for name in node.output}
    model.graph.output.extend(tensor for tensor in whole if tensor.name in computed)
    run = open_onnxruntime(model.SerializeToString(), optimise=False)
    random = np.random.default_rng(0).integers(0, 256, (4, 3000)).astype(np.uint8)
    largest = {}
    for text in (np.full((2, 500), 255, np.uint8), random, np.where(random < 230, random, 32).astype(np.uint8), TEXT):
        answers = run({"text": text})
        assert len(answers) > 50
        for name, array in answers.items():
            largest[name] = max(largest.get(name, 0), int(np.abs(array.astype(np.float64)).max()))
    assert max(largest.values()) < 2**31
    assert max(largest.values()) > 2**29  # the hashes were among them


def test_the_vocabulary_is_the_most_frequent_words_and_ties_go_to_the_first() -> None:
    text = torch.from_numpy(to_bytes(["b a c c", "a c d b d e"]))
    assert Words(1, 9)._vocabulary(text) == [b"c", b"b", b"a", b"d"]
    assert Words(1, 3)._vocabulary(text) == [b"c", b"b", b"a"]
    assert Words(1, 9, least=3)._vocabulary(text) == [b"c"]
    assert Words(1, 9, least=1)._vocabulary(text)[-1] == b"e"


def test_a_large_vocabulary_is_told_apart_and_unknown_words_are_unknown() -> None:
    numbers = np.random.default_rng(0).permutation(200_000).astype(str)
    known, unknown = numbers[:20_000], numbers[20_000:]
    words = Words(1, len(known), least=1)
    words.fit(torch.from_numpy(to_bytes(list(known))))
    hashes, there = words._split(torch.from_numpy(to_bytes(list(known))).long())
    assert there[:, 0].all() and not there[:, 1:].any()
    assert sorted(words._row(hashes[:, :, 0]).tolist()) == list(range(2, 2 + len(known)))
    assert (words._row(words._split(torch.from_numpy(to_bytes(list(unknown))).long())[0][:, :, 0]) == 1).all()


def test_weights_carry_the_vocabulary() -> None:
    network, other = rows(), Rows(Words(1, MOST))
    unread = other.eval()(torch.from_numpy(TEXT))
    np.testing.assert_array_equal((unread != 0)[:, :, 0].sum(1), [len(text.split()) for text in TRAIN])  # all unknown
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(torch.from_numpy(TEXT)), network(torch.from_numpy(TEXT)), rtol=0, atol=0)


def test_a_training_split_without_words_leaves_all_unknown() -> None:
    words = Words(2, MOST)
    for text in ([""], ["   "], ["a b c"]):
        words.fit(torch.from_numpy(to_bytes(text, 5)))
        assert (words._row(words._split(torch.from_numpy(TEXT).long())[0]) == 1).all()


def test_words_whose_hashes_are_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRIME", 257)  # then 256 is the only base, and is -1: the order of letters is lost
    with pytest.raises(ValueError, match=re.escape("with none of 8 seeds have 2 words hashes of their own")):
        Words(1, 5).fit(torch.from_numpy(to_bytes(["abc cba abc cba"])))


def test_a_bucket_of_too_many_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAYS", 0)
    with pytest.raises(ValueError, match=re.escape("at most 0 words a bucket. Lower `most`, which is 5.")):
        Words(1, 5).fit(torch.from_numpy(to_bytes(["abc abc"])))


def test_fitting_draws_no_random_number_that_weights_would_draw() -> None:
    words = Words(1, MOST)
    before = torch.get_rng_state()
    fitted(words)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_reads_one_word_in_two_hundred_as_unknown() -> None:
    network = rows()
    text = torch.from_numpy(to_bytes(["the cat " * 5000] * 4))
    known = network(text)
    network.train()
    read = network(text)
    changed = read != known
    assert changed.sum() == (read == 1).sum()
    assert 0.003 < changed.sum() / (known != 0).sum() < 0.007


@pytest.mark.parametrize("text", [b"a" * 1_000_000, b"cat the x " * 100_000], ids=["one word", "300,000 words"])
def test_a_million_characters(text: bytes, readers: list[Run]) -> None:
    known = expected([text])
    for run in readers:
        np.testing.assert_array_equal(said(run, [text]), known)


@pytest.mark.slow
@pytest.mark.parametrize("text", [b"a" * 1_000_000, b"cat the x " * 100_000], ids=["one word", "300,000 words"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_take_a_million_characters(name: str, text: bytes, graphs: dict[str, tuple[Path, Path]]) -> None:
    feed = {"text": np.frombuffer(text, np.uint8).copy()[None]}
    trained = open_pytorch(classifier(name), ("logits",))(feed)["logits"]
    deployed = open_onnxruntime(graphs[name][0].read_bytes())(feed)["logits"]
    assert np.isfinite(trained).all()
    # Of a bag, ONNX Runtime adds 300,000 vectors in float32 one after another, PyTorch in parts.
    np.testing.assert_allclose(deployed, trained, rtol=1e-2 if name == "bag" else 1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_graphs_answer_as_the_network_at_any_batch_and_length(name: str, graphs: dict[str, tuple[Path, Path]]) -> None:
    trained = open_pytorch(classifier(name), ("logits",))
    full, half = (open_onnxruntime(path.read_bytes()) for path in graphs[name])
    kinds = Counter(node.op_type for node in onnx.load(graphs[name][0]).graph.node)
    assert kinds["LSTM"] == 2 * (name == "LSTM") and kinds["GRU"] == (name == "GRU") and not kinds["Clip"]
    for batch, time in ((1, 1), (7, 1), (1, 2), (3, 5), (7, 40), (2, 129)):
        feed = {"text": np.resize(TEXT, (7, 129))[:batch, :time]}
        truth = trained(feed)["logits"]
        np.testing.assert_allclose(full(feed)["logits"], truth, rtol=1e-5, atol=1e-5)
        came = half(feed)["logits"]
        assert came.dtype == np.float32
        np.testing.assert_allclose(came, truth, rtol=1e-2, atol=5e-3)


def test_fp16_leaves_the_arithmetic_of_words_alone(graphs: dict[str, tuple[Path, Path]]) -> None:
    for full, half in graphs.values():
        model = onnx.shape_inference.infer_shapes(onnx.load(full))
        types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in model.graph.value_info}
        nodes = [node for node in model.graph.node if types.get(node.output[0], FLOAT) != FLOAT]
        assert {"CumSum", "Mod", "ScatterElements"} <= {node.op_type for node in nodes}
        after = {node.output[0]: node for node in onnx.load(half).graph.node}
        assert all(after[node.output[0]] == node for node in nodes)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_padding_and_neighbours_change_nothing(name: str) -> None:
    run = open_pytorch(classifier(name), ("logits",))
    together = run({"text": np.pad(TEXT, ((0, 0), (0, 30)))})["logits"]
    for row, text in enumerate(TRAIN):
        alone = run({"text": to_bytes([text], 1)})["logits"]
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-5, atol=1e-6)


def test_a_bag_is_the_sum_of_its_words_in_any_order() -> None:
    network = classifier("bag")
    network.bias.data.normal_()
    logits = network.words.embedding.weight
    text = "dog unknown the the"
    rows = [ROW[b"dog"], 1, ROW[b"the"], ROW[b"the"]]
    for line in (text, " ".join(reversed(text.split()))):
        came = network(torch.from_numpy(to_bytes([line])))[0]
        torch.testing.assert_close(came, logits[rows].sum(0) + network.bias)
    torch.testing.assert_close(network(torch.from_numpy(to_bytes([" "])))[0], network.bias)


@pytest.mark.parametrize("train", [True, False])
def test_the_reader_of_words_is_pytorchs_lstm_on_packed_words(train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MISREAD", 0.0)
    network = classifier("LSTM").train(train)
    oracle = nn.LSTM(4, 5, num_layers=2, batch_first=True)
    for i, layer in enumerate(network.cells.layers):
        for name, weight in layer.named_parameters():
            getattr(oracle, f"{name}_l{i}").data = weight.data
    of_each = [[ROW.get(word, 1) for word in of_line(line.encode())] for line in TRAIN]
    vectors = nn.utils.rnn.pad_sequence([network.words.embedding.weight[rows] for rows in of_each], batch_first=True)
    lengths = [max(1, len(rows)) for rows in of_each]
    hidden = oracle(pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False))[1][0][-1]
    hidden = torch.where(torch.tensor([len(rows) for rows in of_each])[:, None] > 0, hidden, 0.0)
    torch.testing.assert_close(network(torch.from_numpy(TEXT)), network.output(hidden))
    np.testing.assert_array_equal(
        network(torch.zeros(1, 1, dtype=torch.uint8))[0].detach(), network.output.bias.detach()
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_overfits_one_batch(name: str) -> None:
    network, label = classifier(name).train(), torch.tensor([0, 1, 2, 1, 0, 2])
    text = torch.from_numpy(to_bytes(["the cat", "dog on", "é", "mat the", "cat the the", "on dog mat é"]))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(100):
        loss = functional.cross_entropy(network(text), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    assert (network(text).argmax(1) == label).all()
    assert network.words.embedding.weight[0].eq(0).all()


def test_parameter_counts_are_as_told() -> None:
    expected = {
        "bag": (MOST + 2) * 3 + 3,
        "LSTM": (MOST + 2) * 4 + 20 * (4 + 5 + 2) + 20 * (5 + 5 + 2) + 3 * 6,
        "GRU": (MOST + 2) * 4 + 15 * (4 + 5 + 2) + 3 * 6,
    }
    assert {name: sum(p.numel() for p in classifier(name).parameters()) for name in CLASSIFIERS} == expected


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_boards_documents_take_all_of_it(name: str, graphs: dict[str, tuple[Path, Path]]) -> None:
    for device in devices():
        if device.unit == "gpu" and not device.upgrade:
            assert not [finding for path in graphs[name] for finding in preflight(path, device)], device


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_nvidias_parser_takes_all_of_it(name: str, graphs: dict[str, tuple[Path, Path]]) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for path in graphs[name]:
        network = trt.Builder(logger(trt)).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger(trt))
        assert parser.parse(path.read_bytes()), parser.get_error(0).desc()
