"""Optimizers: in place, one pass over memory per step, however many arrays there are.

`params` says what an optimizer updates, and `step(grads)` takes the gradients in the same form:

- a model (anything with `flat_parameters` and `flat_gradients`): `step()` reads the model's own gradients;
- one array, a list of arrays, or a dict of arrays;
- a list of groups `{"params": ..., "lr": ..., "weight_decay": ...}`, where "params" is any of the above and
  the other two are optional: a group without its own "lr" follows `optimizer.lr`.

Arrays that are views of a model's parameters know their gradients, too: `step()` without argument serves
`Adam(model.flat_parameters)` and `SGD([model.parameters()["0.weight"]])` alike.

What all optimizers share, in this order:

1. `max_norm`: if the norm of all gradients together, n = sqrt(sum g^2), exceeds it, g is multiplied by
   max_norm / n. This costs one further read of the gradients.
2. `maximize`: g is negated.
3. `weight_decay`: g + weight_decay p, the gradient of weight_decay/2 sum p^2, takes the place of g.
4. The rule of the optimizer.

Non-finite gradients propagate into the parameters they belong to. With `max_norm`, one NaN makes the norm
and so every parameter NaN; one infinity makes the norm infinite, so that this entry becomes NaN and the
gradient of the others 0: what PyTorch's `clip_grad_norm_` does. PyTorch multiplies by max_norm / (n +
1e-6), we by max_norm / n: the norm behind it is max_norm itself.

A step that is refused (a gradient of another shape or dtype than its parameter) changes nothing.
"""

from __future__ import annotations

import difflib
import itertools
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fuseprop import _core
from fuseprop._checks import integer, real
from fuseprop._memory import aligned_zeros, gradient_of

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

__all__ = ["SGD", "Adam", "Optimizer", "clip_grad_norm", "clip_grad_value", "get", "names"]


@runtime_checkable
class Model(Protocol):
    """What an optimizer needs of a model: all parameters in one array and their gradients in another."""

    @property
    def flat_parameters(self) -> FloatArray:
        """The parameters; one array for the model's whole life."""

    @property
    def flat_gradients(self) -> FloatArray:
        """The gradients, in the same order; one array for the model's whole life."""


Arrays: TypeAlias = "Model | FloatArray | Sequence[FloatArray] | Mapping[str, FloatArray]"


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {list(value)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}"


class _Structure:
    """How the arrays of `params` are arranged; finds the gradients in an equal arrangement."""

    __slots__ = ("_model", "_places", "arrays", "keys", "names")

    def __init__(self, params: Arrays, name: str) -> None:
        self._model: Model | None = None
        self.keys: list[str] | int | None = None
        if isinstance(params, np.ndarray):
            self.arrays, self._places = [params], [""]
        elif isinstance(params, Mapping):
            self.keys = list(params)
            self.arrays, self._places = list(params.values()), [f"[{key!r}]" for key in self.keys]
        elif isinstance(params, list | tuple):
            self.keys = len(params)
            self.arrays, self._places = list(params), [f"[{i}]" for i in range(len(params))]
        elif isinstance(params, Model):
            self._model = params
            self.arrays, self._places = [params.flat_parameters], [""]
        else:
            raise TypeError(
                f"{name} must be a model, an array, a list or a dict of arrays, or a list of groups, "
                f"found {_describe(params)}"
            )
        self.names = [name + place for place in self._places]
        for array, array_name in zip(self.arrays, self.names, strict=True):
            _check_parameter(array, array_name)

    def gradients(self) -> list[FloatArray] | None:
        """Return the gradients that a model keeps for these parameters, or None if they are no model's."""
        if self._model is not None:
            return [self._model.flat_gradients]
        found = [gradient_of(array) for array in self.arrays]
        known = [gradient for gradient in found if gradient is not None]
        return known if len(known) == len(found) else None

    def match(self, grads: Any, name: str) -> Sequence[FloatArray]:
        """Return the arrays of `grads` in the order of the parameters; checks the arrangement alone."""
        keys = self.keys
        if keys is None:
            if isinstance(grads, np.ndarray):
                return (grads,)
            if isinstance(grads, Model):
                return (grads.flat_gradients,)
            expected = "one array, as params is"
        elif isinstance(keys, int):
            if isinstance(grads, list | tuple) and len(grads) == keys:
                return grads
            expected = f"a list of {keys} arrays, as params is"
        else:
            if isinstance(grads, Mapping) and grads.keys() == set(keys):
                return [grads[key] for key in keys]
            expected = f"a dict with the keys {keys}, as params is"
        raise ValueError(f"{name} is {_describe(grads)}; expected {expected}")

    def check(self, grads: Sequence[FloatArray], name: str) -> None:
        """Check each gradient against its parameter."""
        for parameter, place, grad in zip(self.arrays, self._places, grads, strict=True):
            grad_name = name + place
            if not isinstance(grad, np.ndarray):
                raise TypeError(f"{grad_name} must be a NumPy array, found {_describe(grad)}")
            if grad.dtype != parameter.dtype:
                raise TypeError(
                    f"{grad_name} has dtype {grad.dtype}; expected its parameter's, {parameter.dtype}: "
                    f"cast it with .astype(np.{parameter.dtype})"
                )
            if grad.shape != parameter.shape:
                raise ValueError(f"{grad_name} has shape {grad.shape}; expected its parameter's, {parameter.shape}")


