"""Saving and loading models: arrays as safetensors, the architecture as JSON in the file's metadata."""

from __future__ import annotations

import copy
import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from os import PathLike, fsdecode
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fuseprop._checks import integer
from fuseprop._memory import Changes
from fuseprop.nn.layers import LAYERS, Layer
from fuseprop.nn.model import Model

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.optim import Optimizer

_Model = TypeVar("_Model", bound=Model)

_FORMAT = "fuseprop 1"
#: What a checkpoint has beside the model.
_CHECKPOINT = "checkpoint."
#: What files may hold besides float32 and float64, by the format's names.
_DTYPES = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
#: More layers than any model has; a layer without parameters takes a few bytes of a file, and much more in memory.
_MOST_LAYERS = 10_000
#: What is raised on the way by a description or a state that is not what `save` or `save_checkpoint` writes.
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError)


def require_safetensors() -> Any:
    """Return the module, or say how to install it."""
    try:
        import safetensors.numpy  # noqa: PLC0415  # optional
    except ImportError as error:
        raise ImportError('saving and loading models needs safetensors: pip install "fuseprop[save]"') from error
    return safetensors


def write_model(model: Model, path: str | PathLike[str]) -> None:
    """`Sequential.save`."""
    require_safetensors()
    _write(path, model.state_dict(), _metadata(model))


def _metadata(model: Model) -> dict[str, str]:
    architecture = {"class": "Sequential", "dtype": model.dtype.name, **model.config()}
    return {"format": _FORMAT, "architecture": json.dumps(architecture)}


def read_model(cls: type[_Model], path: str | PathLike[str], layers: Iterable[type[Layer]], rng: Rng) -> _Model:
    """`fuseprop.nn.load`, as a model of this class."""
    generator = np.random.default_rng(rng)
    with _opened(path) as (metadata, file):
        with refusing(path, "describes no model that can be built"):
            described = metadata["architecture"].count('"class"')
            if described > _MOST_LAYERS:
                raise ValueError(f"it has {described} layers; expected {_MOST_LAYERS} at most")
            architecture = json.loads(metadata["architecture"])
            if architecture["dtype"] not in ("float32", "float64"):
                raise ValueError(f"dtype is {architecture['dtype']!r}; expected 'float32' or 'float64'")
            assembled = partial(cls._assembled, dtype=architecture["dtype"])
            known: dict[str, Any] = {name: spec.cls for name, spec in LAYERS.items()} | {"Sequential": assembled}
            known |= {layer.__name__: layer for layer in layers}
            model = assembled(_built(architecture["layers"], known, "layers"))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no dict
            names = [name for name in shapes if not name.startswith(_CHECKPOINT)]
            _check_shapes(model, {name: shapes[name] for name in names})
        arrays = _arrays(path, file, names)
    with refusing(path, "describes no model that can be built"):
        _start(model, generator)
        model.load_state_dict(arrays)
    return model


@contextmanager
def refusing(path: str | PathLike[str], what: str) -> Iterator[None]:
    """Make a ValueError that names the file of what its contents cause."""
    try:
        yield
    except RecursionError:
        raise ValueError(f"{fsdecode(path)} {what}: it is nested too deeply") from None
    except _UNFIT as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else f"{error}"
        raise ValueError(f"{fsdecode(path)} {what}: {reason}") from error


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[tuple[dict[str, str], Any]]:
    """Open a file of ours; give its metadata, and what reads its arrays."""
    safetensors = require_safetensors()
    _check_regular(path, os.stat(fsdecode(path)))
    try:
        with safetensors.safe_open(fsdecode(path), "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(
                    f"{fsdecode(path)} has the format {metadata.get('format')!r}; expected {_FORMAT!r}, as save writes"
                )
            yield metadata, file
    except safetensors.SafetensorError as error:
        raise ValueError(f"{fsdecode(path)} is not a safetensors file: {error}") from error


def _check_regular(path: str | PathLike[str], found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), fsdecode(path))
    if not stat.S_ISREG(found.st_mode):  # a pipe, a device
        raise OSError(errno.EINVAL, "not a regular file", fsdecode(path))


