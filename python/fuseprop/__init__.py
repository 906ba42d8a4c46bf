"""fuseprop: fused losses, activations, optimizers and small networks for NumPy.

The training half of machine learning on a CPU: each formula with its derivatives in one pass over the data, in
float32 and float64, the same bits on any number of threads. Needs NumPy alone.

`losses`, `activations`, `ops`, `optim`, `regularizers`, `rules`, `init` and `nn` are the parts; `reference` holds the
formulas in plain NumPy. `boosting`, `plot` and `sklearn` are imported when they are first used.

Ctrl-C is seen between two calls of the core: `fit`, `predict`, `optim.lbfgs` and the estimators end within a batch, or
an evaluation. A call that runs is finished first; how long it takes is bounded by what its arrays hold.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fuseprop import (
    _core,
    _listing,
    _settings,
    activations,
    init,
    losses,
    nn,
    ops,
    optim,
    reference,
    regularizers,
    rules,
)
from fuseprop._settings import build_info, get_num_threads, num_threads, set_num_threads, simd_target

if TYPE_CHECKING:
    from fuseprop import boosting, plot
    from fuseprop import sklearn as sklearn

__version__: str = _core.build_info()["version"]

__all__ = [
    "__version__",
    "activations",
    "boosting",
    "build_info",
    "get_num_threads",
    "init",
    "losses",
    "nn",
    "num_threads",
    "ops",
    "optim",
    "plot",
    "reference",
    "regularizers",
    "rules",
    "set_num_threads",
    "simd_target",
]

_settings.set_target_from_environment()

# Not needed to train: they cost nothing until they are used. `sklearn` is not in __all__, as importing it may fail.
_LAZY = ("boosting", "plot", "sklearn")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"fuseprop.{name}")
    raise AttributeError(f"module 'fuseprop' has no attribute {name!r}")


__dir__ = _listing.listing({*__all__, *_LAZY})
