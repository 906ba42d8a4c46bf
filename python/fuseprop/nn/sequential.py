"""A network of layers in a row, on one flat array of parameters and one of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fuseprop import losses, optim
from fuseprop._memory import RowBuffer, gradient_of, linked_zeros
from fuseprop.nn.layers import Layer, Shape

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.nn.fit import Callback, Metric, ValidationData

#: A loss of the library, its name, or a function of (pred, target) that returns (value, gradient).
LossLike: TypeAlias = "losses.Loss | str | Callable[..., tuple[float, ArrayLike]]"


class _ValueAndGrad(Protocol):
    def __call__(
        self, pred: FloatArray, target: Any, sample_weight: Any, reduction: str, out: FloatArray, /
    ) -> tuple[Any, FloatArray]: ...


class Sequential:
    """Layers in a row.

    All parameters are views into one array, `flat_parameters`, in the order of the layers; their gradients
    are the same views into `flat_gradients`. Both arrays stay the same for the model's whole life.

    Parameters
    ----------
    layers
        The layers, none of them in another model.
    rng : Generator, SeedSequence, int or None
        Draws the initial values, and the order of the samples in `fit`. None: differently each time.
    dtype : float32 or float64
        Of parameters, activations and gradients. Inputs of another dtype are cast to it.

    Raises
    ------
    ValueError, TypeError
        If there is no layer, one does not take the output of the one before it, is no `Layer` or belongs to
        a model already, or the dtype is neither float32 nor float64.

    Notes
    -----
    Evaluation, `model(x)` and `predict`, may run in several threads at once. Training keeps the activations
    of the batch in buffers of the model, which it reuses: it must not.
    """

    def __init__(self, layers: Iterable[Layer], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> None:
        self.layers: tuple[Layer, ...] = tuple(layers)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype is {self.dtype}; expected float32 or float64")
        self.rng = np.random.default_rng(rng)
        self._check_layers()
        self._output_shape(None)
        self._lay_out()
        # What train_step goes through, and what it has checked and prepared already.
        self._forwards = tuple(layer.forward for layer in self.layers)
        self._backwards = tuple(layer.backward for layer in self.layers[:0:-1])
        self._first_backward = self.layers[0].backward
        self._trained_shape: tuple[int, ...] | None = None
        self._loss: object = None
        self._optimizer: object = None
        self._dy_buffer = RowBuffer((0,), self.dtype)
        self._dy = self._dy_buffer.rows(0)
        self._one_output = False
        # What backward needs.
        self._output = self._dy
        self._has_activations = False

    def _check_layers(self) -> None:
        if not self.layers:
            raise ValueError("layers is empty; expected at least one layer")
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}] must be a Layer, found {type(layer).__name__}")
            if hasattr(layer, "_own_names") or any(layer is other for other in self.layers[:i]):
                raise ValueError(f"layers[{i}], {layer!r}, is part of a model already; make a new one")

    def _output_shape(self, shape: Shape, name: str = "x") -> Shape:
        """Follow the shape of one sample through the layers."""
        for i, layer in enumerate(self.layers):
            try:
                shape = layer.output_shape(shape)
            except ValueError as error:
                what = f"{name} has" if i == 0 else f"layers[{i}], {layer!r}, gets"
                raise ValueError(f"{what} {error}") from None
        return shape

    def _lay_out(self) -> None:
        """Draw the initial values and give every layer its places in the flat arrays."""
        shape: Shape = None
        initial: list[dict[str, FloatArray]] = []
        for layer in self.layers:
            initial.append(layer.initialize(shape, self.rng, self.dtype))
            shape = layer.output_shape(shape)
        size = sum(array.size for values in initial for array in values.values())
        self._flat_parameters, self._flat_gradients = linked_zeros(size, self.dtype)
        begin = 0
        self._parameters: dict[str, FloatArray] = {}
        self._gradients: dict[str, FloatArray] = {}
        for i, (layer, values) in enumerate(zip(self.layers, initial, strict=True)):
            parameters, gradients = {}, {}
            for name, array in values.items():
                end = begin + array.size
                parameters[name] = self._flat_parameters[begin:end].reshape(array.shape)
                gradients[name] = self._flat_gradients[begin:end].reshape(array.shape)
                parameters[name][...] = array
                begin = end
            layer.bind(parameters, gradients)
            self._parameters.update({f"{i}.{name}": array for name, array in parameters.items()})
            self._gradients.update({f"{i}.{name}": array for name, array in gradients.items()})

    def __repr__(self) -> str:
        lines = "".join(f"    {layer!r},\n" for layer in self.layers)
        return f"Sequential([\n{lines}], dtype={self.dtype})  # {self._flat_parameters.size} parameters"

    def __reduce__(self) -> tuple[Any, ...]:
        # The views are made anew; copying them one by one would tear them from the flat array.
        return _rebuild, (self.layers, self.dtype, self.rng, self._flat_parameters.copy())

    # --- parameters -----------------------------------------------------------------------------------------

    @property
    def flat_parameters(self) -> FloatArray:
        """All parameters, shape (P,)."""
        return self._flat_parameters

    @property
    def flat_gradients(self) -> FloatArray:
        """The gradients that the last backward pass wrote, shape (P,)."""
        return self._flat_gradients

    def parameters(self) -> dict[str, FloatArray]:
        """Return the parameters by name, "0.weight", "0.bias", ...: views into `flat_parameters`."""
        return dict(self._parameters)

    def gradients(self) -> dict[str, FloatArray]:
        """Return the gradients by the same names: views into `flat_gradients`."""
        return dict(self._gradients)

    def state_dict(self) -> dict[str, FloatArray]:
        """Return copies of all parameters by name."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Take over the parameters that `state_dict` returned.

        Raises
        ------
        ValueError, TypeError
            If names, shapes or dtypes are not this model's; nothing has changed then.
        """
        if state.keys() != self._parameters.keys():
            missing = [name for name in self._parameters if name not in state]
            unknown = [name for name in state if name not in self._parameters]
            raise ValueError(f"state does not fit: missing are {missing}, unknown are {unknown}")
        arrays = {name: np.asarray(array) for name, array in state.items()}
        for name, parameter in self._parameters.items():
            if arrays[name].shape != parameter.shape:
                raise ValueError(f"state['{name}'] has shape {arrays[name].shape}; expected {parameter.shape}")
            if arrays[name].dtype != parameter.dtype:
                raise TypeError(
                    f"state['{name}'] has dtype {arrays[name].dtype}; expected {parameter.dtype}: "
                    f"cast it with .astype(np.{parameter.dtype})"
                )
        for name, parameter in self._parameters.items():
            parameter[...] = arrays[name]

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
        """
        y = self._as_input(x)
        shape = y.shape
        if shape != self._trained_shape:
            self._check_shape(shape)
        if not training:
            for layer in self.layers:
                y = layer.forward(y, False)
            # A model that changes nothing must not hand out x itself.
            return y.copy() if y is x else y
        self._has_activations = False
        for layer in self.layers:
            y = layer.forward(y, True)
        self._output = y
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
        dx: Any = found.copy()
        for layer in reversed(self.layers):
            dx = layer.backward(dx, accumulate, True)
        return np.array(dx)

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
            If an argument does not fit the model; no parameter has changed then.

        Notes
        -----
        In the steady state, batches of one size in arrays of the model's dtype, nothing is allocated but
        the value.
        """
        if type(x) is not np.ndarray or x.dtype is not self.dtype:
            x = self._as_input(x)
        if x.shape != self._trained_shape:
            self._prepare(x.shape)
        if loss is not self._loss:
            self._set_loss(loss)
        if optimizer is not self._optimizer:
            self._set_optimizer(optimizer)
        if self._one_output:
            target = np.asarray(target)
            if target.ndim == 1:
                target = target[:, np.newaxis]
        self._has_activations = False
        y = x
        for forward in self._forwards:
            y = forward(y, True)
        self._output = y
        value, dy = self._value_and_grad(y, target, sample_weight, "mean", self._dy)
        for backward in self._backwards:
            dy = backward(dy)  # type: ignore[assignment]
        self._first_backward(dy, False, False)
        optimizer.step()
        return value  # type: ignore[no-any-return]

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Check the shape of a batch and bind everything that depends on it."""
        sample = self._check_shape(shape)
        if sample is None:
            sample = self(np.zeros(shape, self.dtype)).shape[1:]
        if self._dy.shape[1:] != sample:
            self._dy_buffer = RowBuffer(sample, self.dtype)
        self._dy = self._dy_buffer.rows(shape[0])
        self._one_output = sample == (1,)
        self._trained_shape = shape

    def _set_loss(self, loss: LossLike) -> None:
        found: Any = losses.get(loss) if isinstance(loss, str) else loss
        if isinstance(found, losses.Loss):
            self._value_and_grad: _ValueAndGrad = found._value_and_grad
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
        validation_data: ValidationData | None = None,
        metrics: Sequence[str | Metric] = (),
        callbacks: Sequence[Callback] = (),
        shuffle: bool = True,
        progress: bool = True,
        rng: Rng = None,
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
            validation_data=validation_data,
            metrics=metrics,
            callbacks=callbacks,
            shuffle=shuffle,
            progress=progress,
            rng=rng,
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
        """Write architecture and parameters into a safetensors file; see `fuseprop.nn.io.save`."""
        from fuseprop.nn.io import save  # noqa: PLC0415  # it needs this module

        save(self, path)


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
    layers: Sequence[Layer], dtype: np.dtype[Any], rng: np.random.Generator, parameters: FloatArray
) -> Sequential:
    generators = [layer._rng for layer in layers]
    model = Sequential(layers, rng=0, dtype=dtype)
    model.rng = rng
    for layer, generator in zip(layers, generators, strict=True):
        if generator is not None:
            layer._rng = generator
    model.flat_parameters[...] = parameters
    return model
