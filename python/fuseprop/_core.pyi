"""The typed face of the compiled core (csrc/bind). Private: the public objects wrap it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, final, overload

from numpy.typing import ArrayLike, NDArray

from fuseprop._typing import FloatArray

_Result = TypeVar("_Result")

# --- settings -----------------------------------------------------------------------------------------------

def build_info() -> dict[str, Any]: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def set_thread_num_threads(n: int) -> int: ...  # 0: no override; returns the previous value
def set_default_target(name: str) -> None: ...
def set_thread_target(name: str | None) -> str | None: ...  # None: no override; returns the previous value

# --- tables: what the core has, for the registry ------------------------------------------------------------

def activation_names() -> dict[str, list[str]]: ...  # by structure
def loss_names() -> list[str]: ...
def optimizer_names() -> list[str]: ...

# --- formulas -----------------------------------------------------------------------------------------------

# Bases of the public classes, which bind them to a row of a table: _bind(name, parameters).

class Activation:
    """An activation of any structure. `learns`: calls take params with what this formula can learn."""

    def _bind(self, name: str, parameters: tuple[float, ...], learns: bool = False, /) -> None: ...
    def __call__(
        self, x: ArrayLike, out: FloatArray | None = None, *, params: Mapping[str, FloatArray] | None = None
    ) -> FloatArray: ...
    def _forward(self, x: ArrayLike, out: FloatArray | None, slopes: ArrayLike | None, /) -> FloatArray: ...
    def _checked(self, x: ArrayLike, out: FloatArray | None, /) -> FloatArray: ...
    # dy None: ones, which gives the derivative.
    def _backward(
        self,
        x: ArrayLike,
        dy: ArrayLike | None,
        out: FloatArray | None = None,
        params: Mapping[str, FloatArray] | None = None,
        slopes: ArrayLike | None = None,
        /,
    ) -> FloatArray: ...
    def _backward_params(
        self, x: ArrayLike, dy: ArrayLike, params: Mapping[str, FloatArray] | None, out: FloatArray | None, /
    ) -> tuple[FloatArray, dict[str, FloatArray]]: ...
    def _output_shape(self, shape: tuple[int, ...], /) -> tuple[int, ...]: ...

class Loss:
    """A loss of one prediction per target, or a sum of such over classes."""

    # A tuple as the first parameter: one number for each column of pred.
    def _bind(self, name: str, parameters: tuple[float | tuple[float, ...], ...], /) -> None: ...
    def _value(
        self, pred: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None, reduction: str, /
    ) -> float | FloatArray: ...
    def _gradient(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None,
        reduction: str,
        out: FloatArray | None,
        /,
    ) -> FloatArray: ...
    def _value_and_grad(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None,
        reduction: str,
        out: FloatArray | None,
        /,
    ) -> tuple[float | FloatArray, FloatArray]: ...
    def _grad_and_hess(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None,
        hess_floor: float | None,
        out: tuple[FloatArray | None, FloatArray | None] | None,
        /,
    ) -> tuple[FloatArray, FloatArray]: ...

class RootMeanSquaredError(Loss):
    """Overrides the verbs: reduction "mean" only, and no derivatives per sample."""

class NegativeLogLikelihood(Loss):
    """Overrides the verbs: the target is labels (N,)."""

class SoftmaxFocal(Loss):
    """Overrides the verbs: the target is labels (N,). Parameters: gamma, and None or the class weights."""

    def _bind(self, name: str, parameters: tuple[Any, ...], /) -> None: ...

class SoftmaxCrossEntropy(Loss):
    """Overrides the verbs: the target is labels (N,) or a distribution (N, C).

    Its parameters: () for the defaults, or (label_smoothing, class_weight, ignore_index, temperature,
    scale_by_temperature, z_loss).
    """

    def _bind(self, name: str, parameters: tuple[Any, ...], /) -> None: ...
    def _grad_and_hess(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None,
        hess_floor: float | None,
        out: tuple[FloatArray | None, FloatArray | None] | None,
        hessian: str = "diagonal",
        /,
    ) -> tuple[FloatArray, FloatArray]: ...

class LinearCrossEntropy(Loss):
    """Overrides the verbs: of x, weight, labels and bias. Its parameters are SoftmaxCrossEntropy's."""

    def _bind(self, name: str, parameters: tuple[Any, ...], /) -> None: ...
    def _value(  # type: ignore[override]  # takes the layer, not a prediction
        self,
        x: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike,
        bias: ArrayLike | None,
        sample_weight: ArrayLike | None,
        reduction: str,
        /,
    ) -> float | FloatArray: ...
    def _gradient(  # type: ignore[override]  # likewise
        self,
        x: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike,
        bias: ArrayLike | None,
        sample_weight: ArrayLike | None,
        reduction: str,
        /,
    ) -> tuple[FloatArray, FloatArray, FloatArray | None]: ...
    def _value_and_grad(  # type: ignore[override]  # takes the layer, not a prediction
        self,
        x: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike,
        bias: ArrayLike | None,
        sample_weight: ArrayLike | None,
        reduction: str,
        /,
    ) -> tuple[float | FloatArray, tuple[FloatArray, FloatArray, FloatArray | None]]: ...

