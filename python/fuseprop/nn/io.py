"""Saving and loading models: arrays as safetensors, the architecture as JSON in the file's metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from fuseprop.nn.containers import Flatten, Residual
from fuseprop.nn.dropout import Dropout
from fuseprop.nn.layers import Activation, Dense, Layer
from fuseprop.nn.maxout import Maxout
from fuseprop.nn.norm import BatchNorm, LayerNorm
from fuseprop.nn.sequential import Sequential

if TYPE_CHECKING:
    from fuseprop.init import Rng
    from fuseprop.optim import Optimizer

_FORMAT = "fuseprop 1"
_LAYERS: tuple[type, ...] = (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    Maxout,
    Residual,
    Sequential,
)
#: What a checkpoint has beside the model.
_CHECKPOINT = "checkpoint."


def require_safetensors() -> Any:
    """Return the module, or say how to install it."""
    try:
        import safetensors.numpy  # noqa: PLC0415  # optional
    except ImportError as error:
        raise ImportError('saving and loading models needs safetensors: pip install "fuseprop[save]"') from error
    return safetensors


def save(model: Sequential, path: str | PathLike[str]) -> None:
    """Write a model's architecture, parameters and buffers into a safetensors file.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    NotImplementedError
        If a layer has no `config`, or an activation is of a class of one's own.
    """
    safetensors = require_safetensors()
    safetensors.numpy.save_file(model.state_dict(), fspath(path), _metadata(model))


def _metadata(model: Sequential) -> dict[str, str]:
    architecture = {"class": "Sequential", "dtype": model.dtype.name, **model.config()}
    return {"format": _FORMAT, "architecture": json.dumps(architecture)}


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
        If the file is not a model of this format, or contains a layer that is not known.
    FileNotFoundError
        If there is no such file.
    """
    safetensors = require_safetensors()
    generator = np.random.default_rng(rng)
    known = {cls.__name__: cls for cls in (*_LAYERS, *layers)}
    metadata, arrays = _read(safetensors, path)
    try:
        architecture = json.loads(metadata["architecture"])
        dtype = np.dtype(architecture["dtype"])
        model = Sequential(_built(architecture["layers"], known, "layers"), rng=generator, dtype=dtype)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{fspath(path)} describes no model that can be built: {error!r}") from error
    model.load_state_dict({name: array for name, array in arrays.items() if not name.startswith(_CHECKPOINT)})
    return model


def _read(safetensors: Any, path: str | PathLike[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata and the arrays of a file of ours."""
    try:
        with safetensors.safe_open(fspath(path), "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except safetensors.SafetensorError as error:
        raise ValueError(f"{fspath(path)} is not a safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{fspath(path)} has the format {metadata.get('format')!r}; expected {_FORMAT!r}, as save writes"
        )
    return metadata, arrays


def _built(value: Any, known: Mapping[str, Any], path: str) -> Any:
    """Return a layer's argument, with the layers in it made from their descriptions."""
    if isinstance(value, list):
        return [_built(entry, known, f"{path}[{i}]") for i, entry in enumerate(value)]
    if not isinstance(value, dict) or "class" not in value:
        return value
    arguments = dict(value)
    name = arguments.pop("class")
    if name not in known:
        raise ValueError(f"{path} is a {name}, which is not known; give its class in layers=")
    return known[name](**{key: _built(entry, known, f"{path}.{key}") for key, entry in arguments.items()})


# --- checkpoints --------------------------------------------------------------------------------------------


def save_checkpoint(
    path: str | PathLike[str], model: Sequential, optimizer: Optimizer, state: Mapping[str, Any] | None = None
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
    """
    safetensors = require_safetensors()
    arrays: dict[str, Any] = model.state_dict()
    parts = {"optimizer": optimizer.state_dict(), "rng": model.rng.bit_generator.state, "state": dict(state or {})}
    packed = _pack(parts, _CHECKPOINT[:-1], arrays)
    try:
        metadata = _metadata(model)
    except NotImplementedError:  # a layer that cannot be described: its state can be kept all the same
        metadata = {"format": _FORMAT}
    metadata["checkpoint"] = json.dumps(packed)
    unfinished = f"{fspath(path)}.tmp"
    safetensors.numpy.save_file(arrays, unfinished, metadata)
    os.replace(unfinished, fspath(path))


def load_checkpoint(path: str | PathLike[str], model: Sequential, optimizer: Optimizer) -> dict[str, Any]:
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
    FileNotFoundError
        If there is no such file.
    ValueError, TypeError
        If it is no checkpoint, or one of another model or optimizer. Nothing has changed then.
    """
    parts = open_checkpoint(path)
    restore_checkpoint(path, parts, model, optimizer)
    state: dict[str, Any] = parts["state"]
    return state


def open_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what a checkpoint holds: "model", "optimizer", "rng" and "state"."""
    metadata, arrays = _read(require_safetensors(), path)
    if "checkpoint" not in metadata:
        raise ValueError(f"{fspath(path)} is a model without a checkpoint; expected what save_checkpoint writes")
    parts: dict[str, Any] = _unpack(json.loads(metadata["checkpoint"]), arrays)
    parts["model"] = {name: array for name, array in arrays.items() if not name.startswith(_CHECKPOINT)}
    return parts


def check_generator(path: str | PathLike[str], state: Mapping[str, Any], rng: np.random.Generator, owner: str) -> None:
    """Refuse the state of a generator of another kind."""
    found, expected = state["bit_generator"], rng.bit_generator.state["bit_generator"]
    if found != expected:
        raise ValueError(f"{fspath(path)} has the state of a generator {found}; expected that of {owner}, {expected}")


def restore_checkpoint(
    path: str | PathLike[str], parts: Mapping[str, Any], model: Sequential, optimizer: Optimizer
) -> None:
    """Bring model and optimizer to where they were; all or nothing."""
    check_generator(path, parts["rng"], model.rng, "the model")
    before = model.state_dict()
    model.load_state_dict(parts["model"])
    try:
        optimizer.load_state_dict(parts["optimizer"])
    except BaseException:
        model.load_state_dict(before)
        raise
    model.rng.bit_generator.state = parts["rng"]


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
    if "array" in packed:
        return arrays[packed["array"]]
    return {key: _unpack(entry, arrays) for key, entry in packed["dict"].items()}
