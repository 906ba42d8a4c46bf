"""What all optimizers are: groups of arrays, a step count, states; the rules stand in `algorithms`."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

import numpy as np

from fuseprop import _core
from fuseprop._checks import choice, flag, integer, real
from fuseprop._memory import aligned_zeros
from fuseprop._registry import Spec
from fuseprop.optim.arrays import Arrays, Structure, check_apart, describe

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

NonFinite = Literal["propagate", "skip", "raise"]
_NONFINITE = ("propagate", "skip", "raise")
_GROUP_KEYS = ("params", "lr", "weight_decay", "l1")
_NO_GRADS = "grads is None; expected gradients: params is neither a model nor made of a model's parameters"


class Shared(TypedDict, total=False):
    """What every optimizer takes besides `lr` and `weight_decay`; described at the head of `fuseprop.optim`."""

    l1: float
    max_norm: float | None
    maximize: bool
    nonfinite: NonFinite


# The squares of gradients whose norm is in this range did not overflow, nor did those that count become zero.
_LEAST_NORM, _LARGEST_NORM = 1e-140, sys.float_info.max


def exact_norm(norm: float, grads: Sequence[Sequence[FloatArray]]) -> float:
    """Return the norm of gradients that the core has measured as `norm`; infinite only if an entry is."""
    if _LEAST_NORM < norm <= _LARGEST_NORM:
        return norm
    # Squares of float64 may be beyond its range though the gradients are not: seldom enough to do it slowly.
    largest = max((float(np.abs(g).max()) for arrays in grads for g in arrays if g.size), default=0.0)
    if largest == 0.0 or not math.isfinite(largest):
        return norm
    return largest * math.sqrt(sum(float(((g / largest) ** 2).sum(dtype=np.float64)) for a in grads for g in a))


def clip_scale(norm: float, max_norm: float) -> float:
    """Return what gradients of this norm are multiplied by. A NaN norm gives NaN, an infinite one 0."""
    return 1.0 if norm <= max_norm else max_norm / norm


def _first_non_finite(structure: Structure, grads: Sequence[FloatArray], name: str) -> str | None:
    for place, grad in zip(structure.places, grads, strict=True):
        wrong = ~np.isfinite(grad)
        if wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), grad.shape)
            return f"{name}{place}{[int(i) for i in at] or ''} is {float(grad[at])!r}; expected finite gradients"
    return None


class Group:
    """Parameters with a learning rate and penalties of their own: an entry of `optimizer.groups`."""

    __slots__ = ("_l1", "_linked", "_lr", "_own_lr", "_states", "_structure", "_updater", "_weight_decay")

    _states: list[tuple[FloatArray, ...]]
    _updater: _core.Updater
    _linked: list[FloatArray] | None

    def __init__(self, structure: Structure, lr: float, own_lr: bool, weight_decay: float, l1: float) -> None:
        self._structure = structure
        self._lr = lr
        self._own_lr = own_lr
        self._weight_decay = weight_decay
        self._l1 = l1

    def _bind(self, rule: str, num_states: int) -> None:
        """Allocate the states, bind the core's update to the arrays, find a model's gradients."""
        parameters = self._structure.arrays
        self._states = [tuple(aligned_zeros(p.shape, p.dtype) for _ in range(num_states)) for p in parameters]
        self._updater = _core.Updater(rule, parameters, self._states)
        self._linked = self._structure.gradients()

    def __repr__(self) -> str:
        penalties = f"weight_decay={self._weight_decay:g}, l1={self._l1:g}"
        return f"Group({len(self.params)} arrays, lr={self._lr:g}, {penalties})"

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
        """The group's L2 factor, or share of decay where it is decoupled."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = real(value, "weight_decay", least=0.0)

    @property
    def l1(self) -> float:
        """The group's L1 factor."""
        return self._l1

    @l1.setter
    def l1(self, value: float) -> None:
        self._l1 = real(value, "l1", least=0.0)


