"""What a model is given: samples, targets and weights, looked through once before the first step, then in batches.

A batch's error would name a row of the shuffled batch, when parameters have moved already; these name the row of the
caller's array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import losses
from fuseprop._checks import class_weights, integer, real_array, training_weights, unmasked, weight_of_class
from fuseprop._memory import RowBuffer
from fuseprop._registry import Domain, LossSpec
from fuseprop.nn.model import is_over_classes

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.nn.model import Model

#: (x, y) or (x, y, sample_weight).
ValidationData: TypeAlias = "tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]"
#: Samples, targets, and weights or None.
Batch: TypeAlias = "tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]"

#: Elements that are looked at at once: what is computed of them stays in the cache.
_BLOCK = 1 << 16

#: Which finite numbers a domain has, and the words for it.
_DOMAINS: dict[Domain, tuple[Callable[[NDArray[Any]], NDArray[np.bool_]], str]] = {
    "real": (np.isfinite, "finite numbers"),
    "unit": (lambda y: (y >= 0) & (y <= 1), "values in [0, 1]"),
    "sign": (lambda y: np.abs(y) == 1, "-1 or 1"),
    "nonnegative": (lambda y: (y >= 0) & np.isfinite(y), "finite values >= 0"),
    "positive": (lambda y: (y > 0) & np.isfinite(y), "finite values > 0"),
    "nonzero": (lambda y: (y != 0) & np.isfinite(y), 'finite values other than 0, unless on_zero is "inf" or "skip"'),
    "distribution": (lambda y: (y >= 0) & (y <= 1), "values in [0, 1]"),
    "classes": (lambda y: (y >= 0) & (y <= 1), "values in [0, 1]"),
    "log_distribution": (lambda y: y <= 0, "logarithms of probabilities, <= 0"),
}


def target_array(y: ArrayLike, name: str, loss: object) -> NDArray[Any]:
    """Return targets as an array: of numbers, for a loss of the library."""
    if isinstance(loss, losses.Loss):
        return real_array(y, name)
    unmasked(y, name)
    return np.asarray(y)


def check_samples(x: NDArray[Any], dtype: np.dtype[Any], owner: str = "") -> None:
    """Refuse samples that are not finite in the model's dtype; `owner` says whose they are, " of validation_data"."""
    _check_values(x, dtype, np.isfinite, "x", owner, "expected finite numbers")


def check_targets(
    y: NDArray[Any], dtype: np.dtype[Any], loss: object, output_shape: tuple[int, ...], owner: str = ""
) -> None:
    """Refuse targets outside of what a loss of the library is defined for.

    What a loss of the user's own takes is not known.
    """
    if not isinstance(loss, losses.Loss):
        return
    spec = loss.spec
    if spec.over_classes:
        is_labels = _check_shape(y, spec, output_shape, owner)
        if is_labels:
            _check_labels(y, loss, output_shape[-1], owner)
            return
    domain = spec.domain_of_targets(loss._parameters)
    if domain in _DOMAINS:
        is_inside, words = _DOMAINS[domain]
        _check_values(y, dtype, is_inside, "y", owner, f"{spec.name} expects {words}")
    if spec.over_classes and domain != "log_distribution" and y.dtype.kind in "biu":
        _check_rows(y, loss, owner)


def _check_shape(y: NDArray[Any], spec: LossSpec, output_shape: tuple[int, ...], owner: str) -> bool:
    """Whether targets over classes are labels; other shapes than those of labels and distributions are refused."""
    shapes = {"labels": (len(y), *output_shape[:-1]), "distributions": (len(y), *output_shape)}
    if spec.target_domain != "classes":
        del shapes["distributions" if spec.target_domain == "labels" else "labels"]
    for kind, shape in shapes.items():
        if y.shape == shape:
            return kind == "labels"
    expected = ", or ".join(f"{shape} for {kind}" for kind, shape in shapes.items())
    raise ValueError(f"y{owner} has shape {y.shape}; {spec.name} expects {expected}")


def _check_labels(y: NDArray[Any], loss: losses.Loss, classes: int, owner: str) -> None:
    if y.dtype.kind not in "biu":
        for begin, block in _blocks(y):
            wrong = (block != np.trunc(block)) | np.isinf(block)  # a NaN is unequal, too
            if wrong.any():
                place, found = _place("y", begin, wrong, owner), _first(block, wrong)
                raise ValueError(f"{place} is {found}; {loss.spec.name} expects integer labels")
        raise TypeError(
            f"y{owner} has dtype {y.dtype}; {loss.spec.name} expects integer labels: all of these are whole numbers, "
            "give y.astype(int)"
        )
    ignored = loss._parameters.get("ignore_index")
    for begin, block in _blocks(y):
        inside = (block >= 0) & (block < classes)
        if ignored is not None:
            inside |= block == ignored
        if not inside.all():
            other = "" if ignored is None else f" or ignore_index = {ignored}"
            raise ValueError(
                f"{_place('y', begin, ~inside, owner)} is label {_first(block, ~inside)}; expected 0 to "
                f"{classes - 1}{other} (the model's output has C = {classes} classes)"
            )


