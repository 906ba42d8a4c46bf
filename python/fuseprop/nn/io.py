"""Saving and loading models: parameters as safetensors, the architecture as JSON in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from fuseprop.nn.layers import Activation, Dense, Layer
from fuseprop.nn.sequential import Sequential

if TYPE_CHECKING:
    from fuseprop.init import Rng

_FORMAT = "fuseprop 1"
_LAYERS: dict[str, type[Layer]] = {cls.__name__: cls for cls in (Activation, Dense)}


def _safetensors() -> Any:
    try:
        import safetensors.numpy  # noqa: PLC0415  # optional
    except ImportError as error:
        raise ImportError('saving and loading models needs safetensors: pip install "fuseprop[save]"') from error
    return safetensors


def save(model: Sequential, path: str | PathLike[str]) -> None:
    """Write a model's architecture and parameters into a safetensors file.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    NotImplementedError
        If a layer has no `config`, or an activation is of a class of one's own.
    """
    safetensors = _safetensors()
    architecture = {
        "class": "Sequential",
        "dtype": model.dtype.name,
        "layers": [{"class": type(layer).__name__, **layer.config()} for layer in model.layers],
    }
    metadata = {"format": _FORMAT, "architecture": json.dumps(architecture)}
    safetensors.numpy.save_file(model.state_dict(), fspath(path), metadata)


def load(path: str | PathLike[str], *, layers: Iterable[type[Layer]] = (), rng: Rng = None) -> Sequential:
    """Return the model that `save` wrote into a file.

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
    safetensors = _safetensors()
    generator = np.random.default_rng(rng)
    known = _LAYERS | {cls.__name__: cls for cls in layers}
    try:
        with safetensors.safe_open(fspath(path), "numpy") as file:
            metadata = file.metadata() or {}
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except safetensors.SafetensorError as error:
        raise ValueError(f"{fspath(path)} is not a safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{fspath(path)} has the format {metadata.get('format')!r}; expected {_FORMAT!r}, as save writes"
        )
    try:
        architecture = json.loads(metadata["architecture"])
        model = _build(architecture, known, generator)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{fspath(path)} describes no model that can be built: {error!r}") from error
    model.load_state_dict(parameters)
    return model


def _build(architecture: Any, known: Mapping[str, Any], rng: Rng) -> Sequential:
    built = []
    for i, entry in enumerate(architecture["layers"]):
        arguments = dict(entry)
        name = arguments.pop("class")
        if name not in known:
            raise ValueError(f"layers[{i}] is a {name}, which is not known; give its class in layers=")
        built.append(known[name](**arguments))
    return Sequential(built, rng=rng, dtype=np.dtype(architecture["dtype"]))