def _check_parameter(array: object, name: str) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, found {_describe(array)}")
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} has dtype {array.dtype}; expected float32 or float64")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        raise ValueError(
            f"{name} has shape {array.shape} and strides {array.strides}; it is updated in place and must be "
            "C-contiguous and aligned"
        )
    if not flags.writeable:
        raise ValueError(f"{name} is read-only; it is updated in place")


def _check_apart(arrays: Sequence[FloatArray], names: Sequence[str]) -> None:
    """Check that no two share memory: contiguous arrays do only if two neighbours do."""
    if not arrays:
        raise ValueError("params is empty; expected at least one array")
    begins = [array.ctypes.data for array in arrays]
    spans = sorted((at, at + a.nbytes, name) for at, a, name in zip(begins, arrays, names, strict=True) if a.nbytes)
    for (_, end, name), (start, stop, other) in itertools.pairwise(spans):
        if start < min(end, stop):
            raise ValueError(f"{name} and {other} share memory; each parameter must be its own")


class Group:
    """Parameters with a learning rate and a weight decay of their own: an entry of `optimizer.groups`."""

    __slots__ = ("_linked", "_lr", "_own_lr", "_states", "_structure", "_updater", "_weight_decay")

    _states: list[tuple[FloatArray, ...]]
    _updater: _core.Updater
    _linked: list[FloatArray] | None

    def __init__(self, structure: _Structure, lr: float, own_lr: bool, weight_decay: float) -> None:
        self._structure = structure
        self._lr = lr
        self._own_lr = own_lr
        self._weight_decay = weight_decay

    def _bind(self, rule: str, num_states: int) -> None:
        """Allocate the states, bind the core's update to the arrays, find a model's gradients."""
        parameters = self._structure.arrays
        self._states = [tuple(aligned_zeros(p.shape, p.dtype) for _ in range(num_states)) for p in parameters]
        self._updater = _core.Updater(rule, parameters, self._states)
        self._linked = self._structure.gradients()

    def __repr__(self) -> str:
        return f"Group({len(self.params)} arrays, lr={self._lr:g}, weight_decay={self._weight_decay:g})"

    @property
    def params(self) -> list[FloatArray]:
        """The arrays that are updated."""
        return list(self._structure.arrays)

    @property
    def lr(self) -> float:
        """The group's step size; once it is set, it no longer follows the optimizer's."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = real(value, "lr", least=0.0)
        self._own_lr = True

    @property
    def weight_decay(self) -> float:
        """The group's L2 factor."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = real(value, "weight_decay", least=0.0)