def _check_rows(y: NDArray[Any], loss: losses.Loss, owner: str) -> None:
    """Refuse integers that are no distributions, as the loss does: labels may have such a shape."""
    for begin, block in _blocks(y):
        sums = block.sum(axis=-1, dtype=np.int64)
        if (sums != 1).any():
            place, found = _place("y", begin, sums != 1, owner), _first(sums, sums != 1)
            raise ValueError(f"{place} sums to {found}; {loss.spec.name} expects distributions, which sum to 1")


def _check_values(  # noqa: PLR0917  # what, how, and four words for the message
    array: NDArray[Any],
    dtype: np.dtype[Any],
    is_inside: Callable[[NDArray[Any]], NDArray[np.bool_]],
    name: str,
    owner: str,
    wanted: str,
) -> None:
    if array.dtype.kind in "biu" and is_inside is np.isfinite:
        return
    with np.errstate(over="ignore"):  # that is what is looked for
        for begin, block in _blocks(array):
            inside = is_inside(block.astype(dtype, copy=False))
            if not inside.all():
                value = _first(block, ~inside)
                cast = dtype.type(value)
                is_another = np.isinf(cast) != np.isinf(value) or (cast == 0) != (value == 0)
                note = f", {cast} as {dtype}" if is_another else ""
                raise ValueError(f"{_place(name, begin, ~inside, owner)} is {value}{note}; {wanted}")


