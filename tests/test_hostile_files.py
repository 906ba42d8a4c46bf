"""Files that are not what `save` and `save_checkpoint` write: a ValueError that names them, soon, and no change."""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SANITIZER, seeded

import fuseprop as fp
from fuseprop import nn

pytest.importorskip("safetensors")

X = seeded("x").standard_normal((12, 4)).astype(np.float32)
LABELS = seeded("labels").integers(0, 3, 12)
LOSS = fp.losses.SoftmaxCrossEntropy()
#: What a file of a few kilobytes may cost: seconds of the processor, and bytes.
SECONDS, BYTES = (1.0, 300 << 20) if SANITIZER == "" else (20.0, None)


@contextmanager
def bounded() -> Iterator[None]:
    """Give an error if what is done takes too long or too much memory."""
    begin = time.process_time()
    if BYTES is None or sys.platform != "linux":
        yield
    else:
        import resource  # noqa: PLC0415  # not everywhere

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    taken = time.process_time() - begin
    assert taken < SECONDS, f"took {taken} s"


def a_model(rng: Any = 0) -> nn.Sequential:
    inner = nn.Sequential([nn.Dense(4, 4), nn.Dropout(0.2), nn.BatchNorm(4)])
    layers = [nn.Dense(4, 4, "gelu"), nn.Flatten(), nn.Residual(inner), nn.LayerNorm(4), nn.Maxout(4, 4, pieces=2)]
    return nn.Sequential([*layers, nn.Activation("prelu"), nn.Dense(4, 3, use_bias=False)], rng=rng)


class Run:
    """A model, its optimizer, and a run that goes on from a checkpoint."""

    def __init__(self, rng: int, generator: type[np.random.BitGenerator] = np.random.PCG64) -> None:
        self.model = a_model(np.random.Generator(generator(rng)))
        self.optimizer = fp.optim.Adam(self.model, lr=0.01)
        self.schedule = fp.optim.schedules.ReduceOnPlateau(0.01)
        self.order = np.random.default_rng(rng)

    def fit(self, **options: Any) -> None:
        self.model.fit(
            X, LABELS, loss=LOSS, optimizer=self.optimizer, schedule=self.schedule, epochs=2, batch_size=6,
            early_stopping=3, rng=self.order, progress=False, **options,
        )  # fmt: skip

    def state(self) -> str:
        parts = self.model.state_dict(), self.optimizer.state_dict(), self.model.rng.bit_generator.state
        return as_text((*parts, self.schedule.state_dict(), self.order.bit_generator.state))


def as_text(value: Any) -> str:
    """Return a nested state so that equal texts are equal bits."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    if isinstance(value, Mapping):
        return repr({key: as_text(entry) for key, entry in value.items()})
    if isinstance(value, list | tuple):
        return repr([as_text(entry) for entry in value])
    return repr(value)


# --- how files are changed ----------------------------------------------------------------------------------


def packed(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def unpacked(contents: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(contents[:8], "little")
    return json.loads(contents[8:end]), contents[end:]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all entries of a nested value."""
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 10**9, 10**18, -(2**63), 2**64, 10**400, 0.5, -0.5, 1e308, math.nan, math.inf,
    "", "x", "Dense", "Sequential", "float64", "int8", "\ud800", "a" * 1000, [], {}, [[]], [1, 2], ["Adam"], nested(90),
    {"class": "Dense"}, {"class": "Flatten"}, {"class": ["Flatten"]}, {"class": "Residual", "block": []},
    {"class": "Dense", "in_features": 16000, "out_features": 16000}, {"array": "checkpoint.0"}, {"array": 3},
    {"array": ["x"]}, {"dict": []}, {"dict": {}}, {"name": "prelu", "num_parameters": 10**9}, {"name": {}},
]  # fmt: skip


def change_value(value: Any, rng: random.Random) -> None:
    """Put another value in one place, or take it out, or give it another name."""
    path = rng.choice(list(places(value)))
    for key in path[:-1]:
        value = value[key]
    how = rng.random()
    if how < 0.1:
        del value[path[-1]]
    elif how < 0.15 and isinstance(value, dict):
        value[rng.choice(["class", "x", "dtype", "rng", "layers"])] = value.pop(path[-1])
    else:
        value[path[-1]] = copy.deepcopy(rng.choice(JUNK))


