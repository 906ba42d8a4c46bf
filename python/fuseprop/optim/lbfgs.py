"""L-BFGS through SciPy, over all parameters as one vector."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseprop._checks import integer, real, unmasked
from fuseprop.optim.arrays import Arrays, Structure, check_apart, describe


def lbfgs(
    params: Arrays,
    value_and_grad: Callable[[], Any],
    *,
    max_iter: int = 15000,
    max_evaluations: int = 15000,
    history_size: int = 10,
    tolerance_grad: float = 1e-5,
    tolerance_change: float = 2.220446049250313e-9,
) -> Any:
    """Minimise a function of the parameters by L-BFGS, for full batches: `scipy.optimize.minimize` does the work.

    Parameters
    ----------
    params
        A model, an array, a list or a dict of arrays; set in place, and at the end to the best point found.
    value_and_grad
        Called without arguments when the parameters have been set. Returns the value to minimise and its gradients,
        arranged as `params` is; for a model the value alone will do, with the gradients in the model.
    max_iter : int
        Most iterations, > 0.
    max_evaluations : int
        After how many calls no further iteration begins, > 0. The line search of one is finished: there may be some
        calls more.
    history_size : int
        How many steps the curvature is estimated from, > 0.
    tolerance_grad, tolerance_change : float
        SciPy's gtol (largest entry of the gradient) and ftol (relative change of the value), >= 0.

    Returns
    -------
    scipy.optimize.OptimizeResult
        Among others `fun` (the value), `nit`, `nfev`, `success` and `message`; `x` is the vector.

    Raises
    ------
    ImportError
        Without SciPy.
    TypeError, ValueError
        If an argument is refused, or `value_and_grad` returns gradients of another arrangement, shape or dtype. An
        error in `value_and_grad`, too, leaves the parameters as they were before the call.

    Notes
    -----
    `torch.optim.LBFGS` is another implementation, whose steps differ: it has no line search by default. SciPy works in
    float64; float32 parameters round each point it asks for, which ends the search early near the minimum. Source: Liu
    and Nocedal 1989; Zhu et al. 1997 (algorithm 778).
    """
    from scipy.optimize import minimize  # noqa: PLC0415  # not needed to import the package

    options = {
        "maxiter": integer(max_iter, "max_iter", least=1),
        "maxfun": integer(max_evaluations, "max_evaluations", least=1),
        "maxcor": integer(history_size, "history_size", least=1),
        "gtol": real(tolerance_grad, "tolerance_grad", least=0.0),
        "ftol": real(tolerance_change, "tolerance_change", least=0.0),
    }
    structure = Structure(params, "params")
    arrays = structure.arrays
    check_apart(arrays, structure.names)
    for array, name in zip(arrays, structure.names, strict=True):
        unmasked(array, name)
    ends = np.cumsum([array.size for array in arrays])

    def flattened(parts: Any) -> NDArray[np.float64]:
        return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])

    def assign(x: NDArray[np.float64]) -> None:
        for array, part in zip(arrays, np.split(x, ends[:-1]), strict=True):
            array[...] = part.reshape(array.shape)

    def objective(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        assign(x)
        found = value_and_grad()
        structure.check_bound()
        if isinstance(found, tuple):
            if len(found) != 2:
                raise TypeError(f"value_and_grad returned {describe(found)}; expected (value, gradients)")
            value, grads = found
            parts = structure.match(grads, "the gradients of value_and_grad")
        else:
            value, linked = found, structure.gradients()
            if linked is None:
                raise TypeError(
                    f"value_and_grad returned {describe(found)}; expected the value and the gradients, as params is "
                    "neither a model nor made of a model's parameters"
                )
            parts = linked
        structure.check(parts, "the gradients of value_and_grad")
        for part, place in zip(parts, structure.places, strict=True):
            unmasked(part, f"the gradients of value_and_grad{place}")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"value_and_grad returned {describe(value)} as the value; expected a number") from None
        return number, flattened(parts)

    start = flattened(arrays)
    try:
        result = minimize(objective, start, method="L-BFGS-B", jac=True, options=options)
    except BaseException:
        with suppress(ValueError):  # arrays that are not what they were have nothing to come back to
            structure.check_bound()
            assign(start)
        raise
    assign(result.x)
    return result