class Optimizer:
    """Base of the optimizers: what they share is described at the head of `fuseprop.optim`.

    A subclass says which rule of the core it is, what the state arrays are called, and gives the rule's numbers.
    """

    __slots__ = (
        "_constants",
        "_decoupled",
        "_lock",
        "_lr",
        "_max_norm",
        "_measures",
        "_nonfinite",
        "_only",
        "_parameters",
        "_rule",
        "_sign",
        "_skipped",
        "_state_names",
        "_steps",
        "_weight_decay",
        "groups",
    )

    #: Name, parameters, examples; see `fuseprop._registry`.
    spec: ClassVar[Spec]

    def __init__(
        self,
        params: Arrays | Sequence[Mapping[str, Any]],
        rule: str,
        states: tuple[str, ...] = (),
        constants: tuple[float, ...] = (),
        *,
        lr: float,
        options: Mapping[str, Any],
        weight_decay: float,
        decoupled: bool = False,
        l1: float = 0.0,
        max_norm: float | None = None,
        maximize: bool = False,
        nonfinite: NonFinite = "propagate",
    ) -> None:
        self._rule, self._state_names, self._constants = rule, states, constants
        self._lr = real(lr, "lr", least=0.0)
        self._max_norm = None if max_norm is None else real(max_norm, "max_norm", above=0.0)
        self._sign = -1.0 if flag(maximize, "maximize") else 1.0
        self._decoupled = decoupled
        self._nonfinite: NonFinite = choice(nonfinite, "nonfinite", _NONFINITE)  # type: ignore[assignment]
        self._weight_decay = real(weight_decay, "weight_decay", least=0.0)
        # The hyper-parameters besides those of the groups.
        self._parameters = {**options, "max_norm": self._max_norm, "maximize": bool(maximize), "nonfinite": nonfinite}
        # Whether a step reads the gradients once before: for their norm, or to find what is not finite.
        self._measures = max_norm is not None or nonfinite != "propagate"
        self._steps = self._skipped = 0
        self._lock = threading.Lock()
        self.groups = self._make_groups(params, self._weight_decay, real(l1, "l1", least=0.0))
        # Without groups given there is one; its gradients come as they are, not in a list.
        self._only = None if _is_groups(params) else self.groups[0]
        structures = [group._structure for group in self.groups]
        check_apart([a for s in structures for a in s.arrays], [n for s in structures for n in s.names])
        for group in self.groups:
            group._bind(rule, len(states))

    def _make_groups(
        self, params: Arrays | Sequence[Mapping[str, Any]], weight_decay: float, l1: float
    ) -> tuple[Group, ...]:
        if not _is_groups(params):
            return (Group(Structure(params, "params"), self._lr, False, weight_decay, l1),)  # type: ignore[arg-type]
        groups = []
        for i, given in enumerate(params):  # type: ignore[arg-type]
            if "params" not in given or not set(given) <= set(_GROUP_KEYS):
                raise ValueError(
                    f"params[{i}] has the keys {list(given)}; expected a group with 'params' and, if wanted, "
                    "'lr', 'weight_decay' and 'l1'"
                )
            numbers = {"lr": self._lr, "weight_decay": weight_decay, "l1": l1}
            lr, decay, own_l1 = (
                real(given.get(key, default), f"params[{i}]['{key}']", least=0.0) for key, default in numbers.items()
            )
            structure = Structure(given["params"], f"params[{i}]['params']")
            groups.append(Group(structure, lr, "lr" in given, decay, own_l1))
        return tuple(groups)

    def _numbers(self, step: int) -> tuple[float, ...]:  # of rules that are the same at every step
        """Return the rule's numbers, as its functor in the core takes them, at this step, counted from 1."""
        return self._constants

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._parameters.items())
        size = sum(array.size for group in self.groups for array in group._structure.arrays)
        return f"{type(self).__name__}({size} parameters, lr={self._lr:g}{options})"

    # --- hyper-parameters -----------------------------------------------------------------------------------

    if TYPE_CHECKING:
        # The rule's parameters are properties, which `register` makes.
        def __getattr__(self, name: str) -> Any: ...

    @property
    def max_norm(self) -> float | None:
        """The largest norm of all gradients together, or None."""
        return self._max_norm

    @property
    def maximize(self) -> bool:
        """Whether steps go up the gradient."""
        return self._sign < 0

    @property
    def nonfinite(self) -> NonFinite:
        """What is done about gradients that are NaN or infinite."""
        return self._nonfinite

    @property
    def weight_decay(self) -> float:
        """What groups without a weight decay of their own were given; `groups` has each one's."""
        return self._weight_decay

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
    def steps(self) -> int:
        """The number of steps taken."""
        return self._steps

    @property
    def num_states(self) -> int:
        """The number of state arrays per parameter, each of the parameter's size."""
        return len(self._state_names)

    @property
    def skipped(self) -> int:
        """The number of steps that `nonfinite="skip"` left out; not part of the saved state."""
        return self._skipped

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
            If the arrangement or a shape differs.
        FloatingPointError
            If a gradient is NaN or infinite, with `nonfinite="raise"`; the message names the first one.

        After an error parameters, states and step count are as they were.
        """
        group = self._only
        if group is None:
            self._step_groups(grads)
            return
        arrays = group._linked if grads is None else group._structure.match(grads, "grads")
        if arrays is None:
            raise TypeError(_NO_GRADS)
        steps = self._steps
        decay = group._weight_decay
        try:
            scale = self._sign
            if self._measures:
                norm = group._updater.global_norm(arrays)
                if not _LEAST_NORM < norm <= _LARGEST_NORM:
                    norm = exact_norm(norm, [arrays])
                    if not self._is_usable(norm, [arrays], ["grads"]):
                        return
                if self._max_norm is not None:
                    scale *= clip_scale(norm, self._max_norm)
            numbers = self._numbers(steps + 1)
            # Counted before: an interrupt is delivered behind the call, when the step is complete.
            self._steps = steps + 1
            if self._decoupled:
                group._updater.step(arrays, group._lr, numbers, scale, 0.0, group._l1, group._lr * decay)
            else:
                group._updater.step(arrays, group._lr, numbers, scale, decay, group._l1, 0.0)
        except Exception:
            self._steps = steps
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
                    f"grads is {describe(grads)}; expected a list of {len(groups)}, one entry for each group"
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
        if self._measures:
            norms = [updater.global_norm(entry) for updater, entry in zip(updaters, arrays, strict=True)]
            norm = exact_norm(math.hypot(*norms), arrays)
            if not self._is_usable(norm, arrays, [f"grads[{i}]" for i in range(len(groups))]):
                return
            if self._max_norm is not None:
                scale *= clip_scale(norm, self._max_norm)
        steps = self._steps
        numbers = self._numbers(steps + 1)
        rates = [group._lr for group in groups]
        decays = [group._weight_decay for group in groups]
        none = [0.0] * len(groups)
        l2, shrink = (
            (none, [lr * w for lr, w in zip(rates, decays, strict=True)]) if self._decoupled else (decays, none)
        )
        rest = (rates, [numbers] * len(groups), [scale] * len(groups), l2, [group._l1 for group in groups], shrink)
        self._steps = steps + 1
        try:
            # One call for the interpreter: an interrupt cannot fall between two groups.
            list(map(_core.Updater.step, updaters, arrays, *rest))
        except Exception:
            self._steps = steps
            raise

    def _is_usable(self, norm: float, grads: Sequence[Sequence[FloatArray]], names: Sequence[str]) -> bool:
        """Return whether to make a step with gradients of this norm; raises if they are to be refused."""
        nonfinite = self._nonfinite
        if math.isfinite(norm) or nonfinite == "propagate":
            return True
        found = [
            _first_non_finite(group._structure, arrays, name)
            for group, arrays, name in zip(self.groups, grads, names, strict=True)
        ]
        first = next((text for text in found if text is not None), None)
        if first is None:  # a norm beyond float64's range
            return True
        if nonfinite == "raise":
            raise FloatingPointError(f"{first} (nonfinite is 'raise')")
        self._skipped += 1
        return False

    # --- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything that a later `load_state_dict` needs to go on exactly from here.

        Returns
        -------
        dict
            "optimizer" (the class's name), "steps", "lr", "options" (the other hyper-parameters) and
            "groups": for each its "lr" (None if it follows), "weight_decay", "l1", and "states", which are a
            dict of arrays per parameter.
        """
        return {
            "optimizer": type(self).__name__,
            "steps": self._steps,
            "lr": self._lr,
            "options": dict(self._parameters),
            "groups": [
                {
                    "lr": group._lr if group._own_lr else None,
                    "weight_decay": group._weight_decay,
                    "l1": group._l1,
                    "states": [
                        {name: state.copy() for name, state in zip(self._state_names, states, strict=True)}
                        for states in group._states
                    ],
                }
                for group in self.groups
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned: step count, learning rates, penalties, state arrays.

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
        for name, expected in self._parameters.items():
            found = state["options"][name]
            if (tuple(found) if isinstance(found, list) else found) != expected:
                raise ValueError(f"state has {name}={found!r}; expected this optimizer's, {expected!r}")
        steps, groups = integer(state["steps"], "state['steps']", least=0), state["groups"]
        lr = real(state["lr"], "state['lr']", least=0.0)
        if len(groups) != len(self.groups):
            raise ValueError(f"state has {len(groups)} groups; expected {len(self.groups)}")
        rates: list[tuple[float, bool, float, float]] = []
        copies: list[tuple[FloatArray, FloatArray]] = []
        for i, (group, entry) in enumerate(zip(self.groups, groups, strict=True)):
            name = f"state['groups'][{i}]"
            own_lr = entry["lr"] is not None
            rates.append(
                (
                    real(entry["lr"], f"{name}['lr']", least=0.0) if own_lr else lr,
                    own_lr,
                    real(entry["weight_decay"], f"{name}['weight_decay']", least=0.0),
                    real(entry["l1"], f"{name}['l1']", least=0.0),
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
                            f"{name}['states'][{j}]['{state_name}'] is {describe(source)}; expected {describe(target)}"
                        )
                    copies.append((target, source))
        for group, rate in zip(self.groups, rates, strict=True):
            group._lr, group._own_lr, group._weight_decay, group._l1 = rate
        for target, source in copies:
            target[...] = source
        self._lr, self._steps = lr, steps


def _is_groups(params: object) -> bool:
    return isinstance(params, list | tuple) and bool(params) and all(isinstance(p, Mapping) for p in params)