def changed_values(contents: bytes, rng: random.Random) -> bytes:
    """Return a file in whose header, or in the JSON that it has as text, some values are others."""
    header, data = unpacked(contents)
    metadata = header["__metadata__"]
    texts = [name for name in ("architecture", "checkpoint") if name in metadata]
    where = rng.choice([*texts, *texts, None])
    inner = json.loads(metadata[where]) if where is not None else header
    for _ in range(rng.choice([1, 1, 2])):
        if inner:
            change_value(inner, rng)
    if where is not None:
        metadata[where] = json.dumps(inner)
    return packed(header, data)


def changed_bytes(contents: bytes, rng: random.Random) -> bytes:
    """Return a file with other bytes, or fewer, or more."""
    found = bytearray(contents)
    how = rng.randrange(5)
    if how == 0:
        return bytes(found[: rng.randrange(len(found))])
    if how == 1:
        return bytes(found + rng.randbytes(rng.choice([1, 8, 100])))
    if how == 2:
        length = rng.choice([0, 1, 2**32, 2**63, 2**64 - 1, 10**8, len(found) - 8, len(found), rng.randrange(4000)])
        return length.to_bytes(8, "little") + contents[8:]
    for _ in range(rng.choice([1, 1, 4])):
        at = rng.randrange(min(len(found), 8 + int.from_bytes(contents[:8], "little")))
        if how == 3:
            found[at] = rng.choice(b'0129"{}[]:,\\-eE.ntf \0\xff')
        else:
            del found[at : at + rng.choice([1, 2, 30])]
    return bytes(found)


def attack(path: Path, use: Callable[[], object], state: Callable[[], str], n: int) -> int:
    """Use the file with n changes; return how many were refused."""
    whole, rng, refused = path.read_bytes(), random.Random(path.name), 0
    for i in range(n):
        path.write_bytes((changed_values if i % 3 else changed_bytes)(whole, rng))
        before = state()
        try:
            with bounded():
                use()
        except ValueError as error:
            message = str(error)
        except Exception as error:
            path.rename(keep := path.with_name(f"found-{i}"))
            raise AssertionError(f"{keep}: {type(error).__name__}") from error
        else:
            continue
        refused += 1
        assert str(path) in message, i
        assert state() == before, i
    return refused


# --- the attacks --------------------------------------------------------------------------------------------


def test_models_with_changes(tmp_path: Path) -> None:
    path = tmp_path / "model"
    model = a_model()
    model.save(path)
    assert attack(path, lambda: nn.load(path)(X), lambda: "", 900) > 600


@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_checkpoints_with_changes(generator: type[np.random.BitGenerator], tmp_path: Path) -> None:
    path = tmp_path / generator.__name__
    saved, run = Run(1, generator), Run(2, generator)
    nn.save_checkpoint(path, saved.model, saved.optimizer, {"note": ["a", 1.5, {"array": np.arange(3)}]})

    def use() -> None:
        nn.load_checkpoint(path, run.model, run.optimizer)
        run.model.rng.random(3)
        run.model.train_step(X, LABELS, LOSS, run.optimizer)

    assert attack(path, use, run.state, 300) > 150


