"""Losses as objectives of XGBoost, LightGBM and CatBoost: exact gradients, and Hessians that a booster can divide by.

::

    objective = fp.boosting.xgboost_objective(fp.losses.Huber(delta=20.0))
    booster = xgb.train({"max_depth": 4}, xgb.DMatrix(x, y, weight=w), 100, obj=objective)
    model = xgb.XGBRegressor(objective=objective).fit(x, y, sample_weight=w)

    objective = fp.boosting.lightgbm_objective("focal_with_logits")
    booster = lgb.train({"objective": objective}, lgb.Dataset(x, y))
    model = lgb.LGBMClassifier(objective=objective).fit(x, y)

    objective = fp.boosting.catboost_objective(fp.losses.PseudoHuber(delta=20.0))
    model = cb.CatBoostRegressor(loss_function=objective, eval_metric="MAE").fit(x, y)

A model predicts what the loss takes as pred: of the losses with logits raw scores (XGBoost: ``output_margin=True``), of
Poisson, Gamma and Tweedie the logarithm of the mean. Losses of probabilities, or of their logarithms, are refused: a
booster's scores are none. Labels arrive from the classifiers as numbers from 0; losses whose targets are -1 and 1 take
a label 0 for -1. The data's weights multiply gradient and Hessian, as those of the built-in objectives do; the boosters
leave that to the objective. Negative weights are refused.

**The Hessian.** A booster divides the gradient of a leaf by its Hessian: each sample asks for the step d1 / d2, and the
leaf makes the mean of these steps, weighted by d2. Far from the target the exact second derivative can be next to
nothing (Huber, PseudoHuber, LogCosh; Gamma above its target), or that of an exponential that has yet to grow (Poisson
below it): the steps then lead past any target, or no leaf has the Hessian that the booster wants. So a regression's
second derivative is max(d2, d1 / (p - p*)), where p* is the prediction at which the sample's loss is least, the target
or its logarithm: the slope of the chord of d1, from the prediction p to p*. No sample's step ends behind its own p*.
Near p* the chord and d2 are the same. Huber's chord is min(1, delta / abs(r)), the weight of iteratively reweighted
least squares; Poisson's is the logarithmic mean of e^p and y. Losses over two or more classes, whose p* is infinitely
far away, and the squared errors have their exact second derivative.

Where there is a kink at the minimum (hinge, absolute and percentage errors, quantile) there is no curvature to go by:
give `hess_floor`. With 1.0 the leaves are steps along the gradient, of a length that the learning rate says: begin near
the labels. With `hess_floor` the second derivative is max(d2, hess_floor) for every loss; 0.0 leaves it exact.

**The start.** With an objective of one's own XGBoost begins at 0.5 (`base_score`), LightGBM and CatBoost at 0, wherever
the labels are. Trees are better spent on the rest: give XGBoost ``base_score``, LightGBM's Dataset ``init_score``
(and add it to what is predicted) or CatBoost's Pool ``baseline``; the labels' median or mean, for Poisson, Gamma and
Tweedie the logarithm of their mean. `delta` and LogCosh's 1 are lengths in units of the labels: choose `delta` as large
as the noise, or scale the labels. A warning tells when the Hessians are too small for XGBoost's ``min_child_weight``
or LightGBM's ``min_sum_hessian_in_leaf``, so that nothing would be learned; scores that overflow, and labels that are
not finite, are a ValueError.

Needs none of the three libraries to be imported. Sources: Chen and Guestrin (2016), *XGBoost*; Friedman (2001), *Greedy
Function Approximation*; Huber and Ronchetti (2009), *Robust Statistics*, 7.8 (the weights).
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import losses
from fuseprop._checks import choice, real, real_array, training_weights, unmasked
from fuseprop._listing import listing
from fuseprop._typing import FloatArray

__all__ = ["catboost_objective", "lightgbm_objective", "xgboost_objective"]

__dir__ = listing(__all__)

Hessian: TypeAlias = Literal["diagonal", "upper"]
#: The target domains of losses that take labels.
_LABELS = ("labels", "classes")
#: Where to begin, by the link.
_STARTS = {
    "identity": "the labels' median",
    "log": "the logarithm of the labels' mean",
    "logit": "the labels' log-odds",
}
#: Steps of this length, on the scale of the scores, are asked for where a loss is all but straight.
_FAR = 10.0


class _Objective:
    """A loss with how its Hessian is wanted: what the three kinds of objectives share. Immutable in use, picklable."""

    #: Which sum of Hessians a leaf of the library must have, the option that says so, and the one for the first score.
    needs: ClassVar[tuple[float, str, str] | None] = None

    def __init__(self, loss: losses.Loss | str, hessian: Hessian = "diagonal", hess_floor: float | None = None) -> None:
        self.loss: losses.Loss = losses.get(loss) if isinstance(loss, str) else loss
        if not isinstance(self.loss, losses.Loss):
            raise TypeError(f"loss must be a Loss or its name, found {type(loss).__name__}")
        spec = self.loss.spec
        if not spec.per_sample:
            raise ValueError(f"loss is {self.loss!r}, which has no gradient and Hessian per sample")
        if spec.prediction in ("probability", "log_probability"):
            instead = "softmax_cross_entropy" if spec.over_classes else "binary_cross_entropy_with_logits"
            what = "probabilities" if spec.prediction == "probability" else "logarithms of probabilities"
            raise ValueError(
                f"{spec.name} takes {what}, which a booster's scores are not; expected {instead}, of scores"
            )
        self.hessian = choice(hessian, "hessian", ("diagonal", "upper"))
        if self.hessian == "upper" and not isinstance(self.loss, losses.SoftmaxCrossEntropy):
            raise ValueError(f"hessian is 'upper', which is softmax_cross_entropy's; {spec.name} has 'diagonal' alone")
        self.hess_floor = None if hess_floor is None else real(hess_floor, "hess_floor")
        if self.hess_floor is None and spec.curvature == "none":
            raise ValueError(
                f"{spec.name} has no second derivative > 0 beside its minimum, and boosters divide by it; give "
                "hess_floor, for instance 1.0"
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
        if weight is not None and weight.size == 0:
            weight = None
        if weight is not None:
            training_weights(weight, "sample_weight", pred.dtype if pred.dtype.kind == "f" else None)
        if spec.target_domain in _LABELS and target.ndim == 1:
            with np.errstate(invalid="ignore"):  # of a NaN, which is refused below
                labels = target.astype(np.int64)
            if (labels != target).any():
                first = int(np.argmax(labels != target))
                raise ValueError(f"label[{first}] is {target[first].item()!r}; {spec.name} expects whole numbers")
            target = labels
        elif not spec.over_classes and target.size == pred.size:
            target = target.reshape(pred.shape)  # of several outputs, some boosters flatten one of the two
        if spec.target_domain == "sign":
            target = np.where(target == 0, -1, target)
        extra: dict[str, Any] = {"hessian": self.hessian} if self.hessian != "diagonal" else {}
        gradient, hessian = self.loss.grad_and_hess(pred, target, weight, self.hess_floor, **extra)
        if self.hess_floor is None and spec.prediction == "value" and spec.curvature == "varying":
            self._raise_to_chord(hessian, gradient, pred, target)
        self._check_finite(gradient, hessian, pred, target)
        self._warn_if_stuck(gradient, hessian)
        return gradient, hessian

    def _raise_to_chord(
        self, hessian: FloatArray, gradient: FloatArray, pred: NDArray[Any], target: NDArray[Any]
    ) -> None:
        """Set the Hessian to max(d2, d1 / (p - p*)), in place; p* is the target or its logarithm.

        Where d1 is convex or concave between p and p*, the parabola with the larger curvature of the two is nowhere
        below the loss there, as d1's chord, or its tangent at p, bounds d1: steps go down. The logarithm of 0 is
        infinitely far, and that of a negative number (Tweedie with power <= 0) is none: there it is d2.
        """
        dtype = gradient.dtype
        optimum, least = target.astype(dtype), 0.0
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            if self.loss.spec.link == "log":
                # Nearer than this d1 is what rounding leaves of two terms; chord and d2 differ by no more.
                optimum, least = np.log(optimum), float(np.sqrt(np.finfo(dtype).eps))
            distance = np.subtract(pred, optimum, dtype=dtype)
            chord = np.divide(gradient, distance, out=np.zeros_like(hessian), where=np.abs(distance) > least)
        np.maximum(hessian, chord, out=hessian)

    def _check_finite(
        self, gradient: FloatArray, hessian: FloatArray, pred: NDArray[Any], target: NDArray[Any]
    ) -> None:
        """Refuse what would make every later tree NaN."""
        bad = ~(np.isfinite(gradient) & np.isfinite(hessian))
        if not bad.any():
            return
        wrong = ~np.isfinite(target)
        if wrong.any():
            first = tuple(map(int, np.argwhere(wrong)[0]))
            raise ValueError(f"label{list(first)} is {target[first].item()!r}; expected finite numbers")
        first = tuple(map(int, np.argwhere(bad)[0]))
        raise ValueError(
            f"pred{list(first)} is {pred[first].item():g}, at which {self.loss.spec.name} has the derivatives "
            f"{gradient[first].item():g} and {hessian[first].item():g}: the training has diverged. Begin nearer to the "
            "labels, or with a lower learning rate"
        )

    def _warn_if_stuck(self, gradient: FloatArray, hessian: FloatArray) -> None:
        """Warn if no leaf can have the Hessian that the booster wants, while there are gradients to follow.

        At the end of a training both are small, in proportion: that is no reason.
        """
        if self.needs is None:
            return
        least, option, start = self.needs
        totals = hessian.reshape(len(hessian), -1).sum(axis=0, dtype=np.float64)
        pulls = np.abs(gradient).reshape(len(gradient), -1).sum(axis=0, dtype=np.float64)
        if np.any((totals < least) & (pulls > 0) & (pulls > _FAR * totals)):
            spec = self.loss.spec
            where = _STARTS.get(spec.link or "", "scores at which the loss is curved")
            warnings.warn(
                f"{spec.name}: the second derivatives of all samples sum to less than {least:g}, with which no tree "
                f"grows unless {option} is set to less, though the first are not 0: nothing may be learned. Begin near "
                f"{where} ({start}), or set {option} lower or hess_floor higher",
                stacklevel=3,
            )


class _CallableObjective(_Objective):
    """Of XGBoost and LightGBM: a function that tells the native call from that of the scikit-learn interface."""

    def __call__(
        self, first: Any, second: Any, sample_weight: ArrayLike | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return (gradient, Hessian) for (pred, dataset), or for (y_true, y_pred[, sample_weight])."""
        names = ("y_pred", "y_true")
        if hasattr(second, "get_label"):
            names = ("pred", "label")
            pred, target, weight = first, second.get_label(), second.get_weight()
        elif hasattr(first, "get_label"):
            raise TypeError("the dataset comes second: expected (pred, dataset), or (y_true, y_pred, sample_weight)")
        else:
            pred, target, weight = second, first, sample_weight
        weights = None if weight is None else real_array(weight, "sample_weight")
        return self._grad_and_hess(real_array(pred, names[0]), real_array(target, names[1]), weights)