# --- ops ----------------------------------------------------------------------------------------------------

def matmul(
    a: ArrayLike, b: ArrayLike, transpose_a: bool, transpose_b: bool, out: FloatArray | None, /
) -> FloatArray: ...

# How such a product would be computed, for tests: regime, threads, blocks ...
def matmul_plan(
    m: int, k: int, n: int, itemsize: int, transpose_a: bool, transpose_b: bool, accumulate: bool, /
) -> dict[str, Any]: ...

# preactivation: an array that receives x @ weight + bias, or None. With True, a new array: returns (y, u).
@overload
def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    activation: Activation | None,
    preactivation: Literal[True],
    out: FloatArray | None,
    /,
) -> tuple[FloatArray, FloatArray]: ...
@overload
def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    activation: Activation | None,
    preactivation: FloatArray | None,
    out: FloatArray | None,
    /,
) -> FloatArray: ...

# Each of dx, dweight, dbias: an array to write, None (allocate), or False (not wanted; None is returned for it).
# With an activation, du is dy, the gradient at its output.
def linear_backward(
    x: ArrayLike,
    weight: ArrayLike,
    du: ArrayLike,
    dx: FloatArray | bool | None,
    dweight: FloatArray | bool | None,
    dbias: FloatArray | bool | None,
    accumulate: bool,
    activation: Activation | None = None,
    preactivation: ArrayLike | None = None,
    /,
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]: ...

# 0 with probability p, else x / (1 - p); who is 0 depends on the key (64 bits) and the element's place alone.
def dropout(x: ArrayLike, p: float, key: int, out: FloatArray | None, /) -> FloatArray: ...

# Rows (N, F). Of each column: weight and bias (or None) of x's dtype; mean and var in float64, which training writes.
def batch_norm(
    x: ArrayLike,
    weight: FloatArray | None,
    bias: FloatArray | None,
    eps: float,
    mean: FloatArray,
    var: FloatArray,
    training: bool,
    out: FloatArray | None,
    /,
) -> FloatArray: ...
def batch_norm_update(
    mean: FloatArray,
    var: FloatArray,
    rows: int,
    momentum: float,
    running_mean: FloatArray,
    running_var: FloatArray,
    /,
) -> None: ...

# Likewise, but mean and var are those of the rows, (N,), written if they are given.
def layer_norm(
    x: ArrayLike,
    weight: FloatArray | None,
    bias: FloatArray | None,
    eps: float,
    mean: FloatArray | None,
    var: FloatArray | None,
    out: FloatArray | None,
    /,
) -> FloatArray: ...

