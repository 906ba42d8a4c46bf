"""A network of layers in a row, on one flat array of parameters and one of gradients."""

from __future__ import annotations

import copy
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import starmap
from operator import attrgetter
from os import PathLike
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fuseprop import activations, losses, optim
from fuseprop._checks import real_array, training_weights, unmasked
from fuseprop._elsewhere import OF_FIT, options
from fuseprop._memory import BatchBuffer, Changes, at_once, gradient_of, linked_zeros
from fuseprop.nn.containers import Chain, Formula, MisfitError, Nestable, Part
from fuseprop.nn.layers import Layer, Shape
from fuseprop.nn.norm import BatchNorm, move_statistics
from fuseprop.optim.arrays import describe

if TYPE_CHECKING:
    from types import FrameType
    from typing import Self  # Python 3.11

    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.nn.callbacks import Callback, EarlyStopping, EpochFunction, Schedule
    from fuseprop.nn.fit import ValidationData
    from fuseprop.nn.metrics import Metric

#: A loss of the library, its class or name, or a function of (pred, target) that returns (value, gradient).
LossLike: TypeAlias = "losses.Loss | type[losses.Loss] | str | Callable[..., tuple[float, ArrayLike]]"


class _ValueAndGrad(Protocol):
    def __call__(
        self, pred: FloatArray, target: Any, sample_weight: Any, reduction: str, out: FloatArray, /
    ) -> tuple[Any, FloatArray]: ...


#: In the place of a loss or an optimizer before there is one; no argument is this object.
_NONE_YET = object()

_movement = attrgetter("_movement")