class XGBoostObjective(_CallableObjective):
    """What `xgboost_objective` returns."""

    needs = (1.0, "min_child_weight", "base_score")


class LightGBMObjective(_CallableObjective):
    """What `lightgbm_objective` returns."""

    needs = (1e-3, "min_sum_hessian_in_leaf", "init_score")


class CatBoostObjective(_Objective):
    """What `catboost_objective` returns: CatBoost's protocol, whose derivatives have the opposite sign."""

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> list[tuple[float, float]]:
        """Return (-gradient, -second derivative) for each sample."""
        pred, target = _float64(approxes, "approxes"), _float64(targets, "targets")
        weight = None if weights is None else _float64(weights, "weights")
        gradient, hessian = self._grad_and_hess(pred, target, weight)
        return list(zip((-gradient).tolist(), (-hessian).tolist(), strict=True))

    def calc_ders_multi(
        self, approxes: Any, target: float, weight: float | None
    ) -> tuple[list[float], list[list[float]]]:
        """Return -gradient and -Hessian, a diagonal matrix, for one sample with a number for each class."""
        pred = _float64(approxes, "approxes")[np.newaxis]
        weights = None if weight is None else np.array([weight])
        gradient, hessian = self._grad_and_hess(pred, np.array([target]), weights)
        return (-gradient[0]).tolist(), np.diag(-hessian[0]).tolist()