# dx, dweight, dbias as for linear_backward; dx may be dy.
def batch_norm_backward(
    x: ArrayLike,
    dy: ArrayLike,
    weight: FloatArray | None,
    eps: float,
    mean: FloatArray,
    var: FloatArray,
    dx: FloatArray | bool | None,
    dweight: FloatArray | bool | None,
    dbias: FloatArray | bool | None,
    accumulate: bool,
    /,
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]: ...
def layer_norm_backward(
    x: ArrayLike,
    dy: ArrayLike,
    weight: FloatArray | None,
    eps: float,
    mean: FloatArray,
    var: FloatArray,
    dx: FloatArray | bool | None,
    dweight: FloatArray | bool | None,
    dbias: FloatArray | bool | None,
    accumulate: bool,
    /,
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]: ...
def exp(x: ArrayLike, out: FloatArray | None, /) -> FloatArray: ...
def expm1(x: ArrayLike, out: FloatArray | None, /) -> FloatArray: ...
def log(x: ArrayLike, out: FloatArray | None, /) -> FloatArray: ...
def log1p(x: ArrayLike, out: FloatArray | None, /) -> FloatArray: ...
def erf(x: ArrayLike, out: FloatArray | None, /) -> FloatArray: ...
def softmax(x: ArrayLike, axis: int, out: FloatArray | None, /) -> FloatArray: ...
def log_softmax(x: ArrayLike, axis: int, out: FloatArray | None, /) -> FloatArray: ...
def logsumexp(x: ArrayLike, axis: int, out: FloatArray | None, /) -> FloatArray: ...

# The terms of a loss over distributions, at its default parameters, summed over an axis; in messages, the names given.
def sum_over_axis(
    loss: str,
    target: ArrayLike,
    pred: ArrayLike,
    axis: int,
    out: FloatArray | None,
    function: str,
    target_name: str,
    pred_name: str,
    /,
) -> FloatArray: ...
def self_information(p: ArrayLike, out: FloatArray | None, /) -> FloatArray: ...

# --- dense layers -------------------------------------------------------------------------------------------

@final
class DenseStack:
    """Dense layers in a row, bound to their arrays: (weight, bias, dweight, dbias, activation) of each."""

    def __init__(
        self,
        layers: Sequence[tuple[FloatArray, FloatArray | None, FloatArray, FloatArray | None, Activation | None]],
    ) -> None: ...
    # For batches of so many rows: (y, u, dx) of each layer; u None where y tells f' too, the first dx if not wanted.
    def bind(
        self, rows: int, buffers: Sequence[tuple[FloatArray, FloatArray | None, FloatArray | None]], /
    ) -> None: ...
    def forward(self, x: FloatArray, /) -> FloatArray: ...  # the last y
    def backward(self, dy: FloatArray, accumulate: bool, want_dx: bool, /) -> FloatArray | None: ...  # overwrites dy

# --- optimizers ---------------------------------------------------------------------------------------------

@final
class Updater:
    """An optimizer's update rule bound to its parameter and state arrays (checked once, updated in place).

    Each group is a sequence of parameters, each with the rule's state arrays (velocity; first and second moment), and
    what messages call it and its gradient.
    """

    def __init__(
        self, rule: str, groups: Sequence[Sequence[tuple[FloatArray, tuple[FloatArray, ...], str, str]]]
    ) -> None: ...
    # How many updates were made.
    steps: int
    # Checks every gradient (`grads` has a sequence for each group) before anything is called or changed. If `clip` is
    # given, calls clip(norm of all gradients, gradients): a factor, or None to leave the step out. Then updates all
    # groups, each with its terms (lr, weight_decay, l1, decay): g = scale factor g + weight_decay p + l1 sign(p),
    # p -= decay p, and then the rule, whose numbers are named at its functor in csrc/kernels/optim/optimizers.cpp; and
    # counts the step. An exception on the way leaves all as it was. `step` must be steps + 1, which the numbers are of.
    def step(
        self,
        grads: Sequence[Sequence[FloatArray]],
        terms: tuple[tuple[float, float, float, float], ...],
        scale: float,
        numbers: tuple[float, ...],
        step: int,
        clip: Callable[[float, tuple[tuple[FloatArray, ...], ...]], float | None] | None,
        /,
    ) -> None: ...
    # Calls function(): meanwhile a step is a RuntimeError, and so is this while a step is running.
    def alone(self, function: Callable[[], _Result], /) -> _Result: ...

# sqrt of the sum of squares of all arrays, in float64, same bits on any number of threads.
def global_norm(grads: Sequence[FloatArray], /) -> float: ...

# --- the machine, for benchmarks ----------------------------------------------------------------------------

def fma_peak(seconds: float, threads: int, dtype: str = "float32") -> float: ...  # GFLOP/s
def nt_copy(dst: NDArray[Any], src: NDArray[Any]) -> None: ...  # non-temporal
