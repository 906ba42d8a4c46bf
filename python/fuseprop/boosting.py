"""Losses as objectives of XGBoost, LightGBM and CatBoost: their exact gradients and Hessians.

::

    objective = fp.boosting.xgboost_objective(fp.losses.Huber(delta=1.35), hess_floor=1e-3)
    booster = xgb.train({"max_depth": 4}, xgb.DMatrix(x, y, weight=w), obj=objective)
    model = xgb.XGBRegressor(objective=objective).fit(x, y, sample_weight=w)

    objective = fp.boosting.lightgbm_objective("focal_with_logits")
    booster = lgb.train({"objective": objective}, lgb.Dataset(x, y))
    model = lgb.LGBMClassifier(objective=objective).fit(x, y)

    model = cb.CatBoostRegressor(loss_function=fp.boosting.catboost_objective("log_cosh"), eval_metric="MAE").fit(x, y)

A model predicts what the loss takes as pred: of the losses with logits raw scores (XGBoost: ``output_margin=True``), of
Poisson, Gamma and Tweedie the logarithm of the mean. Labels arrive from the classifiers as numbers from 0; losses whose
targets are -1 and 1 take a label 0 for -1. The data's weights multiply gradient and Hessian, as those of the built-in
objectives do; the boosters leave that to the objective.

A booster divides by the Hessian. Where that is 0 (hinge, absolute error, quantile; Huber for large residuals) or
negative (focal losses for some scores), give `hess_floor`: with 1.0 the leaves are steps along the gradient.

Needs none of the three libraries to be imported. Sources: Chen and Guestrin (2016), *XGBoost*; Friedman (2001), *Greedy
Function Approximation*.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import losses
from fuseprop._checks import choice, real
from fuseprop._listing import listing
from fuseprop._registry import OVER_CLASSES
from fuseprop._typing import FloatArray

__all__ = ["catboost_objective", "lightgbm_objective", "xgboost_objective"]

__dir__ = listing(__all__)

Hessian: TypeAlias = Literal["diagonal", "upper"]
#: The target domains of losses that take labels.
_LABELS = ("labels", "classes")
#: The losses that consist of straight pieces, whatever their parameters.
_WITHOUT_CURVATURE = ("hinge", "absolute_error", "absolute_percentage_error", "quantile", "negative_log_likelihood")


class _Objective:
    """A loss with how its Hessian is wanted: what the three kinds of objectives share. Immutable in use, picklable."""

    def __init__(self, loss: losses.Loss | str, hessian: Hessian = "diagonal", hess_floor: float | None = None) -> None:
        self.loss: losses.Loss = losses.get(loss) if isinstance(loss, str) else loss
        if not isinstance(self.loss, losses.Loss):
            raise TypeError(f"loss must be a Loss or its name, found {type(loss).__name__}")
        spec = self.loss.spec
        if spec.kind_of_value != "sum" or spec.inputs != ("pred", "target"):
            raise ValueError(f"loss is {self.loss!r}, which has no gradient and Hessian per sample")
        self.over_classes = spec.target_domain in OVER_CLASSES
        self.hessian = choice(hessian, "hessian", ("diagonal", "upper"))
        if self.hessian == "upper" and not isinstance(self.loss, losses.SoftmaxCrossEntropy):
            raise ValueError(f"hessian is 'upper', which is softmax_cross_entropy's; {spec.name} has 'diagonal' alone")
        self.hess_floor = None if hess_floor is None else real(hess_floor, "hess_floor")
        if self.hess_floor is None and spec.name in _WITHOUT_CURVATURE:
            raise ValueError(
                f"{spec.name} has the second derivative 0, by which boosters divide; give hess_floor, for instance 1.0"
            )

    def __repr__(self) -> str:
        options = f", hessian={self.hessian!r}" if self.hessian != "diagonal" else ""
        options += f", hess_floor={self.hess_floor!r}" if self.hess_floor is not None else ""
        return f"{type(self).__name__}({self.loss!r}{options})"

    def _grad_and_hess(
        self, pred: NDArray[Any], target: NDArray[Any], weight: NDArray[Any] | None
    ) -> tuple[FloatArray, FloatArray]:
        """Return gradient and Hessian, of pred's shape; the targets are as a booster has them."""
        spec = self.loss.spec
        if spec.target_domain in _LABELS and target.ndim == 1:
            with np.errstate(invalid="ignore"):  # of a NaN, which is refused below
                labels = target.astype(np.int64)
            if (labels != target).any():
                first = int(np.argmax(labels != target))
                raise ValueError(f"label[{first}] is {target[first].item()!r}; {spec.name} expects whole numbers")
            target = labels
        elif not self.over_classes and target.size == pred.size:
            target = target.reshape(pred.shape)  # of several outputs, some boosters flatten one of the two
        if spec.target_domain == "sign":
            target = np.where(target == 0, -1, target)
        if weight is not None and weight.size == 0:
            weight = None
        extra: dict[str, Any] = {"hessian": self.hessian} if self.hessian != "diagonal" else {}
        return self.loss.grad_and_hess(pred, target, weight, self.hess_floor, **extra)