class Sequential:
    """Layers in a row.

    All parameters are views into one array, `flat_parameters`, in the order of the layers; their gradients
    are the same views into `flat_gradients`. Both arrays stay the same for the model's whole life.

    A model may be a layer of another one, or the block of a `Residual`. It is then laid out by its root: one array of
    parameters, drawn anew from the root's generator, one dtype. What it says of itself (`parameters`, `state_dict`, its
    output) goes on; it is trained with its root alone.

    Parameters
    ----------
    layers, more
        The layers or models, none of them in another model, and the models not yet used: a list of them, or one after
        the other. An activation, or the class of one, stands for an `Activation`.
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
    of the batch in buffers of the model, which it reuses: a second thread in it is refused. What an error and an
    interrupt leave behind is said at the head of `fuseprop.nn`.
    """

    def __init__(
        self,
        layers: Part | Formula | Iterable[Part | Formula],
        *more: Part | Formula,
        rng: Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        one_by_one = (
            more
            or isinstance(layers, Layer | Nestable | activations.Activation | type)
            or not isinstance(layers, Iterable)
        )
        self._assemble((layers, *more) if one_by_one else layers, dtype)  # type: ignore[arg-type]  # not iterable: a part
        self._start(np.random.default_rng(rng))

    @classmethod
    def _assembled(cls, layers: Iterable[Part | Formula], dtype: DTypeLike) -> Self:
        """Return one that has no parameters yet: `_start`, or another model, lays them out."""
        model = cls.__new__(cls)
        model._assemble(layers, dtype)
        return model

    def _assemble(self, layers: Iterable[Part | Formula], dtype: DTypeLike) -> None:
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        if self._dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype is {self._dtype}; expected float32 or float64")
        self._chain = Chain(layers)
        self._output_shape(None)
        self._used = False
        # What train_step has checked and prepared already.
        self._trained_shape: tuple[int, ...] | None = None
        self._loss = self._optimizer = _NONE_YET
        self._dy_buffer = BatchBuffer()
        self._dy = self._dy_buffer.of((0, 0), self._dtype)
        # Whether targets (N,) stand for (N, 1): the output has one column, and the loss is not over classes.
        self._one_output = self._over_classes = self._flat_targets = False
        # What backward needs: the output of the last call in training, and the thread that made it.
        self._output = self._dy
        self._called_by: int | None = None
        # Whether a call that works with the buffers is running; see _check_idle.
        self._busy = False
        #: What the last `fit` reported, even if it was interrupted.
        self.history: dict[str, list[float]] = {}

    def _start(self, rng: np.random.Generator) -> None:
        """Lay the parameters out, and put together what train_step goes through."""
        self._lay_out(rng)
        self._chain.take()
        runs = self._chain.runs
        self._forwards = tuple(run.forward for run in runs)
        self._backwards = tuple(run.backward for run in runs[:0:-1])
        self._first_backward = runs[0].backward
        commits = [(layer, type(layer).commit) for _, layer in self._chain.leaves()]
        # Those of the library are made at once, see _step.
        self._norms = tuple(layer for layer, commit in commits if commit is BatchNorm.commit)
        self._commits = tuple(
            layer.commit for layer, commit in commits if commit not in (Layer.commit, BatchNorm.commit)
        )

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
        """Take over the parameters and buffers of a state that `state_dict` returned.

        Raises
        ------
        ValueError, TypeError
            If names, shapes or dtypes are not this model's; nothing has changed then. Nor has it, or all has, after an
            interrupt.
        RuntimeError
            If another thread trains the model.
        """
        self._used = True
        changes = Changes()
        self._plan(state, changes)
        self._alone(changes.make)

    def _plan(self, state: Mapping[str, ArrayLike], changes: Changes) -> None:
        """Add to `changes` what makes this state the model's, or refuse it."""
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict, what state_dict returned, found {describe(state)}")
        own = self._state()
        if state.keys() != own.keys():
            missing = [name for name in own if name not in state]
            unknown = [name for name in state if name not in own]
            raise ValueError(f"state does not fit: missing are {_some(missing)}, unknown are {_some(unknown)}")
        for name, target in own.items():
            unmasked(state[name], f"state['{name}']")
            array = np.asarray(state[name])
            if array.shape != target.shape:
                raise ValueError(f"state['{name}'] has shape {array.shape}; expected {target.shape}")
            # Buffers may be more exact than the model's dtype, which they once had.
            widened = (
                name in self._chain.buffers and array.dtype == self.dtype and np.can_cast(array.dtype, target.dtype)
            )
            if array.dtype != target.dtype and not widened:
                raise TypeError(
                    f"state['{name}'] has dtype {array.dtype}; expected {target.dtype}: "
                    f"cast it with .astype(np.{target.dtype})"
                )
            changes.copy(target, array)

    def _alone(self, work: Callable[[], object]) -> None:
        """Do something with the state that no other call may come into."""
        if self._busy:
            self._check_idle()
        try:
            self._busy = True
            work()
        finally:
            self._busy = False

    def _check_idle(self) -> None:
        """Refuse a call if another one is at work with the buffers, in another thread or around it.

        The flag alone does not tell: in a forked child it may be that of a thread that only the parent has.
        """
        here = sys._getframe(1)
        for top in sys._current_frames().values():
            frame: FrameType | None = top
            while frame is not None:
                if frame.f_code in _ALONE and frame is not here and frame.f_locals["self"] is self:
                    raise RuntimeError(
                        "this model is in training, or its state is being set, in another thread or around this call; "
                        "wait until that is over, or train a copy, copy.copy(model)"
                    )
                frame = frame.f_back

    # --- forward and backward -------------------------------------------------------------------------------

    def _as_input(self, x: ArrayLike, name: str = "x") -> FloatArray:
        """Return x as an array of the model's dtype."""
        dtype = self.dtype  # that of the root
        if type(x) is np.ndarray and x.dtype == dtype:
            return x
        return real_array(x, name).astype(dtype, copy=False)

    def _check_shape(self, shape: tuple[int, ...], name: str = "x") -> Shape:
        if not shape:
            raise ValueError(f"{name} has shape {shape}; expected samples along the first axis")
        return self._output_shape(shape[1:], name)

    def _sample_output(self, shape: tuple[int, ...], name: str = "x") -> tuple[int, ...]:
        """Return the shape of the output of one sample of a batch of this shape, also if a layer does not say it."""
        sample = self._check_shape(shape, name)
        return self(np.zeros(shape, self.dtype)).shape[1:] if sample is None else sample

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
            In training, if the model is part of another one, or another thread trains it.
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
        return self._call_in_training(y)

    def _call_in_training(self, x: FloatArray) -> FloatArray:
        self._check_root()
        if self._busy:
            self._check_idle()
        try:
            self._busy = True
            self._called_by = None
            self._output = y = self._chain.forward(x, True)
            result = y.copy()
            at_once(starmap(move_statistics, map(_movement, self._norms)))
            for commit in self._commits:
                commit()
            self._called_by = get_ident()
            return result
        finally:
            self._busy = False

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
            If there was no such call in this thread, or another call or `train_step` came after it, or is running.
        ValueError, TypeError
            If dy has another shape, or no real numbers.
        """
        if self._busy:
            self._check_idle()
        try:
            self._busy = True
            if self._called_by is None:
                raise RuntimeError("backward needs a call of the model with training=True before it")
            if self._called_by != get_ident():
                raise RuntimeError(
                    "backward needs a call of the model with training=True before it; the last one was made in "
                    "another thread, and keeps its own activations"
                )
            found = self._as_input(dy, "dy")
            if found.shape != self._output.shape:
                raise ValueError(f"dy has shape {found.shape}; expected that of the output, {self._output.shape}")
            # Layers work in place.
            return np.array(self._chain.backward(found.copy(), accumulate, True))
        finally:
            self._busy = False

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
            What the loss takes. For an output of shape (N, 1) it may have the shape (N,), but for a loss over classes.
        loss
            A loss, its class or its name, or a function that returns (value, gradient) for (pred, target), and for
            (pred, target, sample_weight) if there are weights. The mean over the batch is what is minimised.
        optimizer
            One made for this model, or for some of its parameters.
        sample_weight
            (N,), >= 0, or None.

        Returns
        -------
        float
            The loss, before the update.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit the model; neither a parameter nor a buffer has changed then.
        RuntimeError
            If another thread trains this model.

        Notes
        -----
        In the steady state, batches of one size in arrays of the model's dtype, nothing is allocated but
        the value.
        """
        if sample_weight is not None:
            sample_weight = real_array(sample_weight, "sample_weight")
            training_weights(sample_weight, "sample_weight", self._dtype)
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
        if self._busy:
            self._check_idle()
        try:
            self._busy = True
            if type(x) is not np.ndarray or x.dtype is not self._dtype:
                x = self._as_input(x)
            if x.shape != self._trained_shape:
                self._prepare(x.shape)
            if loss is not self._loss:
                self._set_loss(loss)
            if optimizer is not self._optimizer:
                self._set_optimizer(optimizer)
            if self._flat_targets:
                target = as_column(real_array(target, "target") if type(target) is not np.ndarray else target)
            self._called_by = None
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
            norms, commits, updater = self._norms, iter(self._commits), optimizer._updater
            movements: Iterable[object] = starmap(move_statistics, map(_movement, norms)) if norms else ()
            steps = updater.steps
            try:
                optimizer.step()
                if updater.steps != steps:  # it leaves steps out with nonfinite="skip"
                    at_once(movements)
                    for commit in commits:
                        commit()
            finally:
                # An interrupt is delivered behind the call in which it came: when the parameters have changed, the
                # buffers follow. What has been done is gone from the iterators; between here and the statistics
                # there is no call of Python, behind which another interrupt could be delivered.
                if updater.steps != steps:
                    at_once(movements)
                    for commit in commits:
                        commit()
            return value  # type: ignore[no-any-return]  # Any from the loss
        finally:
            self._busy = False

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Check the shape of a batch and bind everything that depends on it."""
        self._check_root()
        self._used = True
        self._trained_shape = None  # until all is bound: an interrupt may fall in between
        sample = self._sample_output(shape)
        self._dy = self._dy_buffer.of((shape[0], *sample), self._dtype)
        self._one_output = sample == (1,)
        self._flat_targets = self._one_output and not self._over_classes
        self._trained_shape = shape

    def _set_loss(self, loss: LossLike) -> None:
        found: Any = as_loss(loss)
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
        else:
            self._value_and_grad = _UserLoss(found)
        self._over_classes = is_over_classes(found)
        self._flat_targets = self._one_output and not self._over_classes
        self._loss = loss

    def _set_optimizer(self, optimizer: optim.Optimizer) -> None:
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"optimizer must be an Optimizer, found {_described(optimizer)}")
        for group in optimizer.groups:
            for array in group.params:
                gradient = gradient_of(array)
                if gradient is None or (gradient.size and not np.may_share_memory(gradient, self._flat_gradients)):
                    raise ValueError("optimizer updates other arrays than this model's; make it with params=model")
        self._optimizer = optimizer

    @options(OF_FIT)
    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        loss: LossLike,
        optimizer: optim.Optimizer | type[optim.Optimizer] | str = "adam",
        epochs: int = 10,
        batch_size: int = 32,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[Any, float] | ArrayLike | None = None,
        validation_data: ValidationData | None = None,
        early_stopping: EarlyStopping | int | None = None,
        schedule: Schedule | None = None,
        metrics: Sequence[str | Metric | losses.Loss] = (),
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
            How many samples go through the layers at once. None: as many as have activations of 4 MiB a layer, 256 or
            more. The layers of the library treat samples one by one, so that the result is the same to the bit.

        Raises
        ------
        ValueError, TypeError
            As for a call of the model.
        """
        from fuseprop.nn.fit import predict  # noqa: PLC0415  # it needs this module

        return predict(self, x, batch_size)

    def save(self, path: str | PathLike[str]) -> None:
        """Write architecture, parameters and buffers into a safetensors file at `path`; see `fuseprop.nn.io.save`."""
        from fuseprop.nn.io import save  # noqa: PLC0415  # it needs this module

        save(self, path)

    def config(self) -> dict[str, Any]:
        """Return the layers' descriptions, as of a layer."""
        return self._chain.config()


#: The calls that work with a model's buffers, or set its state: one at a time.
_ALONE = frozenset(
    method.__code__
    for method in (Sequential._step, Sequential._call_in_training, Sequential.backward, Sequential._alone)
)


def _some(names: Sequence[object]) -> str:
    """Return names for a message, the first ones if there are many."""
    most = 20
    return f"{list(names)}" if len(names) <= most else f"{list(names[:most])} and {len(names) - most} more"


def as_loss(loss: LossLike) -> losses.Loss | Callable[..., tuple[float, ArrayLike]]:
    """Return the loss that a name or a class stands for, with its defaults; others as they are."""
    if isinstance(loss, str):
        return losses.get(loss)
    if isinstance(loss, type):
        if not issubclass(loss, losses.Loss) or loss is losses.Loss:
            raise TypeError(f"loss is the class {loss.__name__}; expected a loss of fuseprop.losses, its name or class")
        return loss()
    if not isinstance(loss, losses.Loss) and not callable(loss):
        raise TypeError(
            "loss must be a loss, its name, or a function (pred, target) -> (value, gradient); "
            f"found {type(loss).__name__}"
        )
    return loss


def is_over_classes(loss: object) -> bool:
    """Whether targets (N,) are labels, which must not become the (N, 1) that an output of one column has."""
    return isinstance(loss, losses.Loss) and loss.spec.over_classes


def _described(found: object) -> str:
    return (
        f"the class {found.__name__}: give {found.__name__}(model)" if isinstance(found, type) else type(found).__name__
    )


def as_column(target: NDArray[Any]) -> NDArray[Any]:
    """Return the target of an output of shape (N, 1): (N,) as (N, 1), others as they are."""
    return target[:, np.newaxis] if target.ndim == 1 else target


class NonFiniteLossError(FloatingPointError):
    """The loss of a batch is NaN or infinite; `value` is what it is."""

    def __init__(self, value: float, text: str | None = None) -> None:
        super().__init__(f"the loss is {value}" if text is None else text)
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value, str(self))


class _UserLoss:
    """A user's function (pred, target) -> (value, gradient) with the face of a loss's `value_and_grad`."""

    def __init__(self, function: Callable[..., tuple[float, ArrayLike]]) -> None:
        self.function = function

    def __call__(
        self, pred: FloatArray, target: Any, sample_weight: Any, reduction: str, out: FloatArray, /
    ) -> tuple[float, FloatArray]:
        weights = () if sample_weight is None else (sample_weight,)
        found = self.function(pred, target, *weights)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"loss returned {type(found).__name__}; expected a tuple (value, gradient)")
        value, gradient = found
        unmasked(gradient, "the gradient that loss returned")
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
    return Sequential._assembled(layers, dtype)