def _arrays(path: str | PathLike[str], file: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the arrays of these names."""
    with refusing(path, "holds what cannot be read"):
        for name in names:
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise ValueError(f"{name!r} has dtype {dtype}; expected one of {', '.join(_DTYPES)}")
        return {name: file.get_tensor(name) for name in names}


def _check_shapes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a model that has other arrays than the file, before there is memory for it."""
    own: list[str] = []
    expected: dict[str, tuple[int, ...]] = {}
    for path, layer in model._leaves():
        # Of a layer of one's own it is not known before.
        needed = layer._shapes() if _is_ours(layer) else None
        if needed is None:
            own.append(f"{path}.")
        else:
            expected.update({f"{path}.{name}": shape for name, shape in needed.items()})
    for name, shape in expected.items():
        if name not in shapes:
            raise ValueError(f"{name!r} is missing, of shape {shape}")
        if shapes[name] != shape:
            raise ValueError(f"{name!r} has shape {shapes[name]}; expected {shape}, as the layer is described")
    for name in shapes:
        if name not in expected and not name.startswith(tuple(own)):
            raise ValueError(f"{name!r} is of no layer that is described")


def _is_ours(layer: Layer) -> bool:
    name = type(layer).__name__
    return name in LAYERS and type(layer) is LAYERS[name].cls


def _start(model: Model, rng: np.random.Generator) -> None:
    """Lay out a model whose parameters are about to be loaded: nothing is drawn for them."""
    drawn: list[Any] = [layer for _, layer in model._leaves() if _is_ours(layer) and hasattr(layer, "init")]
    inits = [layer.init for layer in drawn]
    for layer in drawn:
        layer.init = _blank
    model._start(rng)
    for layer, init in zip(drawn, inits, strict=True):
        layer.init = init


def _blank(shape: Sequence[int], *, rng: Rng, dtype: DTypeLike) -> FloatArray:
    """Return zeros that take no memory."""
    del rng
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


def _built(value: Any, known: Mapping[str, Any], path: str) -> Any:
    """Return a layer's argument, with the layers in it made from their descriptions."""
    if isinstance(value, list):
        return [_built(entry, known, f"{path}[{i}]") for i, entry in enumerate(value)]
    if not isinstance(value, dict) or "class" not in value:
        return value  # an argument
    arguments = dict(value)
    name = arguments.pop("class")
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{path} is a {name}, which is not known; give its class in layers=")
    made = {key: _built(entry, known, f"{path}.{key}") for key, entry in arguments.items()}
    with refusing(path, f"is no {name}"):
        return known[name](**made)


# --- writing ------------------------------------------------------------------------------------------------


def _write(path: str | PathLike[str], arrays: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """Write a file as a whole."""
    safetensors = require_safetensors()

    def write(new: str) -> None:
        try:
            safetensors.numpy.save_file(arrays, new, metadata)
        except safetensors.SafetensorError as error:
            raise OSError(f"{fsdecode(path)} cannot be written: {error}") from error

    _beside(path, write)


def check_writable(path: str | PathLike[str]) -> None:
    """Refuse a path where no file can be written, as OSError."""
    _beside(path, None)


def _beside(path: str | PathLike[str], write: Callable[[str], None] | None) -> None:
    """Make a new file in the folder of `path`, and put it in its place when `write` has completed it.

    At any time there is the old file or the new one, and the new one alone is left over, if only the process is not
    killed, or interrupted while it tidies up.
    """
    if not os.path.basename(fsdecode(path)):  # "", or "folder/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), fsdecode(path))
    target = os.path.realpath(fsdecode(path))
    new = os.path.join(os.path.dirname(target), f".fuseprop-{os.urandom(8).hex()}.tmp")
    mode: int | None = None
    with suppress(FileNotFoundError):
        found = os.stat(target)
        _check_regular(path, found)
        mode = stat.S_IMODE(found.st_mode)
    try:
        try:
            with open(new, "xb") as file:
                # Unless there is an old one: as of any new file. The library that writes would make it private.
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) if mode is None else mode
        except OSError as error:
            reason = f"no file can be made in its folder: {error.strerror}"
            raise OSError(error.errno, reason, fsdecode(path)) from None
        if write is None:
            os.unlink(new)
            return
        write(new)
        os.chmod(new, mode)
        with open(new, "rb+") as file:
            os.fsync(file.fileno())  # or a loss of power could leave the name without the contents
        os.replace(new, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise


# --- checkpoints --------------------------------------------------------------------------------------------


def save_checkpoint(
    path: str | PathLike[str], model: Model, optimizer: Optimizer, state: Mapping[str, Any] | None = None
) -> None:
    """Write what a training run needs to go on exactly from here into a safetensors file.

    That is the model's parameters and buffers, the state of its generator, and the optimizer's state. `load` takes the
    file, too, as a model. An old file of that name is replaced as a whole, when the new one is complete.

    Parameters
    ----------
    path
        The file.
    model, optimizer
        What is trained.
    state
        What else is to be kept: nested dicts and lists of arrays, numbers, strings, booleans and None.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    TypeError
        If `state` holds something else, or a dict has keys that are no strings.
    OSError
        As of `save`.
    """
    require_safetensors()
    arrays: dict[str, Any] = model.state_dict()
    parts = {"optimizer": optimizer.state_dict(), "rng": model.rng.bit_generator.state, "state": dict(state or {})}
    packed = _pack(parts, _CHECKPOINT[:-1], arrays)
    try:
        metadata = _metadata(model)
    except NotImplementedError:  # a layer that cannot be described: its state can be kept all the same
        metadata = {"format": _FORMAT}
    metadata["checkpoint"] = json.dumps(packed)
    _write(path, arrays, metadata)


def load_checkpoint(path: str | PathLike[str], model: Model, optimizer: Optimizer) -> dict[str, Any]:
    """Bring a model and its optimizer to where they were when `save_checkpoint` wrote the file.

    Parameters
    ----------
    path
        The file.
    model, optimizer
        Made as those that were saved.

    Returns
    -------
    dict
        The `state` that was saved.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    OSError
        If the file cannot be read: FileNotFoundError if there is none ...
    ValueError
        If it is no checkpoint, or one of another model or optimizer. Nothing has changed then. Nor has it, or all has,
        after an interrupt.
    RuntimeError
        If another thread trains the model.
    """
    parts = open_checkpoint(path)
    restore_checkpoint(path, parts, model, optimizer)
    state: dict[str, Any] = parts["state"]
    return state


def open_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what a checkpoint holds: "model", "optimizer", "rng" and "state"."""
    with _opened(path) as (metadata, file):
        if "checkpoint" not in metadata:
            raise ValueError(f"{fsdecode(path)} is a model without a checkpoint; expected what save_checkpoint writes")
        arrays = _arrays(path, file, file.keys())
    with refusing(path, "holds no checkpoint"):
        parts = _unpack(json.loads(metadata["checkpoint"]), arrays)
        for name in ("optimizer", "rng", "state"):
            if not isinstance(parts[name], dict):
                raise TypeError(f"{name!r} is of type {type(parts[name]).__name__}; expected a dict")
    return {**parts, "model": {name: array for name, array in arrays.items() if not name.startswith(_CHECKPOINT)}}


def restore_checkpoint(
    path: str | PathLike[str],
    parts: Mapping[str, Any],
    model: Model,
    optimizer: Optimizer,
    changes: Changes | None = None,
) -> None:
    """Bring model, its generator and optimizer to where they were, and make other changes along; all or nothing."""
    changes = Changes() if changes is None else changes
    with refusing(path, "does not fit"):
        plan_generator(parts["rng"], model.rng, "the model", changes)
        model._plan(parts["model"], changes)
        optimizer._plan(parts["optimizer"], changes)
    model._alone(lambda: optimizer._updater.alone(changes.make))


#: Places in a generator's buffers, which NumPy does not check: their names and how large they may be.
_PLACES = {"pos": 624, "buffer_pos": 4, "has_uint32": 1}


def plan_generator(state: Any, rng: np.random.Generator, owner: str, changes: Changes) -> None:
    """Add to `changes` what brings a generator into this state, or refuse it."""
    bits = copy.deepcopy(rng.bit_generator)
    expected = bits.state["bit_generator"]
    if state["bit_generator"] != expected:
        raise ValueError(
            f"it has the state of a generator {state['bit_generator']}; expected that of {owner}, {expected}"
        )
    inner = state["state"] if isinstance(state["state"], Mapping) else {}
    for name, most in _PLACES.items():
        place = inner.get(name, state.get(name, 0))
        integer(place, f"{name} of the generator's state", least=0, most=most)
    bits.state = state
    if not _same(bits.state, state):
        raise ValueError(f"it has no state of a generator {expected}")
    changes.set(rng.bit_generator, "state", bits.state)


def _same(a: Any, b: Any) -> bool:
    """Whether two nested dicts of numbers, strings and arrays are equal."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b))


def _pack(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """Return a nested value as JSON can hold it; arrays go to `arrays`, and their names there take their places."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise TypeError(f"{name} has dtype {value.dtype}, which a checkpoint cannot hold")
        # Keys may have dots, so that a path is no name of its own; and the file is little-endian without saying so.
        place = f"{_CHECKPOINT}{len(arrays)}"
        arrays[place] = np.asarray(value, value.dtype.newbyteorder("="), order="C")
        return {"array": place}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}; expected strings, as a checkpoint can hold")
        return {"dict": {key: _pack(entry, f"{name}.{key}", arrays) for key, entry in value.items()}}
    if isinstance(value, list | tuple):
        return [_pack(entry, f"{name}.{i}", arrays) for i, entry in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is of type {type(value).__name__}, which a checkpoint cannot hold")


def _unpack(packed: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(packed, list):
        return [_unpack(entry, arrays) for entry in packed]
    if not isinstance(packed, dict):
        return packed
    if packed.keys() == {"array"}:
        return arrays[packed["array"]]
    if packed.keys() != {"dict"} or not isinstance(packed["dict"], dict):
        raise ValueError(f"an entry has the keys {list(packed)}; expected 'array' or 'dict'")
    return {key: _unpack(entry, arrays) for key, entry in packed["dict"].items()}