def _blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give the array in rows that are together of about `_BLOCK` elements, each with its first row's number."""
    rows = max(1, _BLOCK * len(array) // max(array.size, 1))
    for begin in range(0, len(array), rows):
        yield begin, array[begin : begin + rows]


def _place(name: str, begin: int, wrong: NDArray[np.bool_], owner: str) -> str:
    row, *rest = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    return f"{name}[{', '.join(map(str, (begin + row, *rest)))}]{owner}"


def _first(block: NDArray[Any], wrong: NDArray[np.bool_]) -> Any:
    return block[np.unravel_index(int(wrong.argmax()), wrong.shape)].item()


# --- batches ------------------------------------------------------------------------------------------------


def batches(rows: Any, size: int) -> Iterator[Any]:
    """Give what has rows (an array, a sparse matrix, an order) in batches of `size`; the last one may be smaller."""
    for begin in range(0, rows.shape[0], size):
        yield rows[begin : begin + size]


class Source:
    """An array whose rows are gathered into a buffer of a given dtype."""

    def __init__(self, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
        self._array = array
        self._buffer = RowBuffer(array.shape[1:], dtype)
        # np.take would copy a whole array that is not C-contiguous, and cannot cast.
        self._take = array.flags.c_contiguous and array.dtype == dtype

    def gather(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return these rows, which the next call overwrites."""
        batch = self._buffer.rows(len(rows))
        if self._take:
            # With the default mode, take would go through another buffer; the rows are in range.
            np.take(self._array, rows, axis=0, out=batch, mode="clip")
        else:
            batch[...] = self._array[rows]
        return batch


class Batches:
    """Samples, targets and weights of one length, gathered batch by batch."""

    def __init__(
        self,
        model: Model,
        x: ArrayLike,
        y: ArrayLike,
        loss: object,
        sample_weight: ArrayLike | None,
        *,
        class_weight: Mapping[Any, float] | ArrayLike | None,
    ) -> None:
        xs = real_array(x, "x")
        output_shape = model._sample_output(xs.shape)
        self.size = len(xs)
        if self.size == 0:
            raise ValueError(f"x has shape {xs.shape}; expected at least one sample")
        ys = target_array(y, "y", loss)
        self._check_length("y", ys)
        check_samples(xs, model.dtype)
        check_targets(ys, model.dtype, loss, output_shape)
        self._x = Source(xs, model.dtype)
        self._y = Source(ys, _target_dtype(ys, model.dtype, loss))
        self._weight: Source | None = None
        of_classes = None if class_weight is None else _weights_of_classes(class_weight, ys, loss, model.dtype)
        if sample_weight is None and of_classes is not None:
            self._weight = Source(of_classes.astype(model.dtype), model.dtype)
        if sample_weight is not None:
            weights = real_array(sample_weight, "sample_weight")
            self._check_length("sample_weight", weights)
            if weights.shape == (self.size, *output_shape) == (self.size, 1) and not is_over_classes(loss):
                weights = weights[:, 0]  # as the loss takes them
            if weights.ndim != 1:
                raise ValueError(f"sample_weight has shape {weights.shape}; expected ({self.size},)")
            training_weights(weights, "sample_weight", model.dtype, some=True)
            if of_classes is not None:
                weights = np.multiply(weights, of_classes, dtype=np.float64)
                training_weights(weights, "(sample_weight * class_weight)", model.dtype, some=True)
            self._weight = Source(weights, model.dtype)

    def _check_length(self, name: str, array: NDArray[Any]) -> None:
        if array.ndim == 0 or len(array) != self.size:
            raise ValueError(f"{name} has shape {array.shape}; expected {self.size} samples, as x has")

    def through(self, order: NDArray[np.intp], size: int) -> Iterator[Batch]:
        """Give the samples in this order in batches, each of which overwrites the one before."""
        return map(self.gather, batches(order, size))

    def gather(self, rows: NDArray[np.intp]) -> Batch:
        """Return the batch of these samples."""
        weight = None if self._weight is None else self._weight.gather(rows)
        return self._x.gather(rows), self._y.gather(rows), weight


def _weights_of_classes(class_weight: Any, y: NDArray[Any], loss: object, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Return the weight of each sample's class; 1 for those that the loss ignores."""
    if y.ndim != 1 and y.shape[1:] != (1,):
        raise ValueError(f"class_weight needs labels (N,); y has shape {y.shape}")
    labels_of = y.reshape(-1)
    ignored = loss._parameters.get("ignore_index") if isinstance(loss, losses.Loss) else None
    counts = np.ones(y.size, np.bool_) if ignored is None else labels_of != ignored
    weights = np.ones(y.size)
    weights[counts] = _weights_of_labels(class_weight, labels_of[counts], dtype)
    return weights


def _weights_of_labels(class_weight: Any, y: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    labels, place, counts = np.unique(y, return_inverse=True, return_counts=True)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight is {class_weight!r}; expected 'balanced', a dict or an array")
        if y.dtype.kind == "f" and (labels != np.trunc(labels)).any():
            found = labels[labels != np.trunc(labels)][0].item()
            raise ValueError(f"class_weight is 'balanced', which needs labels, whole numbers; y has {found:g}")
        weights = y.size / (len(labels) * counts.astype(np.float64))
        return np.asarray(weights[place])
    if not isinstance(class_weight, Mapping):
        numbers = class_weights(class_weight, "class_weight")
        if y.dtype.kind not in "biu" or (labels.size and (labels[0] < 0 or labels[-1] >= len(numbers))):
            found = f", which are from {labels[0]} to {labels[-1]}" if labels.size else ""
            raise ValueError(
                f"class_weight has {len(numbers)} numbers; expected one for each of the labels 0, 1, ... of y{found}"
            )
        class_weight = dict(enumerate(numbers.tolist()))
    missing = [label for label in labels.tolist() if label not in class_weight]
    if missing:
        raise ValueError(f"class_weight has no number for the label {missing[0]!r} of y")
    chosen = [weight_of_class(class_weight[label], f"class_weight[{label!r}]", dtype) for label in labels.tolist()]
    if labels.size and not any(chosen):
        raise ValueError("class_weight has only zeros for the labels of y; expected at least one number > 0")
    return np.asarray(np.array(chosen, np.float64)[place])


def _target_dtype(y: NDArray[Any], dtype: np.dtype[Any], loss: object) -> np.dtype[Any]:
    """Labels keep their dtype, and so does everything for a user's loss; other targets get the model's."""
    ours = isinstance(loss, losses.Loss)
    labels = y.ndim == 1 and y.dtype.kind in "biu"
    if not ours or labels or not np.can_cast(y.dtype, dtype, "same_kind"):
        return y.dtype
    return dtype


def predict(model: Model, x: ArrayLike, batch_size: int | None = None) -> FloatArray:
    """`Sequential.predict`."""
    x = real_array(x, "x")
    rows = _rows_at_once(model, x) if batch_size is None else integer(batch_size, "batch_size", least=1)
    if x.ndim == 0 or len(x) <= rows:
        return model(x)
    first = model(x[:rows])
    result: FloatArray = np.empty((len(x), *first.shape[1:]), first.dtype)
    result[:rows] = first
    for y, batch in zip(batches(result[rows:], rows), batches(x[rows:], rows), strict=True):
        y[...] = model(batch)
    return result


#: Of the largest activation that `predict` has by itself: more would take memory without being faster.
_ACTIVATION_BYTES = 4 << 20
_FEW_ROWS = 256


def _rows_at_once(model: Model, x: NDArray[Any]) -> int:
    """Return how many samples may go through the layers at once; few always may."""
    if x.ndim == 0 or len(x) <= _FEW_ROWS:
        return _FEW_ROWS
    sizes = [x[0].size]
    model._check_shape(x.shape)
    model._trace(x[:1], False, lambda path, layer, y: sizes.append(y.size))
    return max(_FEW_ROWS, int(_ACTIVATION_BYTES // (model.dtype.itemsize * max(*sizes, 1))))