def test_runs_with_changes(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Run(1).fit(callbacks=[nn.Checkpoint(path)])
    run = Run(2)
    assert attack(path, lambda: run.fit(resume=path), run.state, 400) > 200


def test_optimizer_states_with_changes() -> None:
    run, rng, refused = Run(1), random.Random("optimizers"), 0
    run.fit()
    text = json.dumps(run.optimizer.state_dict(), default=lambda array: array.tolist())
    for _ in range(600):
        state = run.optimizer.state_dict()
        if rng.random() < 0.1:
            state = json.loads(text)  # lists instead of arrays
        for _ in range(rng.choice([1, 2])):
            if state:
                change_value(state, rng)
        before = run.state()
        try:
            with bounded():
                run.optimizer.load_state_dict(state)
        except (ValueError, TypeError):
            assert run.state() == before
            refused += 1
    assert refused > 300


# --- one by one ---------------------------------------------------------------------------------------------


def write(path: Path, layers: Any, tensors: Mapping[str, Any] = {}, data: bytes = b"", **metadata: str) -> None:
    architecture = {"class": "Sequential", "dtype": "float32", "layers": layers}
    whole = {"format": "fuseprop 1", "architecture": json.dumps(architecture), **metadata}
    path.write_bytes(packed({"__metadata__": whole, **tensors}, data))


def in_layers(kind: str, depth: int) -> dict[str, Any]:
    layer: dict[str, Any] = {"class": "Flatten"}
    for _ in range(depth):
        layer = {"class": kind, "block": layer} if kind == "Residual" else {"class": kind, "layers": [layer]}
    return layer


BIG = {"class": "Dense", "in_features": 16000, "out_features": 16000}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([BIG], "'0.weight' is missing, of shape (16000, 16000)"),
        ([{"class": "Sequential", "layers": [BIG]}], "'0.0.weight' is missing"),
        ([{"class": "Residual", "block": {"class": "Sequential", "layers": [BIG]}}], "'0.block.0.weight' is missing"),
        ([{**BIG, "out_features": 10**30}], "'0.weight' is missing"),
        ([{"class": "Maxout", "in_features": 9, "out_features": 10**9}], "'0.weight' is missing"),
        ([{"class": "BatchNorm", "num_features": 10**12, "affine": False}], "'0.running_mean' is missing"),
        ([{"class": "LayerNorm", "normalized_shape": [10**6, 10**6]}], "'0.weight' is missing"),
        (
            [{"class": "Activation", "activation": {"name": "prelu", "num_parameters": 2**31 - 1}}],
            "'0.alpha' is missing",
        ),
        ([in_layers("Residual", 5000)], "it is nested too deeply"),
        ([in_layers("Sequential", 400)], "it is nested too deeply"),
        ([{"class": "Flatten"}] * 10**6, "it has 1000001 layers; expected 10000 at most"),
        ([], "layers is empty"),
        ({}, "layers"),
        (7, "describes no model that can be built"),
        ([7], "layers[0] must be a Layer, found int"),
        ([{"class": "Dense"}], "layers[0] is no Dense"),
        ([{"class": "Dense", "in_features": 2, "out_features": math.nan}], "layers[0] is no Dense: out_features"),
        ([{"class": "Dropout", "p": math.nan}], "layers[0] is no Dropout: p is nan"),
        ([{"class": "Dropout", "p": 10**400}], "layers[0] is no Dropout: p is inf"),
        ([{"class": "Dropout", "q": 1}], "layers[0] is no Dropout"),
        ([{"class": "os.system", "x": 1}], "layers[0] is a os.system, which is not known"),
        ([{"class": {}}], "layers[0] is a {}, which is not known"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_description_that_is_refused(layers: Any, message: str, tmp_path: Path) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # to write it
    try:
        write(tmp_path / "hostile", layers)
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(ValueError, match="hostile") as caught, bounded():
        nn.load(tmp_path / "hostile")
    assert message in str(caught.value)


DENSE = {"class": "Dense", "in_features": 1, "out_features": 1, "use_bias": False}


@pytest.mark.parametrize(
    ("tensors", "data", "message"),
    [
        ({"0.weight": ("BF16", [1, 1], 2)}, 2, "'0.weight' has dtype BF16"),
        ({"0.weight": ("F8_E4M3", [1, 1], 1)}, 1, "'0.weight' has dtype F8_E4M3"),
        ({"0.weight": ("C64", [1, 1], 8)}, 8, "'0.weight' has dtype C64"),
        ({"0.weight": ("F64", [1, 1], 8)}, 8, "state['0.weight'] has dtype float64; expected float32"),
        ({"0.weight": ("F16", [1, 1], 2)}, 2, "state['0.weight'] has dtype float16; expected float32"),
        ({"0.weight": ("F32", [1], 4)}, 4, "'0.weight' has shape (1,); expected (1, 1)"),
        ({"0.weight": ("F32", [1] * 99, 4)}, 4, "'0.weight' has shape (1, 1"),
        ({"0.weight": ("F32", [0, 2**62], 0)}, 0, "'0.weight' has shape (0, "),
        ({"0.weight": ("F32", [1, 1], 4), "1.weight": ("F32", [0], 0)}, 4, "'1.weight' is of no layer"),
        ({"0.weight": ("F32", [1, 1], 4)}, 3, "not a safetensors file"),
        ({"0.weight": ("F32", [1, 1], 4)}, 5, "not a safetensors file"),
        ({"0.weight": ("F32", [2**63, 2], 4)}, 4, "not a safetensors file"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_arrays_that_are_refused(tensors: Any, data: int, message: str, tmp_path: Path) -> None:
    header = {}
    for name, (dtype, shape, size) in tensors.items():
        begin = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
    write(tmp_path / "hostile", [DENSE], header, bytes(data))
    with pytest.raises(ValueError, match="hostile") as caught, bounded():
        nn.load(tmp_path / "hostile")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"dict":' * 10**5, "7", "[]", "nope", '{"dict": {"rng": 3}}', ""])
def test_a_checkpoint_that_is_refused(text: str, tmp_path: Path) -> None:
    run = Run(0)
    write(tmp_path / "hostile", [DENSE], checkpoint=text)
    before = run.state()
    for use in (
        lambda: nn.load_checkpoint(tmp_path / "hostile", run.model, run.optimizer),
        lambda: run.fit(resume=tmp_path / "hostile"),
    ):
        with pytest.raises(ValueError, match="hostile"), bounded():
            use()
        assert run.state() == before


@pytest.mark.parametrize(
    ("generator", "name", "value"),
    [(np.random.MT19937, "pos", 10**6), (np.random.MT19937, "pos", -5), (np.random.Philox, "buffer_pos", -99)],
)
def test_a_generator_does_not_read_outside_of_its_state(
    generator: type[np.random.BitGenerator], name: str, value: int, tmp_path: Path
) -> None:
    """NumPy takes any place in its buffers, and reads there."""
    path = tmp_path / "hostile"
    run = Run(0, generator)
    nn.save_checkpoint(path, run.model, run.optimizer)
    header, data = unpacked(path.read_bytes())
    checkpoint = json.loads(header["__metadata__"]["checkpoint"])
    state = checkpoint["dict"]["rng"]["dict"]
    (state["state"]["dict"] if name == "pos" else state)[name] = value
    header["__metadata__"]["checkpoint"] = json.dumps(checkpoint)
    path.write_bytes(packed(header, data))
    before = run.state()
    with pytest.raises(ValueError, match=f"hostile does not fit: {name} of the generator's state is {value}"):
        nn.load_checkpoint(path, run.model, run.optimizer)
    assert run.state() == before


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "pipe").symlink_to("/dev/zero")
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "no", FileNotFoundError),
        (tmp_path / "pipe", OSError),
    ):
        for use in (nn.load, lambda path: nn.load_checkpoint(path, Run(0).model, Run(0).optimizer)):
            with pytest.raises(error, match=path.name):
                use(path)


def test_loading_draws_nothing(tmp_path: Path) -> None:
    """What would be drawn is overwritten; the initialisers are those of new layers all the same."""
    model = a_model()
    model.save(tmp_path / "model")
    rng = np.random.default_rng(5)
    loaded = nn.load(tmp_path / "model", rng=rng)
    assert as_text(rng.bit_generator.state) == as_text(np.random.default_rng(5).bit_generator.state)
    assert as_text(loaded.state_dict()) == as_text(model.state_dict())
    assert loaded.layers[0].init is model.layers[0].init  # type: ignore[union-attr]  # Dense
    inner = loaded.layers[2].block  # type: ignore[union-attr]  # Residual
    assert as_text(inner.state_dict()) == as_text(model.layers[2].block.state_dict())  # type: ignore[union-attr]
