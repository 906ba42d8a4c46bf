"""A network of layers in a row, on one flat array of parameters and one of gradients."""

from __future__ import annotations

import copy
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fuseprop import losses, optim
from fuseprop._memory import BatchBuffer, gradient_of, linked_zeros
from fuseprop.nn.containers import Chain, MisfitError, Part
from fuseprop.nn.layers import Layer, Shape

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.nn.callbacks import Callback, EarlyStopping, EpochFunction, Schedule
    from fuseprop.nn.fit import Metric, ValidationData

#: A loss of the library, its name, or a function of (pred, target) that returns (value, gradient).
LossLike: TypeAlias = "losses.Loss | str | Callable[..., tuple[float, ArrayLike]]"


class _ValueAndGrad(Protocol):
    def __call__(
        self, pred: FloatArray, target: Any, sample_weight: Any, reduction: str, out: FloatArray, /
    ) -> tuple[Any, FloatArray]: ...


#: In the place of a loss or an optimizer before there is one; no argument is this object.
_NONE_YET = object()


class Sequential:
    """Layers in a row.

    All parameters are views into one array, `flat_parameters`, in the order of the layers; their gradients
    are the same views into `flat_gradients`. Both arrays stay the same for the model's whole life.

    A model may be a layer of another one, or the block of a `Residual`. It is then laid out by its root: one array of
    parameters, drawn anew from the root's generator, one dtype. What it says of itself (`parameters`, `state_dict`, its
    output) goes on; it is trained with its root alone.

    Parameters
    ----------
    layers
        The layers or models, none of them in another model, and the models not yet used.
    rng : Generator, SeedSequence, int or None
        Draws the initial values, the order of the samples in `fit`, and what layers draw in training. None: differently
        each time.
    dtype : float32 or float64
        Of parameters, activations and gradients. Inputs of another dtype are cast to it.

    Raises
    ------
    ValueError, TypeError
        If there is no layer, one does not take the output of the one before it, is no `Layer` or belongs to
        a model already, or the dtype is neither float32 nor float64. The layers can be used for another model then.

    Notes
    -----
    `copy.copy` and `copy.deepcopy` are the same: a model with parameters of its own, as a copy of an array has.
    Evaluation, `model(x)` and `predict`, may run in several threads at once. Training keeps the activations
    of the batch in buffers of the model, which it reuses: it must not.
    """

    def __init__(self, layers: Iterable[Part], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> None:
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        if self._dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype is {self._dtype}; expected float32 or float64")
        self._chain = Chain(layers)
        self._output_shape(None)
        self._used = False
        self._lay_out(np.random.default_rng(rng))
        self._chain.take()
        # What train_step goes through, and what it has checked and prepared already.
        runs = self._chain.runs
        self._forwards = tuple(run.forward for run in runs)
        self._backwards = tuple(run.backward for run in runs[:0:-1])
        self._first_backward = runs[0].backward
        self._commits = tuple(layer.commit for _, layer in self._chain.leaves() if type(layer).commit != Layer.commit)
        self._trained_shape: tuple[int, ...] | None = None
        self._loss = self._optimizer = _NONE_YET
        self._dy_buffer = BatchBuffer()
        self._dy = self._dy_buffer.of((0, 0), self._dtype)
        self._one_output = False
        # What backward needs.
        self._output = self._dy
        self._has_activations = False
        #: What the last `fit` reported, even if it was interrupted.
        self.history: dict[str, list[float]] = {}

    @property
    def layers(self) -> tuple[Part, ...]:
        """The layers and models that it was made of."""
        return self._chain.parts

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, activations and gradients."""
        return self._chain.dtype

    @property
    def rng(self) -> np.random.Generator:
        """The generator that the model and its layers draw from."""
        return self._chain.rng

    @property
    def _taken(self) -> bool:
        """Whether it is part of another model."""
        return self._chain._taken

    def _nest(self, name: str) -> Chain:
        if self._used:
            raise ValueError(
                f"{name}, {self!r}, has been used as a model of its own; make a new one, and give it the state of this "
                "one with load_state_dict when it is in its place"
            )
        return self._chain

    def _check_root(self) -> None:
        if self._taken:
            raise RuntimeError("this Sequential is part of another model, which has its flat arrays and is trained")

    def _output_shape(self, shape: Shape, name: str = "x") -> Shape:
        """Follow the shape of one sample through the layers."""
        try:
            return self._chain.output_shape(shape)
        except MisfitError as error:
            raise ValueError(error.describe(name)) from None

    def _lay_out(self, rng: np.random.Generator) -> None:
        """Draw the initial values and give every layer its places in the flat arrays."""
        layers = self._chain.tree()
        before = [dict(vars(layer)) for layer in layers]
        try:
            self._bind(self._chain.initialize(None, rng, self._dtype))
        except BaseException:
            # Models among the layers stay models of their own.
            for layer, attributes in zip(layers, before, strict=True):
                vars(layer).clear()
                vars(layer).update(attributes)
            raise

    def _bind(self, initial: Mapping[str, FloatArray]) -> None:
        size = sum(array.size for array in initial.values())
        self._flat_parameters, self._flat_gradients = linked_zeros(size, self._dtype)
        parameters: dict[str, FloatArray] = {}
        gradients: dict[str, FloatArray] = {}
        begin = 0
        for name, array in initial.items():
            end = begin + array.size
            parameters[name] = self._flat_parameters[begin:end].reshape(array.shape)
            gradients[name] = self._flat_gradients[begin:end].reshape(array.shape)
            parameters[name][...] = array
            begin = end
        self._chain.bind(parameters, gradients)

    def __repr__(self) -> str:
        if self._taken:
            return repr(self._chain)
        lines = "".join(textwrap.indent(f"{layer!r},\n", "    ") for layer in self.layers)
        return f"Sequential([\n{lines}], dtype={self.dtype})  # {self._flat_parameters.size} parameters"

    def __reduce__(self) -> tuple[Any, ...]:
        # The views are made anew; copying them one by one would tear them from the flat array.
        if self._taken:
            return _rebuild_nested, (self.layers, self._dtype)
        state = self.rng.bit_generator.state
        return _rebuild, (self.layers, self.dtype, self.rng, state, self._copies())

    def __copy__(self) -> Self:
        # Two models cannot share their layers.
        return copy.deepcopy(self)

    # --- parameters -----------------------------------------------------------------------------------------

    @property
    def flat_parameters(self) -> FloatArray:
        """All parameters, shape (P,)."""
        self._check_root()
        self._used = True
        return self._flat_parameters

    @property
    def flat_gradients(self) -> FloatArray:
        """The gradients that the last backward pass wrote, shape (P,)."""
        self._check_root()
        self._used = True
        return self._flat_gradients

    def parameters(self) -> dict[str, FloatArray]:
        """Return the parameters by name, "0.weight", "1.block.0.bias" ...: views into `flat_parameters`."""
        self._used = True
        return dict(self._chain.parameters)

    def gradients(self) -> dict[str, FloatArray]:
        """Return the gradients by the same names: views into `flat_gradients`."""
        self._used = True
        return dict(self._chain.gradients)

    def _state(self) -> dict[str, FloatArray]:
        return {**self._chain.parameters, **self._chain.buffers}

    def _copies(self) -> dict[str, FloatArray]:
        return {name: array.copy() for name, array in self._state().items()}

    def state_dict(self) -> dict[str, FloatArray]:
        """Return copies of all parameters and buffers (running statistics) by name."""
        self._used = True
        return self._copies()

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Take over the parameters and buffers that `state_dict` returned.

        Raises
        ------
        ValueError, TypeError
            If names, shapes or dtypes are not this model's; nothing has changed then.
        """
        self._used = True
        own = self._state()
        if state.keys() != own.keys():
            missing = [name for name in own if name not in state]
            unknown = [name for name in state if name not in own]
            raise ValueError(f"state does not fit: missing are {missing}, unknown are {unknown}")
        arrays = {name: np.asarray(array) for name, array in state.items()}
        for name, target in own.items():
            if arrays[name].shape != target.shape:
                raise ValueError(f"state['{name}'] has shape {arrays[name].shape}; expected {target.shape}")
            if arrays[name].dtype != target.dtype:
                raise TypeError(
                    f"state['{name}'] has dtype {arrays[name].dtype}; expected {target.dtype}: "
                    f"cast it with .astype(np.{target.dtype})"
                )
        for name, target in own.items():
            target[...] = arrays[name]

    # --- forward and backward -------------------------------------------------------------------------------

    def _as_input(self, x: ArrayLike, name: str = "x") -> FloatArray:
        """Return x as an array of the model's dtype."""
        array = np.asarray(x)
        if array.dtype != self.dtype:
            if not np.can_cast(array.dtype, self.dtype, "same_kind"):
                raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers, best {self.dtype}")
            array = array.astype(self.dtype)
        return array

    def _check_shape(self, shape: tuple[int, ...], name: str = "x") -> Shape:
        if not shape:
            raise ValueError(f"{name} has shape {shape}; expected samples along the first axis")
        return self._output_shape(shape[1:], name)

    def __call__(self, x: ArrayLike, training: bool = False) -> FloatArray:
        """Return the output for x.

        Parameters
        ----------
        x
            (N, ...), real numbers; cast to the model's dtype.
        training : bool
            Whether to keep what `backward` needs. x itself is kept, not copied: leave it as it is until then.

        Returns
        -------
        array
            A new array of the model's dtype.

        Raises
        ------
        ValueError, TypeError
            If x has another number of features than the first layer takes, or no real numbers.
        RuntimeError
            In training, if the model is part of another one.
        """
        y = self._as_input(x)
        shape = y.shape
        if shape != self._trained_shape:
            self._check_shape(shape)
        self._used = True
        if not training:
            y = self._chain.forward(given := y, False)
            # A model that changes nothing must not hand out x itself.
            return y.copy() if np.may_share_memory(y, given) else y
        self._check_root()
        self._has_activations = False
        self._output = y = self._chain.forward(y, True)
        for commit in self._commits:
            commit()
        self._has_activations = True
        return y.copy()

    def backward(self, dy: ArrayLike, accumulate: bool = False) -> FloatArray:
        """Write the gradients of the last call with `training=True`, and return dL/dx.

        Parameters
        ----------
        dy
            dL/dy, of the shape of that call's result.
        accumulate : bool
            Whether to add to the gradients instead of overwriting them.

        Returns
        -------
        array
            dL/dx, a new array of the shape of x.

        Raises
        ------
        RuntimeError
            If there was no such call, or `train_step` came after it.
        ValueError, TypeError
            If dy has another shape, or no real numbers.
        """
        if not self._has_activations:
            raise RuntimeError("backward needs a call of the model with training=True before it")
        found = self._as_input(dy, "dy")
        if found.shape != self._output.shape:
            raise ValueError(f"dy has shape {found.shape}; expected that of the output, {self._output.shape}")
        # Layers work in place.
        return np.array(self._chain.backward(found.copy(), accumulate, True))

    # --- training -------------------------------------------------------------------------------------------

    def train_step(
        self,
        x: ArrayLike,
        target: ArrayLike,
        loss: LossLike,
        optimizer: optim.Optimizer,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Forward pass, loss, backward pass, update of the parameters, on one batch.

        Parameters
        ----------
        x
            (N, ...), real numbers; cast to the model's dtype.
        target
            What the loss takes. For an output of shape (N, 1) it may have the shape (N,).
        loss
            A loss or its name, or a function that returns (value, gradient) for (pred, target), and for
            (pred, target, sample_weight) if there are weights. The mean over the batch is what is minimised.
        optimizer
            One made for this model, or for some of its parameters.
        sample_weight
            (N,), or None.

        Returns
        -------
        float
            The loss, before the update.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit the model; neither a parameter nor a buffer has changed then.

        Notes
        -----
        In the steady state, batches of one size in arrays of the model's dtype, nothing is allocated but
        the value.
        """
        return self._step(x, target, loss, optimizer, sample_weight)

    def _step(
        self,
        x: ArrayLike,
        target: ArrayLike,
        loss: LossLike,
        optimizer: optim.Optimizer,
        sample_weight: ArrayLike | None,
        *,
        finite: bool = False,
    ) -> float:
        """`train_step`; with `finite`, one that raises NonFiniteLossError before anything has changed."""
        if type(x) is not np.ndarray or x.dtype is not self._dtype:
            x = self._as_input(x)
        if x.shape != self._trained_shape:
            self._prepare(x.shape)
        if loss is not self._loss:
            self._set_loss(loss)
        if optimizer is not self._optimizer:
            self._set_optimizer(optimizer)
        if self._one_output:
            target = as_column(np.asarray(target))
        self._has_activations = False
        y = x
        for forward in self._forwards:
            y = forward(y, True)
        self._output = y
        value, dy = self._value_and_grad(y, target, sample_weight, "mean", self._dy)
        if finite and not math.isfinite(value):
            raise NonFiniteLossError(value)
        for backward in self._backwards:
            dy = backward(dy)  # type: ignore[assignment]  # none of these returns None
        self._first_backward(dy, False, False)
        steps = optimizer.steps
        commits = iter(self._commits)
        try:
            optimizer.step()
            for commit in commits if optimizer.steps != steps else ():  # it leaves steps out with nonfinite="skip"
                commit()
        finally:
            # An interrupt is delivered behind the call in which it came: when the parameters have changed, the
            # buffers follow.
            if optimizer.steps != steps:
                for commit in commits:
                    commit()
        return value  # type: ignore[no-any-return]  # Any from the loss

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Check the shape of a batch and bind everything that depends on it."""
        self._check_root()
        self._used = True
        sample = self._check_shape(shape)
        self._trained_shape = None  # until all is bound: an interrupt may fall in between
        if sample is None:
            sample = self(np.zeros(shape, self.dtype)).shape[1:]
        self._dy = self._dy_buffer.of((shape[0], *sample), self._dtype)
        self._one_output = sample == (1,)
        self._trained_shape = shape

    def _set_loss(self, loss: LossLike) -> None:
        found: Any = losses.get(loss) if isinstance(loss, str) else loss
        self._loss = _NONE_YET  # until its function is bound
        if isinstance(found, losses.Loss):
            if found.spec.inputs != ("pred", "target"):
                raise TypeError(
                    f"loss is {found!r}, of {', '.join(found.spec.inputs)}; expected one of (pred, target): the "
                    "weights are those of the model's last layer"
                )
            # The core's own, unless a class has another: that one is meant.
            is_own = type(found).value_and_grad is not losses.Loss.value_and_grad
            verb: Any = found.value_and_grad if is_own else found._value_and_grad
            self._value_and_grad: _ValueAndGrad = verb
        elif callable(found):
            self._value_and_grad = _UserLoss(found)
        else:
            raise TypeError(
                "loss must be a loss, its name, or a function (pred, target) -> (value, gradient); "
                f"found {type(loss).__name__}"
            )
        self._loss = loss

    def _set_optimizer(self, optimizer: optim.Optimizer) -> None:
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"optimizer must be an Optimizer, found {type(optimizer).__name__}")
        for group in optimizer.groups:
            for array in group.params:
                gradient = gradient_of(array)
                if gradient is None or (gradient.size and not np.may_share_memory(gradient, self._flat_gradients)):
                    raise ValueError("optimizer updates other arrays than this model's; make it with params=model")
        self._optimizer = optimizer

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        loss: LossLike,
        optimizer: optim.Optimizer | str = "adam",
        epochs: int = 10,
        batch_size: int = 32,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[Any, float] | ArrayLike | None = None,
        validation_data: ValidationData | None = None,
        early_stopping: EarlyStopping | int | None = None,
        schedule: Schedule | None = None,
        metrics: Sequence[str | Metric] = (),
        callbacks: Sequence[Callback | EpochFunction] = (),
        shuffle: bool = True,
        progress: bool = True,
        rng: Rng = None,
        resume: str | PathLike[str] | None = None,
    ) -> dict[str, list[float]]:
        """Train on mini-batches; see `fuseprop.nn.fit.fit`."""
        from fuseprop.nn.fit import fit  # noqa: PLC0415  # it needs this module

        return fit(
            self,
            x,
            y,
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            sample_weight=sample_weight,
            class_weight=class_weight,
            validation_data=validation_data,
            early_stopping=early_stopping,
            schedule=schedule,
            metrics=metrics,
            callbacks=callbacks,
            shuffle=shuffle,
            progress=progress,
            rng=rng,
            resume=resume,
        )

    def predict(self, x: ArrayLike, batch_size: int | None = None) -> FloatArray:
        """Return the output for x, in evaluation mode.

        Parameters
        ----------
        x
            (N, ...), real numbers, memory-mapped if wanted; each batch is cast to the model's dtype.
        batch_size : int or None
            How many samples go through the layers at once. None: all, which needs memory for the
            activations of all of them.

        Raises
        ------
        ValueError, TypeError
            As for a call of the model.
        """
        from fuseprop.nn.fit import predict  # noqa: PLC0415  # it needs this module

        return predict(self, x, batch_size)

    def save(self, path: str | PathLike[str]) -> None:
        """Write architecture, parameters and buffers into a safetensors file; see `fuseprop.nn.io.save`."""
        from fuseprop.nn.io import save  # noqa: PLC0415  # it needs this module

        save(self, path)

    def config(self) -> dict[str, Any]:
        """Return the layers' descriptions, as of a layer."""
        return self._chain.config()


