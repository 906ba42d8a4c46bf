"""The optimizers: for each its formula, its defaults, and how it differs from PyTorch's.

To add one: the class with its Spec here, the functor and its row in csrc/kernels/optim/optimizers.cpp, and the formula
in reference.py. Tests, benchmarks and the table of errors follow the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuseprop._checks import flag, real
from fuseprop._registry import register_optimizer
from fuseprop.optim.arrays import Params
from fuseprop.optim.optimizer import NonFinite, Optimizer, Shared

# What is below half a unit of 1 does not change 1 - x.
_NO_SHARE = 2.0**-60


def _pair(betas: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas is {betas!r}; expected a pair of numbers")
    return real(betas[0], "betas[0]", least=0.0, below=1.0), real(betas[1], "betas[1]", least=0.0, below=1.0)


@register_optimizer(
    "sgd",
    parameters={"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
    examples=(
        {"lr": 0.1, "weight_decay": 0.3},
        {"lr": 0.05, "momentum": 0.9},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01},
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    ),
)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    ::

        u = g at the first step, then u = momentum u + (1 - dampening) g
        p -= lr u                       without nesterov
        p -= lr (g + momentum u)        with nesterov

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    momentum : float
        In [0, 1]. At 0 no state is kept.
    dampening : float
        In [0, 1].
    nesterov : bool
        Whether to look ahead; needs momentum > 0 and dampening = 0.
    weight_decay : float
        L2 factor, >= 0: weight_decay p is added to the gradient, behind the clipping.
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range, a parameter is not a C-contiguous, writeable array of float32 or
        float64, or two of them share memory.

    Notes
    -----
    Step by step equal to `torch.optim.SGD`. Source: Polyak 1964; Sutskever et al. 2013: their look-ahead form
    is this one written for q = p + momentum v, where v = -lr u is their velocity.
    """

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        momentum = real(momentum, "momentum", least=0.0, most=1.0)
        dampening = real(dampening, "dampening", least=0.0, most=1.0)
        if flag(nesterov, "nesterov") and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, found momentum={momentum!r} and "
                f"dampening={dampening!r}"
            )
        rule, states = ("sgd_momentum", ("velocity",)) if momentum else ("sgd", ())
        numbers = (momentum, 1.0 - dampening, float(nesterov)) if momentum else ()
        options = {"momentum": momentum, "dampening": dampening, "nesterov": bool(nesterov)}
        super().__init__(
            params,
            rule,
            states,
            numbers,
            lr=lr,
            options=options,
            weight_decay=weight_decay,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )

    def _numbers(self, step: int) -> tuple[float, ...]:
        numbers = self._constants
        return (numbers[0], 1.0, numbers[2]) if step == 1 and numbers else numbers


@register_optimizer(
    "adagrad",
    parameters={
        "lr": 0.01,
        "eps": 1e-10,
        "eps_root": 0.0,
        "initial_accumulator_value": 0.0,
        "weight_decay": 0.0,
    },
    examples=(
        {"lr": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "eps": 0.0, "eps_root": 1e-2},
    ),
)
class Adagrad(Optimizer):
    """Adagrad: steps scaled by all squares of the gradient so far.

    ::

        v += g^2, from v = initial_accumulator_value
        p -= lr g / (sqrt(v + eps_root) + eps)

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    eps, eps_root : float
        Added outside and inside of the root, >= 0.
    initial_accumulator_value : float
        What v is before the first step, >= 0.
    weight_decay : float
        L2 factor, >= 0: weight_decay p is added to the gradient, behind the clipping.
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.

    Notes
    -----
    Step by step equal to `torch.optim.Adagrad`, which has no `eps_root`. Its `lr_decay` d is the rate
    lr / (1 + d step), for which any function of the step will do here: `optimizer.lr = lr / (1 + d * step)`. Source:
    Duchi et al. 2011.
    """

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        eps: float = 1e-10,
        *,
        eps_root: float = 0.0,
        initial_accumulator_value: float = 0.0,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        start = real(initial_accumulator_value, "initial_accumulator_value", least=0.0)
        options = {"eps": real(eps, "eps", least=0.0), "eps_root": real(eps_root, "eps_root", least=0.0)}
        super().__init__(
            params,
            "adagrad",
            ("sum_of_squares",),
            tuple(options.values()),
            lr=lr,
            options={**options, "initial_accumulator_value": start},
            weight_decay=weight_decay,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )
        for group in self.groups:
            for (sums,) in group._states:
                sums.fill(start)


