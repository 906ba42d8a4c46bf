"""A user's program: `test_typing.py` gives it to mypy --strict, and runs it in an empty folder.

What follows `type: ignore` has to be an error: the hints are more than Any.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import fuseprop as fp
from fuseprop.sklearn import MLPClassifier, MLPRegressor

FloatArray = NDArray[np.float32] | NDArray[np.float64]

x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
y = np.zeros((8, 4), np.float32)
weight = np.ones((4, 4), np.float32)
labels = np.arange(8) % 4

# --- settings ---------------------------------------------------------------------------------------------------

assert_type(fp.__version__, str)
assert_type(fp.build_info(), dict[str, Any])
with fp.num_threads(1), fp.simd_target(fp.build_info()["active_target"]):
    assert_type(fp.get_num_threads(), int)

# --- activations ------------------------------------------------------------------------------------------------

swish = fp.activations.Swish(beta=1.0)
assert_type(swish(x), FloatArray)
assert_type(swish(x, out=None), FloatArray)
assert_type(swish.backward(x, y, out=None), FloatArray)
assert_type(swish.derivative(x), FloatArray)
assert_type(swish.output_shape(x.shape), tuple[int, ...])
prelu = fp.activations.PReLU(init=0.25, num_parameters=1)
assert_type(prelu.init_params(), dict[str, FloatArray])
assert_type(prelu(x, params=prelu.init_params()), FloatArray)
assert_type(prelu.backward_params(x, y, params=prelu.init_params()), tuple[FloatArray, dict[str, FloatArray]])
assert_type(fp.activations.RReLU().sample(x, np.random.default_rng(0)), tuple[FloatArray, FloatArray])
assert_type(fp.activations.get("swish", beta=1.0), fp.activations.Activation)
assert_type(fp.activations.names(), list[str])

# --- losses -----------------------------------------------------------------------------------------------------

huber = fp.losses.Huber(delta=1.35)
assert_type(huber(x, y), float | FloatArray)
assert_type(huber.gradient(x, y, sample_weight=None, reduction="sum", out=None), FloatArray)
assert_type(huber.value_and_grad(x, y, None, "none"), tuple[float | FloatArray, FloatArray])
assert_type(huber.grad_and_hess(x, y, hess_floor=0.1, out=(None, None)), tuple[FloatArray, FloatArray])
loss = fp.losses.SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=[1, 1, 2, 1], ignore_index=-100, temperature=1.0)
assert_type(loss.value_and_grad(x, labels), tuple[float | FloatArray, FloatArray])
assert_type(loss.grad_and_hess(x, labels, hessian="upper"), tuple[FloatArray, FloatArray])
linear = fp.losses.LinearCrossEntropy()
assert_type(
    linear.value_and_grad(x, weight, labels, bias=None),
    tuple[float | FloatArray, tuple[FloatArray, FloatArray, FloatArray | None]],
)
assert_type(fp.losses.get("huber", delta=2.0), fp.losses.Loss)

# --- ops, initialisers, regularisers, rules ----------------------------------------------------------------------

assert_type(fp.ops.matmul(x, y, transpose_b=True), FloatArray)
assert_type(fp.ops.linear(x, weight, activation="relu"), FloatArray)
assert_type(fp.ops.linear(x, weight, return_preactivation=True), tuple[FloatArray, FloatArray])
assert_type(fp.ops.linear_backward(x, weight, y), tuple[FloatArray, FloatArray, FloatArray])
assert_type(fp.ops.softmax(x, axis=-1), FloatArray)
assert_type(fp.init.he_normal((3, 4), rng=0, dtype=np.float32), FloatArray)
assert_type(fp.regularizers.L2(0.1)(x), float)
assert_type(fp.rules.hebb(x, y, rate=0.1), NDArray[Any])

# --- optimizers -------------------------------------------------------------------------------------------------

parameters = [np.ones(3, np.float32), np.ones((2, 2), np.float32)]
adam = fp.optim.Adam(
    parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, eps_root=0.0, weight_decay=0.0, max_norm=None, nonfinite="skip"
)
adam.step([np.ones_like(p) for p in parameters])
adam.lr = 3e-4
assert_type(adam.lr, float)
assert_type(adam.state_dict(), dict[str, Any])
adam.load_state_dict(adam.state_dict())
fp.optim.SGD([{"params": parameters[0], "lr": 0.1}, {"params": parameters[1]}], momentum=0.9)
assert_type(fp.optim.clip_grad_norm(parameters, 1.0), float)
assert_type(fp.optim.get("lion", parameters, lr=0.1), fp.optim.Optimizer)
cosine = fp.optim.schedules.Cosine(1e-3, 100)
assert_type(cosine(3), float)

# --- networks ---------------------------------------------------------------------------------------------------

layers = [fp.nn.Dense(4, 8, activation="relu"), fp.nn.BatchNorm(8), fp.nn.Dropout(0.1), fp.nn.Dense(8, 4)]
model = fp.nn.Sequential(layers, rng=0, dtype=np.float32)
assert_type(model.parameters(), dict[str, FloatArray])
assert_type(model.flat_parameters, FloatArray)
assert_type(model(x, training=True), FloatArray)
assert_type(model.backward(y, accumulate=False), FloatArray)
assert_type(model.train_step(x, labels, loss, fp.optim.AdamW(model)), float)


class Count(fp.nn.Callback):
    epochs = 0

    def after_epoch(self, run: fp.nn.Run) -> None:
        assert_type(run.epoch, int)
        self.epochs += 1


def report(epoch: int, logs: Mapping[str, float], trained: fp.nn.Sequential) -> None:
    assert_type(trained.predict(x), FloatArray)


count = Count()
history = model.fit(
    x,
    labels,
    loss="softmax_cross_entropy",
    optimizer="adam",
    epochs=2,
    batch_size=4,
    validation_data=(x, labels),
    early_stopping=fp.nn.EarlyStopping(patience=3),
    schedule=cosine,
    metrics=["accuracy", fp.losses.NegativeLogLikelihood(), lambda pred, target: 0.0],
    callbacks=[count, report, fp.nn.Checkpoint("run.safetensors")],
    progress=False,
    rng=0,
)
assert_type(history, dict[str, list[float]])
assert count.epochs == 2
assert_type(model.predict(x, batch_size=None), FloatArray)
model.save("model.safetensors")
assert_type(fp.nn.load("model.safetensors"), fp.nn.Sequential)

# --- estimators, boosting ---------------------------------------------------------------------------------------

classifier = MLPClassifier((8,), max_iter=5, tol=10.0, n_iter_no_change=2)
classifier.fit(x, labels)
assert_type(classifier.coefs_, list[FloatArray])
MLPRegressor(loss="huber")
objective = fp.boosting.xgboost_objective(huber, hessian="diagonal", hess_floor=1e-6)
gradient, hessian = objective(np.zeros(8), np.ones(8))
assert_type(fp.boosting.lightgbm_objective("huber")(np.zeros(8), np.ones(8))[0], FloatArray)

if TYPE_CHECKING:
    fp.losses.Huber(1.0)(x)  # type: ignore[call-arg]
    fp.losses.Huber(dleta=1.0)  # type: ignore[call-arg]
    huber.value_and_grad(x, y, reduction="median")  # type: ignore[arg-type]
    fp.optim.Adam(x, learning_rate=0.1)  # type: ignore[call-arg]
    fp.optim.Adam(x, max_norm="large")  # type: ignore[arg-type]
    fp.optim.Adam(x, nonfinite="ignore")  # type: ignore[arg-type]
    fp.nn.Linear(4, 8)  # type: ignore[attr-defined]
    model.fit(x, labels, loss=loss, epoch=3)  # type: ignore[call-arg]
    model.fit(x, labels, loss=loss, callbacks=[print, 3])  # type: ignore[list-item]
    model.predict(x, batch_size="all")  # type: ignore[arg-type]
    fp.ops.matmul(x, y, transpose=True)  # type: ignore[call-arg]
    fp.boosting.xgboost_objective(huber, hessian="full")  # type: ignore[arg-type]