class Optimizer:
    """Base of the optimizers: what they share is described at the head of this module.

    A subclass names its rule in the core's table and its state arrays, and gives the rule's numbers.
    """

    __slots__ = ("_lock", "_lr", "_max_norm", "_only", "_sign", "_state_names", "_steps", "groups")

    #: The public hyper-parameters besides those of the groups, in the order of the constructor.
    _options: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        params: Arrays | Sequence[Mapping[str, Any]],
        rule: str,
        state_names: tuple[str, ...],
        *,
        lr: float,
        weight_decay: float,
        max_norm: float | None,
        maximize: bool,
    ) -> None:
        self._lr = real(lr, "lr", least=0.0)
        weight_decay = real(weight_decay, "weight_decay", least=0.0)
        self._max_norm = None if max_norm is None else real(max_norm, "max_norm", above=0.0)
        self._sign = -1.0 if maximize else 1.0
        self._steps = 0
        self._lock = threading.Lock()
        self.groups = self._make_groups(params, weight_decay)
        # Without groups given there is one; its gradients come as they are, not in a list.
        self._only = None if _is_groups(params) else self.groups[0]
        structures = [group._structure for group in self.groups]
        _check_apart([a for s in structures for a in s.arrays], [n for s in structures for n in s.names])
        self._state_names = state_names
        for group in self.groups:
            group._bind(rule, len(state_names))

    def _make_groups(self, params: Arrays | Sequence[Mapping[str, Any]], weight_decay: float) -> tuple[Group, ...]:
        if not _is_groups(params):
            return (Group(_Structure(params, "params"), self._lr, False, weight_decay),)  # type: ignore[arg-type]
        groups = []
        for i, given in enumerate(params):  # type: ignore[arg-type]
            unknown = set(given) - {"params", "lr", "weight_decay"}
            if unknown or "params" not in given:
                raise ValueError(
                    f"params[{i}] has the keys {list(given)}; expected a group with 'params' and, if wanted, "
                    "'lr' and 'weight_decay'"
                )
            lr = real(given.get("lr", self._lr), f"params[{i}]['lr']", least=0.0)
            decay = real(given.get("weight_decay", weight_decay), f"params[{i}]['weight_decay']", least=0.0)
            structure = _Structure(given["params"], f"params[{i}]['params']")
            groups.append(Group(structure, lr, "lr" in given, decay))
        return tuple(groups)

    def _hyper(self, group: Group, step: int) -> tuple[float, ...]:
        """Return the rule's numbers for the step that is the `step`-th, counted from 1."""
        raise NotImplementedError

    def __repr__(self) -> str:
        options = "".join(f", {name}={getattr(self, name)!r}" for name in self._options)
        size = sum(array.size for group in self.groups for array in group._structure.arrays)
        return f"{type(self).__name__}({size} parameters, lr={self._lr:g}{options})"

    # --- hyper-parameters -----------------------------------------------------------------------------------

    @property
    def lr(self) -> float:
        """The step size of every group that has no own one; may be set between steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = real(value, "lr", least=0.0)
        for group in self.groups:
            if not group._own_lr:
                group._lr = self._lr

    @property
    def max_norm(self) -> float | None:
        """The largest norm of all gradients together, or None."""
        return self._max_norm

    @property
    def maximize(self) -> bool:
        """Whether steps go up the gradient."""
        return self._sign < 0

    @property
    def steps(self) -> int:
        """The number of steps taken."""
        return self._steps

    # --- steps ----------------------------------------------------------------------------------------------

    def step(self, grads: Any = None) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads
            The gradients, arranged as `params` is (for groups: a list with one entry per group); each has its
            parameter's shape and dtype. None: the gradients of the model whose parameters these are.

        Raises
        ------
        TypeError
            If `grads` is None and the parameters are not a model's, or a gradient has another dtype.
        ValueError
            If the arrangement or a shape differs. Nothing has changed then.
        """
        group = self._only
        if group is None:
            self._step_groups(grads)
            return
        arrays = group._linked if grads is None else group._structure.match(grads, "grads")
        if arrays is None:
            raise TypeError(_NO_GRADS)
        step = self._steps + 1
        hyper = self._hyper(group, step)
        try:
            scale = self._sign
            if self._max_norm is not None:
                scale *= _clip_scale(group._updater.global_norm(arrays), self._max_norm)
            # Counted before: an interrupt is delivered behind the call, when the step is complete.
            self._steps = step
            group._updater.step(arrays, scale, hyper)
        except Exception:
            self._steps = step - 1
            group._structure.check(arrays, "grads")  # says it with the user's names
            raise

    def _step_groups(self, grads: Any) -> None:
        groups = self.groups
        if grads is None:
            arrays: list[Any] = [group._linked for group in groups]
            if any(linked is None for linked in arrays):
                raise TypeError(_NO_GRADS)
        else:
            if not isinstance(grads, list | tuple) or len(grads) != len(groups):
                raise ValueError(
                    f"grads is {_describe(grads)}; expected a list of {len(groups)}, one entry for each group"
                )
            arrays = [
                group._structure.match(entry, f"grads[{i}]")
                for i, (group, entry) in enumerate(zip(groups, grads, strict=True))
            ]
        for i, (group, entry) in enumerate(zip(groups, arrays, strict=True)):
            group._structure.check(entry, f"grads[{i}]")
        # What could still fail in a later group is done before the first one is updated: copies of strided gradients,
        # and the look for a step in another thread.
        arrays = [[np.require(grad, requirements=["C", "A"]) for grad in entry] for entry in arrays]
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("a step of this optimizer is running in another thread")
        try:
            self._update_groups(arrays)
        finally:
            self._lock.release()

    def _update_groups(self, arrays: Sequence[Sequence[FloatArray]]) -> None:
        groups = self.groups
        updaters = [group._updater for group in groups]
        scale = self._sign
        if self._max_norm is not None:
            norms = [updater.global_norm(entry) for updater, entry in zip(updaters, arrays, strict=True)]
            scale *= _clip_scale(math.hypot(*norms), self._max_norm)
        step = self._steps + 1
        hypers = [self._hyper(group, step) for group in groups]
        self._steps = step
        try:
            # One call for the interpreter: an interrupt cannot fall between two groups.
            list(map(_core.Updater.step, updaters, arrays, [scale] * len(groups), hypers))
        except Exception:
            self._steps = step - 1
            raise

    # --- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything that a later `load_state_dict` needs to go on exactly from here.

        Returns
        -------
        dict
            "optimizer" (the class's name), "steps", "lr", "options" (the other hyper-parameters) and
            "groups": for each its "lr" (None if it follows), "weight_decay", and "states", which are a dict
            of arrays per parameter.
        """
        return {
            "optimizer": type(self).__name__,
            "steps": self._steps,
            "lr": self._lr,
            "options": {name: getattr(self, name) for name in self._options},
            "groups": [
                {
                    "lr": group._lr if group._own_lr else None,
                    "weight_decay": group._weight_decay,
                    "states": [
                        {name: state.copy() for name, state in zip(self._state_names, states, strict=True)}
                        for states in group._states
                    ],
                }
                for group in self.groups
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned: step count, learning rates, weight decays, state arrays.

        The options must be the same ones as at construction.

        Raises
        ------
        KeyError
            If an entry is missing.
        ValueError, TypeError
            If it is the state of another optimizer or of other parameters. Nothing has changed then.
        """
        if state["optimizer"] != type(self).__name__:
            raise ValueError(f"state is one of {state['optimizer']}; expected one of {type(self).__name__}")
        for name in self._options:
            found, expected = state["options"][name], getattr(self, name)
            if (tuple(found) if isinstance(found, list) else found) != expected:
                raise ValueError(f"state has {name}={found!r}; expected this optimizer's, {expected!r}")
        steps, groups = integer(state["steps"], "state['steps']", least=0), state["groups"]
        lr = real(state["lr"], "state['lr']", least=0.0)
        if len(groups) != len(self.groups):
            raise ValueError(f"state has {len(groups)} groups; expected {len(self.groups)}")
        rates: list[tuple[float, bool, float]] = []
        copies: list[tuple[FloatArray, FloatArray]] = []
        for i, (group, entry) in enumerate(zip(self.groups, groups, strict=True)):
            name = f"state['groups'][{i}]"
            own_lr = entry["lr"] is not None
            rates.append(
                (
                    real(entry["lr"], f"{name}['lr']", least=0.0) if own_lr else lr,
                    own_lr,
                    real(entry["weight_decay"], f"{name}['weight_decay']", least=0.0),
                )
            )
            if len(entry["states"]) != len(group._states):
                raise ValueError(
                    f"{name}['states'] has {len(entry['states'])} entries; expected one for each of the "
                    f"{len(group._states)} parameters"
                )
            for j, (targets, sources) in enumerate(zip(group._states, entry["states"], strict=True)):
                for state_name, target in zip(self._state_names, targets, strict=True):
                    source = np.asarray(sources[state_name])
                    if source.shape != target.shape or source.dtype != target.dtype:
                        raise ValueError(
                            f"{name}['states'][{j}]['{state_name}'] is {_describe(source)}; "
                            f"expected {_describe(target)}"
                        )
                    copies.append((target, source))
        for group, (group_lr, own_lr, decay) in zip(self.groups, rates, strict=True):
            group._lr, group._own_lr, group._weight_decay = group_lr, own_lr, decay
        for target, source in copies:
            target[...] = source
        self._lr, self._steps = lr, steps


_NO_GRADS = "grads is None; expected gradients: params is neither a model nor made of a model's parameters"


def _is_groups(params: object) -> bool:
    return isinstance(params, list | tuple) and bool(params) and all(isinstance(p, Mapping) for p in params)


def _clip_scale(norm: float, max_norm: float) -> float:
    # A NaN norm gives NaN, an infinite one 0.
    return 1.0 if norm <= max_norm else max_norm / norm


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    ::

        u = g at the first step, then u = momentum u + (1 - dampening) g
        p -= lr u                       without nesterov
        p -= lr (g + momentum u)        with nesterov

    Parameters
    ----------
    params
        What to update; see the head of this module.
    lr : float
        Step size, >= 0.
    momentum : float
        In [0, 1]. At 0 no state is kept.
    dampening : float
        In [0, 1].
    nesterov : bool
        Whether to look ahead; needs momentum > 0 and dampening = 0.
    weight_decay : float
        L2 factor, >= 0, added to the gradient behind the clipping.
    max_norm : float or None
        Largest norm of all gradients together, > 0.
    maximize : bool
        Whether to go up the gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range, a parameter is not a C-contiguous, writeable array of float32 or
        float64, or two of them share memory.

    Notes
    -----
    Step by step equal to `torch.optim.SGD`, which has no `max_norm`. Source: Polyak 1964; Sutskever et al.
    2013: their look-ahead form is this one written for q = p + momentum v, where v = -lr u is their
    velocity.
    """

    __slots__ = ("_dampening", "_momentum", "_nesterov")
    _options = ("momentum", "dampening", "nesterov", "max_norm", "maximize")

    def __init__(
        self,
        params: Arrays | Sequence[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
    ) -> None:
        self._momentum = real(momentum, "momentum", least=0.0, most=1.0)
        self._dampening = real(dampening, "dampening", least=0.0, most=1.0)
        self._nesterov = bool(nesterov)
        if nesterov and (self._momentum == 0 or self._dampening != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, found momentum={momentum!r} and "
                f"dampening={dampening!r}"
            )
        rule, states = ("sgd_momentum", ("velocity",)) if self._momentum else ("sgd", ())
        super().__init__(params, rule, states, lr=lr, weight_decay=weight_decay, max_norm=max_norm, maximize=maximize)

    @property
    def momentum(self) -> float:
        """The share of the velocity that is kept."""
        return self._momentum

    @property
    def dampening(self) -> float:
        """What the gradient's share in the velocity is reduced by."""
        return self._dampening

    @property
    def nesterov(self) -> bool:
        """Whether the step looks ahead."""
        return self._nesterov

    def _hyper(self, group: Group, step: int) -> tuple[float, ...]:
        momentum = self._momentum
        if momentum == 0:
            return (group._lr, group._weight_decay)
        factor = 1.0 if step == 1 else 1.0 - self._dampening
        return (group._lr, group._weight_decay, momentum, factor, self._nesterov)


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square.

    ::

        m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
        p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t) + eps_root) + eps)

    at the t-th step, counted from 1.

    Parameters
    ----------
    params
        What to update; see the head of this module.
    lr : float
        Step size, >= 0.
    betas : (float, float)
        Both in [0, 1).
    eps, eps_root : float
        Added outside and inside of the root, >= 0.
    weight_decay : float
        L2 factor, >= 0, added to the gradient behind the clipping (not decoupled).
    max_norm : float or None
        Largest norm of all gradients together, > 0.
    maximize : bool
        Whether to go up the gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range, a parameter is not a C-contiguous, writeable array of float32 or
        float64, or two of them share memory.

    Notes
    -----
    Step by step equal to `torch.optim.Adam`, which has neither `eps_root` (optax's) nor `max_norm`. Source:
    Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1.
    """

    __slots__ = ("_beta1", "_beta2", "_eps", "_eps_root")
    _options = ("betas", "eps", "eps_root", "max_norm", "maximize")

    def __init__(
        self,
        params: Arrays | Sequence[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        eps_root: float = 0.0,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
    ) -> None:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"betas is {betas!r}; expected a pair of numbers")
        self._beta1 = real(betas[0], "betas[0]", least=0.0, below=1.0)
        self._beta2 = real(betas[1], "betas[1]", least=0.0, below=1.0)
        self._eps = real(eps, "eps", least=0.0)
        self._eps_root = real(eps_root, "eps_root", least=0.0)
        super().__init__(
            params,
            "adam",
            ("first_moment", "second_moment"),
            lr=lr,
            weight_decay=weight_decay,
            max_norm=max_norm,
            maximize=maximize,
        )

    @property
    def betas(self) -> tuple[float, float]:
        """The shares of the running means that are kept."""
        return self._beta1, self._beta2

    @property
    def eps(self) -> float:
        """What is added outside of the root."""
        return self._eps

    @property
    def eps_root(self) -> float:
        """What is added inside of the root."""
        return self._eps_root

    def _hyper(self, group: Group, step: int) -> tuple[float, ...]:
        beta1 = self._beta1
        beta2 = self._beta2
        return (
            group._lr / (1.0 - beta1**step),
            group._weight_decay,
            beta1,
            beta2,
            1.0 / (1.0 - beta2**step),
            self._eps,
            self._eps_root,
        )


_BY_NAME: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam}


def names() -> list[str]:
    """Return the names that `get` knows."""
    return list(_BY_NAME)


def get(name: str, params: Arrays | Sequence[Mapping[str, Any]], **options: Any) -> Optimizer:
    """Return a new optimizer by name: `get("adam", model, lr=3e-4)`.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, found {type(name).__name__}")
    key = name.lower()
    if key not in _BY_NAME:
        near = difflib.get_close_matches(key, _BY_NAME, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_BY_NAME)}"
        raise ValueError(f"unknown optimizer {name!r}; {hint}")
    cls: Any = _BY_NAME[key]
    optimizer: Optimizer = cls(params, **options)
    return optimizer