@register_optimizer(
    "rmsprop",
    parameters={
        "lr": 0.01,
        "alpha": 0.99,
        "eps": 1e-8,
        "eps_root": 0.0,
        "momentum": 0.0,
        "centered": False,
        "weight_decay": 0.0,
    },
    examples=(
        {"lr": 0.02, "alpha": 0.9, "weight_decay": 0.1},
        {"lr": 0.02, "eps": 0.0, "eps_root": 1e-4},
        {"momentum": 0.9},
        {"alpha": 0.95, "centered": True},
        {"alpha": 0.95, "momentum": 0.8, "centered": True, "weight_decay": 0.01},
    ),
)
class RMSprop(Optimizer):
    """RMSprop: steps scaled by a running mean of the gradient's square.

    ::

        v = alpha v + (1 - alpha) g^2
        c = v, or centered: max(v - mean^2, 0) with mean = alpha mean + (1 - alpha) g
        u = g / (sqrt(c + eps_root) + eps)
        p -= lr u, or with momentum: p -= lr buffer with buffer = momentum buffer + u

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    alpha : float
        The share of the running means that is kept, in [0, 1).
    eps, eps_root : float
        Added outside and inside of the root, >= 0.
    momentum : float
        In [0, 1].
    centered : bool
        Whether to divide by the gradient's deviation from its mean, its estimated variance.
    weight_decay : float
        L2 factor, >= 0: weight_decay p is added to the gradient, behind the clipping.
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.

    Notes
    -----
    Step by step equal to `torch.optim.RMSprop`, which has no `eps_root` and where a difference v - mean^2 that
    rounding made negative gives NaN. TensorFlow's puts epsilon inside of the root. Source: Hinton's lecture 6e,
    2012; centered: Graves 2013 (arXiv:1308.0850).
    """

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        *,
        eps_root: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        options = {
            "alpha": real(alpha, "alpha", least=0.0, below=1.0),
            "eps": real(eps, "eps", least=0.0),
            "eps_root": real(eps_root, "eps_root", least=0.0),
            "momentum": real(momentum, "momentum", least=0.0, most=1.0),
        }
        rule = "rmsprop"
        states: tuple[str, ...] = ("mean_square",)
        if flag(centered, "centered"):
            rule, states = rule + "_centered", (*states, "mean")
        if momentum:
            rule, states = rule + "_momentum", (*states, "buffer")
        super().__init__(
            params,
            rule,
            states,
            tuple(options.values()),
            lr=lr,
            options={**options, "centered": bool(centered)},
            weight_decay=weight_decay,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )


class _Adam(Optimizer):
    """What Adam and its relatives share: two running means and the correction of their start at zero."""

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        rule: str,
        betas: tuple[float, float],
        eps: float,
        eps_root: float,
        *,
        amsgrad: bool | None = None,
        options: Mapping[str, Any] | None = None,
        lr: float,
        weight_decay: float,
        decoupled: bool = False,
        shared: Shared,
    ) -> None:
        betas, eps = _pair(betas), real(eps, "eps", least=0.0)
        eps_root = real(eps_root, "eps_root", least=0.0)
        states: tuple[str, ...] = ("first_moment", "second_moment")
        found = {"betas": betas, "eps": eps, "eps_root": eps_root, **(options or {})}
        if amsgrad is not None:
            found["amsgrad"] = flag(amsgrad, "amsgrad")
        if amsgrad:
            rule, states = rule + "_amsgrad", (*states, "largest_second_moment")
        numbers = (*betas, eps, eps_root)
        super().__init__(
            params,
            rule,
            states,
            numbers,
            lr=lr,
            options=found,
            weight_decay=weight_decay,
            decoupled=decoupled,
            shared=shared,
        )

    def _numbers(self, step: int) -> tuple[float, ...]:
        beta1, beta2, eps, eps_root = self._constants
        return (beta1, beta2, 1.0 - beta2**step, eps, eps_root, 1.0 - beta1**step)