def as_column(target: NDArray[Any]) -> NDArray[Any]:
    """Return the target of an output of shape (N, 1): (N,) as (N, 1), others as they are."""
    return target[:, np.newaxis] if target.ndim == 1 else target


class NonFiniteLossError(FloatingPointError):
    """The loss of a batch is NaN or infinite; `value` is what it is."""

    def __init__(self, value: float, text: str | None = None) -> None:
        super().__init__(f"the loss is {value}" if text is None else text)
        self.value = value


class _UserLoss:
    """A user's function (pred, target) -> (value, gradient) with the face of a loss's `value_and_grad`."""

    def __init__(self, function: Callable[..., tuple[float, ArrayLike]]) -> None:
        self.function = function

    def __call__(
        self, pred: FloatArray, target: Any, sample_weight: Any, reduction: str, out: FloatArray, /
    ) -> tuple[float, FloatArray]:
        weights = () if sample_weight is None else (sample_weight,)
        value, gradient = self.function(pred, target, *weights)
        gradient = np.asarray(gradient)
        if gradient.shape != pred.shape:
            raise ValueError(f"loss returned a gradient of shape {gradient.shape}; expected pred's, {pred.shape}")
        np.copyto(out, gradient, casting="same_kind")
        return float(value), out


def _rebuild(
    layers: Sequence[Part],
    dtype: np.dtype[Any],
    rng: np.random.Generator,
    rng_state: Mapping[str, Any],
    state: Mapping[str, FloatArray],
) -> Sequential:
    model = Sequential(layers, rng=rng, dtype=dtype)
    model.rng.bit_generator.state = rng_state
    model.load_state_dict(state)
    return model


def _rebuild_nested(layers: Sequence[Part], dtype: np.dtype[Any]) -> Sequential:
    return Sequential(layers, rng=0, dtype=dtype)
