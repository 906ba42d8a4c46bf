"""Formulas that one might add: a plug-in of pytest, with which `test_three_edits.py` runs the suite in a child process.

What each does is what CONTRIBUTING asks for, and nothing else: a class with its record (edit 2, put where `losses.py`
and `optim` would have it) and the formula in `reference.py` (edit 3). The kernel (edit 1) is an old one under the new
name: that kernels are in the core's table is `test_registry.py`'s.
"""

from __future__ import annotations

from typing import Any

import fuseprop as fp
from fuseprop import _core, reference
from fuseprop._registry import register_loss, register_optimizer
from fuseprop.losses import Loss
from fuseprop.optim.optimizer import Optimizer, Params, Shared


class _Borrowed(Loss):
    """A loss whose kernel has another name."""

    __slots__ = ()

    kernel = ""

    def __init__(self) -> None:
        super().__init__()

    def _bind_core(self) -> None:
        self._bind(self.kernel, ())


@register_loss(
    "added_log",
    link="log",
    ulp=(4.0, 4.0, 4.0),
    cancels=("value", "d1"),
    target_domain="positive",
    best="log_mean",
    dropped="gamma_constant",
    aliases=("added_mean",),
)
class AddedLog(_Borrowed):
    """z + y e^-z, with a log link. At most 4, 4, 4 ULP, of the terms where value and d1 cancel."""

    __slots__ = ()
    kernel = "gamma"


@register_loss("added_flat", curvature="none", ulp=(0.0, 0.0, 0.0), best="median")
class AddedFlat(_Borrowed):
    """abs(r), without curvature. At most 0, 0, 0 ULP."""

    __slots__ = ()
    kernel = "absolute_error"


@register_loss(
    "added_over_classes",
    prediction="probability",
    target_domain="distribution",
    pred_domain="unit",
    best="distribution",
)
class AddedOverClasses(_Borrowed):
    """-sum_j y_j log p_j, of probabilities."""

    __slots__ = ()
    kernel = "categorical_cross_entropy"


@register_loss("added_of_labels", curvature="none", prediction="log_probability", link="log", target_domain="labels")
class AddedOfLabels(Loss, _core.NegativeLogLikelihood):
    """-log p_t, of log-probabilities and labels."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

    def _bind_core(self) -> None:
        self._bind("negative_log_likelihood", ())


@register_loss("added_metric", prediction="margin", link=None, target_domain="sign", kind_of_value="metric")
class AddedMetric(_Borrowed):
    """1 if y p <= 0, else 0: without derivatives."""

    __slots__ = ()
    kernel = "zero_one"


@register_optimizer(
    "addedoptimizer",
    parameters={"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0},
    examples=({"lr": 0.01, "betas": (0.8, 0.95)},),
)
class AddedOptimizer(Optimizer):
    """Sign of a momentum, which PyTorch has not.

    Parameters
    ----------
    params
        What to update.
    lr : float
        Step size.
    betas : (float, float)
        Decay of the update's and the state's momentum.
    weight_decay : float
        Decoupled.
    l1, max_norm, maximize, nonfinite
        As of all.
    """

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        *,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: Any = "propagate",
    ) -> None:
        super().__init__(
            params,
            "lion",
            ("momentum",),
            betas,
            lr=lr,
            options={"betas": betas},
            weight_decay=weight_decay,
            decoupled=True,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )


for name, old in {
    "added_log": reference.gamma,
    "added_flat": reference.absolute_error,
    "added_over_classes": reference.categorical_cross_entropy,
    "added_of_labels": reference.negative_log_likelihood,
    "added_metric": reference.zero_one,
    "addedoptimizer": reference.lion,
}.items():
    setattr(reference, name, old)
for added in (AddedLog, AddedFlat, AddedOverClasses, AddedOfLabels, AddedMetric):
    setattr(fp.losses, added.__name__, added)
    fp.losses.__all__.append(added.__name__)
fp.optim.AddedOptimizer = AddedOptimizer  # type: ignore[attr-defined]  # as `optim` would have it