# --- clipping -----------------------------------------------------------------------------------------------


def _gradient_arrays(grads: Arrays | Iterable[FloatArray]) -> list[FloatArray]:
    if isinstance(grads, np.ndarray):
        arrays: list[Any] = [grads]
    elif isinstance(grads, Mapping):
        arrays = list(grads.values())
    elif isinstance(grads, Model):
        arrays = [grads.flat_gradients]
    else:
        arrays = list(grads)
    for i, array in enumerate(arrays):
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
            raise TypeError(f"grads[{i}] is {_describe(array)}; expected an array of float32 or float64")
        if not array.flags.writeable:
            raise ValueError(f"grads[{i}] is read-only; it is clipped in place")
    return arrays


def clip_grad_norm(grads: Arrays | Iterable[FloatArray], max_norm: float) -> float:
    """Scale gradients in place so that their norm, taken over all of them together, is at most `max_norm`.

    Parameters
    ----------
    grads
        A model, an array, a list or a dict of arrays, of float32 or float64, of any strides.
    max_norm : float
        > 0; infinity to measure only.

    Returns
    -------
    float
        The norm before, sqrt(sum g^2), summed in float64; the same bits on any number of threads.

    Raises
    ------
    TypeError, ValueError
        If `max_norm` is not a positive number or an array cannot be clipped in place; nothing changes.

    Notes
    -----
    As `torch.nn.utils.clip_grad_norm_`, which divides by n + 1e-6 where this divides by n. A NaN makes all
    gradients NaN; an infinity makes its own entry NaN and the others 0. An optimizer with `max_norm` does
    the same without writing the gradients.
    """
    if max_norm != math.inf:
        max_norm = real(max_norm, "max_norm", above=0.0)
    arrays = _gradient_arrays(grads)
    # Any rule will do: only the norm is wanted of it.
    contiguous = [np.require(a, requirements=["C", "A"]) for a in arrays]
    norm = _core.Updater("sgd", contiguous, [()] * len(arrays)).global_norm(contiguous)
    scale = _clip_scale(norm, max_norm)
    if scale != 1.0:
        for array in arrays:
            with np.errstate(invalid="ignore"):  # inf * 0, as documented
                np.multiply(array, scale, out=array)
    return norm


def clip_grad_value(grads: Arrays | Iterable[FloatArray], value: float) -> None:
    """Clip each entry of the gradients to [-value, value], in place; NaN stays NaN.

    Raises
    ------
    TypeError, ValueError
        If `value` is not a positive number or an array cannot be clipped in place. Nothing has changed then.

    Notes
    -----
    As `torch.nn.utils.clip_grad_value_`.
    """
    value = real(value, "value", above=0.0)
    for array in _gradient_arrays(grads):
        with np.errstate(over="ignore"):  # a value beyond float32 clips nothing
            np.clip(array, -value, value, out=array)