def _float64(values: Any, name: str) -> NDArray[np.float64]:
    """Return CatBoost's numbers, in a sequence of its own, as an array."""
    unmasked(values, name)
    return np.asarray(values, np.float64)


def xgboost_objective(
    loss: losses.Loss | str, hessian: Hessian = "diagonal", hess_floor: float | None = None
) -> XGBoostObjective:
    """Return a loss as an objective of XGBoost, for ``xgb.train(obj=...)`` and ``XGBRegressor(objective=...)`` alike.

    Called as ``objective(pred, dmatrix)`` or ``objective(y_true, y_pred, sample_weight=None)``; gives (gradient,
    Hessian) per sample, times the weights, of the shape of the predictions.

    Parameters
    ----------
    loss : Loss or str
        A loss with two derivatives: of one score per target, or over classes (with ``num_class``).
    hessian : "diagonal" or "upper"
        Of SoftmaxCrossEntropy: the Hessian's diagonal A p (1 - p), or twice that, as XGBoost's own multi:softprob has.
    hess_floor : float or None
        Takes the place of smaller second derivatives, before the weights. None: the exact one, and for regressions the
        chord's slope where that is larger; see the module's description.

    Raises
    ------
    ValueError
        If the loss is a metric, of all samples together, of other arrays than pred and target, or of probabilities; if
        it has no curvature at its minimum and there is no `hess_floor`; if `hessian` is "upper" for another loss than
        SoftmaxCrossEntropy. When called: if a weight is negative, a label not finite, or a score so far off that a
        derivative is not finite.
    TypeError
        If `loss` is neither a Loss nor a name; when called, if an array is masked, or none of numbers.

    Warns
    -----
    UserWarning
        When called, if the Hessians are too small for the booster to grow a tree, and the gradients are not.
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