class _CallableObjective(_Objective):
    """Of XGBoost and LightGBM: a function that tells the native call from that of the scikit-learn interface."""

    def __call__(
        self, first: Any, second: Any, sample_weight: ArrayLike | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return (gradient, Hessian) for (pred, dataset), or for (y_true, y_pred[, sample_weight])."""
        if hasattr(second, "get_label"):
            pred, target, weight = first, second.get_label(), second.get_weight()
        elif hasattr(first, "get_label"):
            raise TypeError("the dataset comes second: expected (pred, dataset), or (y_true, y_pred, sample_weight)")
        else:
            pred, target, weight = second, first, sample_weight
        return self._grad_and_hess(np.asarray(pred), np.asarray(target), None if weight is None else np.asarray(weight))


class XGBoostObjective(_CallableObjective):
    """What `xgboost_objective` returns."""


class LightGBMObjective(_CallableObjective):
    """What `lightgbm_objective` returns."""


class CatBoostObjective(_Objective):
    """What `catboost_objective` returns: CatBoost's protocol, whose derivatives have the opposite sign."""

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> list[tuple[float, float]]:
        """Return (-gradient, -second derivative) for each sample."""
        weight = None if weights is None else np.asarray(weights, np.float64)
        pred, target = np.asarray(approxes, np.float64), np.asarray(targets, np.float64)
        gradient, hessian = self._grad_and_hess(pred, target, weight)
        return list(zip((-gradient).tolist(), (-hessian).tolist(), strict=True))

    def calc_ders_multi(
        self, approxes: Any, target: float, weight: float | None
    ) -> tuple[list[float], list[list[float]]]:
        """Return -gradient and -Hessian, a diagonal matrix, for one sample with a number for each class."""
        pred = np.asarray(approxes, np.float64)[np.newaxis]
        weights = None if weight is None else np.array([weight])
        gradient, hessian = self._grad_and_hess(pred, np.array([target]), weights)
        return (-gradient[0]).tolist(), np.diag(-hessian[0]).tolist()


def xgboost_objective(
    loss: losses.Loss | str, hessian: Hessian = "diagonal", hess_floor: float | None = None
) -> XGBoostObjective:
    """Return a loss as an objective of XGBoost, for ``xgb.train(obj=...)`` and ``XGBRegressor(objective=...)`` alike.

    Called as ``objective(pred, dmatrix)`` or ``objective(y_true, y_pred, sample_weight=None)``; gives (gradient,
    Hessian) per sample, times the weights, of the shape of the predictions.

    Parameters
    ----------
    loss : Loss or str
        A loss with two derivatives: of one prediction per target, or over classes (with ``num_class``).
    hessian : "diagonal" or "upper"
        Of SoftmaxCrossEntropy: the Hessian's diagonal A p (1 - p), or twice that, as XGBoost's own multi:softprob has.
    hess_floor : float or None
        Takes the place of smaller second derivatives, before the weights.

    Raises
    ------
    ValueError
        If the loss is a metric, of all samples together, or of other arrays than pred and target; if its second
        derivative is 0 and there is no `hess_floor`; if `hessian` is "upper" for another loss than SoftmaxCrossEntropy.
    TypeError
        If `loss` is neither a Loss nor a name.
    """
    return XGBoostObjective(loss, hessian, hess_floor)


def lightgbm_objective(
    loss: losses.Loss | str, hessian: Hessian = "diagonal", hess_floor: float | None = None
) -> LightGBMObjective:
    """Return a loss as an objective of LightGBM, for ``params={"objective": ...}`` and ``LGBMRegressor`` alike.

    Called as ``objective(pred, dataset)`` or ``objective(y_true, y_pred, weight)``. Parameters and errors as for
    `xgboost_objective`. LightGBM's own multiclass objective has C / (C - 1) p (1 - p) for a Hessian: between "diagonal"
    and "upper", and equal to the latter for two classes. LightGBM 4 or newer.
    """
    return LightGBMObjective(loss, hessian, hess_floor)


def catboost_objective(
    loss: losses.Loss | str, hessian: Hessian = "diagonal", hess_floor: float | None = None
) -> CatBoostObjective:
    """Return a loss as an objective of CatBoost: an object with `calc_ders_range` and `calc_ders_multi`.

    Parameters and errors as for `xgboost_objective`. CatBoost wants an ``eval_metric`` beside an objective of one's
    own, and calls it once for each sample of a loss over classes, which is slow.
    """
    return CatBoostObjective(loss, hessian, hess_floor)