@register_optimizer(
    "adam",
    parameters={
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "eps_root": 0.0,
        "amsgrad": False,
        "weight_decay": 0.0,
    },
    examples=(
        {"lr": 0.02, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.02, "betas": (0.0, 0.5)},
        {"lr": 0.02, "betas": (0.7, 0.6), "amsgrad": True, "weight_decay": 0.01},
        {"lr": 0.02, "eps": 0.0, "eps_root": 1e-4},
    ),
)
class Adam(_Adam):
    """Adam: steps scaled by running means of the gradient and of its square.

    ::

        m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
        c = v, or with amsgrad: c = max(c, v)
        p -= lr (m / (1 - beta1^t)) / (sqrt(c / (1 - beta2^t) + eps_root) + eps)

    at the t-th step, counted from 1.

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    betas : (float, float)
        The shares of the running means that are kept; both in [0, 1).
    eps, eps_root : float
        Added outside and inside of the root, >= 0.
    amsgrad : bool
        Whether to divide by the largest v so far.
    weight_decay : float
        L2 factor, >= 0: weight_decay p is added to the gradient, behind the clipping. `AdamW` has it decoupled.
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.

    Notes
    -----
    Step by step equal to `torch.optim.Adam`, which has no `eps_root` (optax's). Source: Kingma and Ba 2015
    (arXiv:1412.6980), algorithm 1; amsgrad: Reddi et al. 2018, with the bias correction that PyTorch has and the
    paper has not.
    """

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        eps_root: float = 0.0,
        amsgrad: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        super().__init__(
            params,
            "adam",
            betas,
            eps,
            eps_root,
            amsgrad=amsgrad,
            lr=lr,
            weight_decay=weight_decay,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )


@register_optimizer(
    "adamw",
    parameters={
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "eps_root": 0.0,
        "amsgrad": False,
        "weight_decay": 0.01,
    },
    examples=(
        {"lr": 0.02, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.5},
        {"lr": 0.02, "betas": (0.7, 0.6), "amsgrad": True},
        {"lr": 0.02, "eps": 0.0, "eps_root": 1e-4, "weight_decay": 0.0},
    ),
)
class AdamW(_Adam):
    """Adam with decoupled weight decay.

    ::

        p -= lr weight_decay p, and then Adam's step, whose gradient knows nothing of the decay

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    betas : (float, float)
        The shares of the running means that are kept; both in [0, 1).
    eps, eps_root : float
        Added outside and inside of the root, >= 0.
    amsgrad : bool
        Whether to divide by the largest v so far.
    weight_decay : float
        >= 0: the share of p, times lr, that each step takes away.
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.

    Notes
    -----
    Step by step equal to `torch.optim.AdamW`, which has no `eps_root`. The default decay is PyTorch's; optax's is
    1e-4. Source: Loshchilov and Hutter 2019 (arXiv:1711.05101).
    """

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        eps_root: float = 0.0,
        amsgrad: bool = False,
        weight_decay: float = 0.01,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        super().__init__(
            params,
            "adam",
            betas,
            eps,
            eps_root,
            amsgrad=amsgrad,
            lr=lr,
            weight_decay=weight_decay,
            decoupled=True,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )


@register_optimizer(
    "nadam",
    parameters={
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "eps_root": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        "weight_decay": 0.0,
    },
    examples=(
        {"lr": 0.02, "betas": (0.7, 0.9), "momentum_decay": 0.1, "weight_decay": 0.1},
        {"lr": 0.02, "decoupled_weight_decay": True, "weight_decay": 0.3},
        {"lr": 0.02, "eps": 0.0, "eps_root": 1e-4},
    ),
)
class NAdam(_Adam):
    """Adam with Nesterov's look-ahead.

    ::

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2)        M(t) = mu(1) mu(2) ... mu(t)
        p -= lr ((1 - mu(t)) g / (1 - M(t)) + mu(t + 1) m / (1 - M(t + 1))) / den

    with m, v and den = sqrt(v / (1 - beta2^t) + eps_root) + eps as in `Adam`, at the t-th step, counted from 1.

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    betas : (float, float)
        The shares of the running means that are kept; both in [0, 1).
    eps, eps_root : float
        Added outside and inside of the root, >= 0.
    momentum_decay : float
        >= 0.
    decoupled_weight_decay : bool
        Whether the decay is that of `AdamW`.
    weight_decay : float
        L2 factor, >= 0: weight_decay p is added to the gradient, behind the clipping.
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.

    Notes
    -----
    Step by step equal to `torch.optim.NAdam`, which has no `eps_root` and keeps M in float32 unless the default
    dtype is float64. Source: Dozat 2016.
    """

    __slots__ = ("_product",)

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        eps_root: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        decoupled = flag(decoupled_weight_decay, "decoupled_weight_decay")
        decay = real(momentum_decay, "momentum_decay", least=0.0)
        #: A number of steps, and the product over them.
        self._product = 0, 1.0
        super().__init__(
            params,
            "nadam",
            betas,
            eps,
            eps_root,
            options={"momentum_decay": decay, "decoupled_weight_decay": decoupled},
            lr=lr,
            weight_decay=weight_decay,
            decoupled=decoupled,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )

    def _mu(self, step: int) -> float:
        decay: float = self._parameters["momentum_decay"]
        share: float = 0.96 ** (step * decay)
        return self._constants[0] * (1.0 - 0.5 * share)

    def _numbers(self, step: int) -> tuple[float, ...]:
        # The product over the steps before this one; it follows from their number, so it is no part of the state.
        done, product = self._product
        if step <= done:  # the step count went back: another state was loaded
            done, product = 0, 1.0
        while done < step - 1 and product > _NO_SHARE:
            done += 1
            product *= self._mu(done)
        self._product = done, product  # at once: an interrupt leaves a number of steps with its product
        mu, mu_next = self._mu(step), self._mu(step + 1)
        product *= mu
        of_gradient, of_moment = (1.0 - mu) / (1.0 - product), mu_next / (1.0 - product * mu_next)
        return (*super()._numbers(step)[:5], of_gradient, of_moment)


@register_optimizer(
    "adadelta",
    parameters={"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0},
    examples=({"lr": 0.5, "rho": 0.6, "eps": 1e-3, "weight_decay": 0.1},),
)
class Adadelta(Optimizer):
    """Adadelta: steps of the size of the steps so far.

    ::

        v = rho v + (1 - rho) g^2
        u = sqrt(w + eps) / sqrt(v + eps) g
        w = rho w + (1 - rho) u^2
        p -= lr u

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    rho : float
        The share of the running means that is kept, in [0, 1).
    eps : float
        Added inside of both roots, >= 0; it sets the size of the first steps.
    weight_decay : float
        L2 factor, >= 0: weight_decay p is added to the gradient, behind the clipping.
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.

    Notes
    -----
    Step by step equal to `torch.optim.Adadelta`. Source: Zeiler 2012 (arXiv:1212.5701), which has lr = 1.
    """

    __slots__ = ()

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        *,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        options = {"rho": real(rho, "rho", least=0.0, below=1.0), "eps": real(eps, "eps", least=0.0)}
        super().__init__(
            params,
            "adadelta",
            ("mean_square", "mean_square_step"),
            tuple(options.values()),
            lr=lr,
            options=options,
            weight_decay=weight_decay,
            shared=Shared(l1, max_norm, maximize, nonfinite),
        )


@register_optimizer(
    "lion",
    parameters={"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0},
    examples=({"lr": 0.02, "betas": (0.6, 0.8), "weight_decay": 0.3},),
)
class Lion(Optimizer):
    """Lion: steps of one size, in the direction of a sign.

    ::

        p -= lr weight_decay p
        p -= lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    with sign(0) = 0; NaN stays NaN.

    Parameters
    ----------
    params
        What to update; see the head of `fuseprop.optim`.
    lr : float
        Step size, >= 0.
    betas : (float, float)
        The share of m in the step, and the one that is kept of it; both in [0, 1).
    weight_decay : float
        >= 0: the share of p, times lr, that each step takes away (decoupled).
    l1 : float
        L1 factor, >= 0: l1 sign(p) is added to the gradient, behind the clipping.
    max_norm : float or None
        The largest norm of all gradients together, > 0; longer ones are scaled down to it.
    maximize : bool
        Whether to go up the gradient.
    nonfinite : {"propagate", "skip", "raise"}
        What is done about gradients that are NaN or infinite: used as they are, the step is left out, an error.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.

    Notes
    -----
    PyTorch has none; optax's `lion` is the same, with a default weight_decay of 1e-3. Source: Chen et al. 2023
    (arXiv:2302.06675), algorithm 2.
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
        nonfinite: NonFinite = "propagate",
    ) -> None:
        betas = _pair(betas)
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
