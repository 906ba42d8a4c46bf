"""A network of layers in a row: the model that users make, train, ask and save."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fuseprop import activations, losses, optim
from fuseprop._elsewhere import OF_FIT, options
from fuseprop.nn import io
from fuseprop.nn.containers import Formula, Nestable, Part
from fuseprop.nn.layers import Layer
from fuseprop.nn.model import (
    LossLike,
    Model,
    NonFiniteLossError,  # noqa: F401  # where exceptions that were pickled before look for their class
)

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.nn.callbacks import Callback, EarlyStopping, EpochFunction, Schedule
    from fuseprop.nn.data import ValidationData
    from fuseprop.nn.metrics import Metric


class Sequential(Model):
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
        """Train on mini-batches.

        Parameters
        ----------
        x, y
            Samples along the first axis, and their targets: what the loss takes; (N,) will do for an output of (N, 1),
            but for a loss over classes. They are never copied as a whole: each batch is gathered into a buffer, and
            cast there. Memory-mapped arrays may be larger than the memory. Both are looked through once before the
            first step: x must be finite, and y what the loss is defined for (all of it, if the loss is a function).
        loss
            A loss, its class or its name, or a function of (pred, target) that returns (value, gradient).
        optimizer
            One made for this model, or a class or name of `fuseprop.optim` for a new one with its defaults.
        epochs, batch_size : int
            Passes over the data, and samples per step. The last batch of an epoch is smaller if they do not
            divide.
        sample_weight
            (N,), finite and >= 0, or None. A batch's loss is its weighted mean.
        class_weight
            Multiplies the weights of the samples of each class: a dict from labels to numbers, not all 0, which must
            have all labels of y; an array with one number for each of the classes 0, 1, ...; or "balanced",
            N / (classes * count). Samples that the loss ignores (`ignore_index`) are of no class, and do not count.
        validation_data
            (x, y) or (x, y, sample_weight), evaluated after each epoch.
        early_stopping
            An `EarlyStopping`, or its patience in epochs: ends the run, and brings back the best parameters.
        schedule
            The learning rate: a function of the number of steps that the optimizer has taken, called before each step;
            or an object with a method update(metric), called after each epoch, which returns the new rate, or None; or
            both in one. The metric is the one that its `monitor` names, or the validation loss (without validation data
            the loss); a `mode` of "min" where more is better, or the other way round, is refused, and
            `ReduceOnPlateau` needs one where that is not known. See `fuseprop.optim`.
        metrics
            Names ("accuracy", see `fuseprop.nn.accuracy`, by what the loss says of its predictions), losses, or
            functions of (pred, target), which get what the loss gets: targets (N, 1) for an output of (N, 1). They are
            reported along with the loss by their names, which differ; a lambda, or what has no name, is "metric_" and
            its place, "metric_0".
        callbacks
            `Callback` objects, such as `Checkpoint` and `GradientHealth`, or functions called after each epoch with
            (epoch, dict of the epoch's values, model); training stops behind the epoch in which one returns True.
            Epochs are counted from 0 everywhere, as the values in the history: in functions, in `Run.epoch`, in
            `best_epoch` and in messages.
        shuffle : bool
            Whether each epoch goes through the samples in an order of its own.
        progress : bool
            Whether to show a progress bar, if tqdm is installed.
        rng : Generator, SeedSequence, int or None
            Draws these orders. None: the model's own generator.
        resume
            A file that `Checkpoint` wrote in a run like this one: it goes on from there, until `epochs` in all, also if
            a function or a callback had stopped it; one that early stopping had stopped goes on with more patience,
            else a UserWarning says why it does not. Model, optimizer, schedule, callbacks, metrics and rng are made as
            they were made for that run; one that does not fit is refused, and model and optimizer stay as they were.

        Returns
        -------
        dict
            Lists with one number per epoch: "loss" and each metric, while the parameters were moving: the mean over the
            batches, each weighted by its number of samples, or the sum of their weights, also where the loss divides by
            something else (ignore_index, weights of classes of its own, a root); with validation data "val_loss" and
            "val_" + metric, of the parameters at the end of the epoch; with a schedule "lr", the rate at the end of the
            epoch. It is `model.history`, too, which stays if the run ends by an exception.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit, or the checkpoint the run; refused by the first batch at the latest, before any
            parameter has changed. What is wrong in x, y or the weights is named by its place in the array given. A
            metric that returns no number is refused behind the first step.
        NonFiniteLossError
            A FloatingPointError: the loss of a batch is NaN or infinite. The message names the layer where that arose;
            the model and the optimizer are as they were before this step.
        KeyboardInterrupt
            On Ctrl-C. The model then has the parameters of the last complete step, and can be used or trained
            further; see the head of `fuseprop.nn`.

        Notes
        -----
        With one generator state, a run is the same to the bit, on any number of threads, and whether it was interrupted
        and resumed between two epochs or not.
        """
        from fuseprop.nn.fit import Training  # noqa: PLC0415  # not needed to import the package

        training = Training(self, loss, optimizer, metrics)
        training.take(x, y, sample_weight, class_weight, batch_size=batch_size, shuffle=shuffle, rng=rng)
        training.accompany(validation_data, early_stopping, schedule, callbacks)
        return training.run(epochs, progress=progress, resume=resume)

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
        from fuseprop.nn.data import predict  # noqa: PLC0415  # not needed to import the package

        return predict(self, x, batch_size)

    def save(self, path: str | PathLike[str]) -> None:
        """Write architecture, parameters and buffers into a safetensors file.

        An old file of that name is replaced as a whole, when the new one is complete. It keeps its mode; a new one has
        the mode of any new file. Where there is a symbolic link, the file that it points to is written.

        Parameters
        ----------
        path
            The file; `load` takes it.

        Raises
        ------
        ImportError
            If safetensors is not installed.
        NotImplementedError
            If a layer has no `config`, or an activation is of a class of one's own.
        OSError
            If the file cannot be written: FileNotFoundError if there is no such folder, IsADirectoryError ...
        """
        io.write_model(self, path)


def load(path: str | PathLike[str], *, layers: Iterable[type[Layer]] = (), rng: Rng = None) -> Sequential:
    """Return the model that `save` wrote into a file, or `save_checkpoint`.

    Nothing in a file is executed: it names classes, which are looked up among the library's and `layers`.

    Parameters
    ----------
    path
        The file.
    layers
        Classes of one's own layers that the model may contain; their constructors take what `config`
        returned.
    rng
        What the model draws from when it is trained on: an integer, a Generator, or None for a new seed. A file has
        no generator's state.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    ValueError
        If the file is not a model of this format, contains a layer that is not known, or has other arrays than the
        layers need: which is seen before anything is built.
    OSError
        If the file cannot be read: FileNotFoundError if there is none ...
    """
    return io.read_model(Sequential, path, layers, rng)


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
