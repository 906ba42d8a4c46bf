"""What all optimizers are: groups of arrays, a step count, states; the rules stand in `algorithms`."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np

from fuseprop import _core
from fuseprop._checks import choice, complete, flag, integer, real, real_array
from fuseprop._elsewhere import check_options
from fuseprop._memory import Changes, aligned_zeros
from fuseprop._registry import OptimizerSpec
from fuseprop.optim.arrays import Params, Structure, check_apart, describe

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; for type checkers alone

    from fuseprop._typing import FloatArray

NonFinite = Literal["propagate", "skip", "raise"]
_NONFINITE = ("propagate", "skip", "raise")
_GROUP_KEYS = ("params", "lr", "weight_decay", "l1")
_MOST_STEPS = 2**53  # exact in the rules' float64
_NO_GRADS = "grads is None; expected gradients: params is neither a model nor made of a model's parameters"


class Shared(NamedTuple):
    """What every optimizer takes besides `lr` and `weight_decay`, not yet checked; see the head of `fuseprop.optim`."""

    l1: float
    max_norm: float | None
    maximize: bool
    nonfinite: NonFinite


# The squares of gradients whose norm is in this range did not overflow, nor did those that count become zero.
_LEAST_NORM, _LARGEST_NORM = 1e-140, sys.float_info.max


def exact_norm(norm: float, grads: Sequence[Sequence[FloatArray]]) -> tuple[float, float]:
    """Return the norm of gradients that the core has measured as `norm`, as two factors of which only one may be large.

    They are finite unless an entry of the gradients is not: float64 may hold gradients, but not their norm.
    """
    if _LEAST_NORM < norm <= _LARGEST_NORM:
        return norm, 1.0
    # Squares of float64 may be beyond its range though the gradients are not: seldom enough to do it slowly.
    # np.max rather than max, which may lose a NaN.
    largest = float(np.max([np.abs(g).max() for arrays in grads for g in arrays if g.size], initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest, 1.0
    ratios = (np.divide(g, largest, dtype=np.float64) for arrays in grads for g in arrays)
    return largest, math.sqrt(sum(float((ratio**2).sum()) for ratio in ratios))


def clip_scale(norm: tuple[float, float], max_norm: float) -> float:
    """Return what gradients of this norm are multiplied by. A NaN norm gives NaN, an infinite one 0."""
    large, ratio = norm
    return 1.0 if large * ratio <= max_norm else max_norm / large / ratio


def _first_non_finite(names: Sequence[str], grads: Sequence[Sequence[FloatArray]]) -> str | None:
    for name, grad in zip(names, itertools.chain.from_iterable(grads), strict=True):
        wrong = ~np.isfinite(grad)
        if wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), grad.shape)
            return f"{name}{[int(i) for i in at] or ''} is {float(grad[at])!r}; expected finite gradients"
    return None


#: lr, weight_decay, l1.
GroupNumbers: TypeAlias = tuple[float, float, float]


def _terms(numbers: GroupNumbers, decoupled: bool) -> tuple[float, float, float, float]:
    lr, weight_decay, l1 = numbers
    return (lr, 0.0, l1, lr * weight_decay) if decoupled else (lr, weight_decay, l1, 0.0)


class Group:
    """Parameters with a learning rate and penalties of their own: an entry of `optimizer.groups`."""

    __slots__ = (
        "_decoupled",
        "_l1",
        "_linked",
        "_lr",
        "_own_lr",
        "_own_weight_decay",
        "_states",
        "_structure",
        "_terms",
        "_weight_decay",
    )

    def __init__(
        self, structure: Structure, numbers: GroupNumbers, own: tuple[bool, bool], num_states: int, decoupled: bool
    ) -> None:
        """`own`: whether lr and weight_decay are the group's own."""
        self._structure = structure
        self._states = [tuple(aligned_zeros(p.shape, p.dtype) for _ in range(num_states)) for p in structure.arrays]
        self._linked = structure.gradients()
        self._decoupled = decoupled
        self._set(numbers, own)

    def _set(self, numbers: GroupNumbers, own: tuple[bool, bool]) -> None:
        self._lr, self._weight_decay, self._l1 = numbers
        self._own_lr, self._own_weight_decay = own
        self._terms = _terms(numbers, self._decoupled)

    def _plan(self, numbers: GroupNumbers, own: tuple[bool, bool], changes: Changes) -> None:
        """As `_set`, but later, along with other changes."""
        names = ("_lr", "_weight_decay", "_l1", "_own_lr", "_own_weight_decay", "_terms")
        for name, value in zip(names, (*numbers, *own, _terms(numbers, self._decoupled)), strict=True):
            changes.set(self, name, value)

    def _follow(self, lr: float, weight_decay: float) -> None:
        """Take over the optimizer's numbers, but for own ones."""
        own = self._own_lr, self._own_weight_decay
        self._set((self._lr if own[0] else lr, self._weight_decay if own[1] else weight_decay, self._l1), own)

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
        lr = real(value, "lr", least=0.0)
        self._set((lr, self._weight_decay, self._l1), (True, self._own_weight_decay))

    @property
    def weight_decay(self) -> float:
        """The group's L2 factor, or share of decay where it is decoupled; once it is set, it is the group's own."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        weight_decay = real(value, "weight_decay", least=0.0)
        self._set((self._lr, weight_decay, self._l1), (self._own_lr, True))

    @property
    def l1(self) -> float:
        """The group's L1 factor."""
        return self._l1

    @l1.setter
    def l1(self, value: float) -> None:
        l1 = real(value, "l1", least=0.0)
        self._set((self._lr, self._weight_decay, l1), (self._own_lr, self._own_weight_decay))


class Optimizer:
    """Base of the optimizers: what they share is described at the head of `fuseprop.optim`.

    A subclass says which rule of the core it is, what the state arrays are called, and gives the rule's numbers.

    Parameters
    ----------
    params
        What to update.
    rule : str
        The rule's name in the core.
    states : tuple of str
        The names of the rule's state arrays.
    constants : tuple of float
        The numbers of the rule, if they are the same at every step.
    lr, weight_decay : float
        Of every group that has no own one.
    options : mapping
        The rule's parameters, as they were checked: those that read as attributes.
    decoupled : bool
        Whether the decay is taken from the parameters, not added to the gradient.
    shared : tuple
        l1, max_norm, maximize, nonfinite.
    """

    __slots__ = (
        "_constants",
        "_decoupled",
        "_grad_names",
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
        "_updater",
        "_weight_decay",
        "groups",
    )

    #: Name, parameters, examples; see `fuseprop._registry`.
    spec: ClassVar[OptimizerSpec]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse an option that there is not, with the name that it may have here."""
        check_options(cls, cls.__init__, options)
        return super().__new__(cls)

    def __init__(
        self,
        params: Params,
        rule: str,
        states: tuple[str, ...] = (),
        constants: tuple[float, ...] = (),
        *,
        lr: float,
        options: Mapping[str, Any],
        weight_decay: float,
        decoupled: bool = False,
        shared: Shared,
    ) -> None:
        l1, max_norm, maximize, nonfinite = shared
        self._rule, self._state_names, self._constants = rule, states, constants
        self._lr = real(lr, "lr", least=0.0)
        self._max_norm = None if max_norm is None else real(max_norm, "max_norm", above=0.0)
        self._sign = -1.0 if flag(maximize, "maximize") else 1.0
        self._decoupled = decoupled
        self._nonfinite: NonFinite = choice(nonfinite, "nonfinite", _NONFINITE)  # type: ignore[assignment]  # one of _NONFINITE
        self._weight_decay = real(weight_decay, "weight_decay", least=0.0)
        # The hyper-parameters besides those of the groups.
        self._parameters = {**options, "max_norm": self._max_norm, "maximize": bool(maximize), "nonfinite": nonfinite}
        # Whether a step reads the gradients once before: for their norm, or to find what is not finite.
        self._measures = max_norm is not None or nonfinite != "propagate"
        self._skipped = 0
        self.groups = self._make_groups(params, self._weight_decay, real(l1, "l1", least=0.0))
        # Without groups given there is one; its gradients come as they are, not in a list.
        self._only = None if _is_groups(params) else self.groups[0]
        structures = [group._structure for group in self.groups]
        check_apart([a for s in structures for a in s.arrays], [n for s in structures for n in s.names])
        heads = ["grads"] if self._only else [f"grads[{i}]" for i in range(len(self.groups))]
        names = [[head + place for place in s.places] for head, s in zip(heads, structures, strict=True)]
        self._grad_names = list(itertools.chain.from_iterable(names))
        # The core counts the steps and refuses one while another is running: what is done in a single call of it
        # cannot be torn apart by an interrupt or another thread.
        self._updater = _core.Updater(
            rule,
            [
                list(zip(group._structure.arrays, group._states, group._structure.names, grad_names, strict=True))
                for group, grad_names in zip(self.groups, names, strict=True)
            ],
        )

    def _make_groups(self, params: Params, weight_decay: float, l1: float) -> tuple[Group, ...]:
        rest = len(self._state_names), self._decoupled
        if not _is_groups(params):
            structure = Structure(params, "params")  # type: ignore[arg-type]  # no groups
            return (Group(structure, (self._lr, weight_decay, l1), (False, False), *rest),)
        groups = []
        for i, given in enumerate(params):  # type: ignore[arg-type]  # groups
            if "params" not in given or not set(given) <= set(_GROUP_KEYS):
                raise ValueError(
                    f"params[{i}] has the keys {list(given)}; expected a group with 'params' and, if wanted, "
                    "'lr', 'weight_decay' and 'l1'"
                )
            defaults = {"lr": self._lr, "weight_decay": weight_decay, "l1": l1}
            lr, decay, own_l1 = (
                real(given.get(key, default), f"params[{i}]['{key}']", least=0.0) for key, default in defaults.items()
            )
            structure = Structure(given["params"], f"params[{i}]['params']")
            groups.append(Group(structure, (lr, decay, own_l1), ("lr" in given, "weight_decay" in given), *rest))
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
        """The L2 factor, or share of decay where it is decoupled, of every group that has no own one; may be set."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = real(value, "weight_decay", least=0.0)
        for group in self.groups:
            group._follow(self._lr, self._weight_decay)

    @property
    def lr(self) -> float:
        """The step size of every group that has no own one; may be set between steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = real(value, "lr", least=0.0)
        for group in self.groups:
            group._follow(self._lr, self._weight_decay)

    @property
    def steps(self) -> int:
        """The number of steps taken."""
        return self._updater.steps

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
            If the arrangement or a shape differs, or a gradient shares memory with a parameter without being this
            parameter itself; or if a parameter is no longer what it was when it was bound, in memory, dtype or shape
            (as behind `resize(refcheck=False)`), or is read-only now.
        FloatingPointError
            If a gradient is NaN or infinite, with `nonfinite="raise"`; the message names the first one.
        RuntimeError
            If another thread is in a step of this optimizer, or in its `state_dict` or `load_state_dict`.

        After an error parameters, states and step count are as they were. After an interrupt, too, or the step is
        complete: `steps` tells.
        """
        group = self._only
        arrays: Sequence[Sequence[FloatArray]]
        if group is None:
            arrays, terms = self._match_groups(grads), tuple([group._terms for group in self.groups])
        else:
            one = group._linked if grads is None else group._structure.match(grads, "grads")
            if one is None:
                raise TypeError(_NO_GRADS)
            arrays, terms = (one,), (group._terms,)
        updater = self._updater
        step = updater.steps + 1
        updater.step(arrays, terms, self._sign, self._numbers(step), step, self._clip if self._measures else None)

    def _match_groups(self, grads: Any) -> Sequence[Sequence[FloatArray]]:
        groups = self.groups
        if grads is None:
            linked = [group._linked for group in groups if group._linked is not None]
            if len(linked) != len(groups):
                raise TypeError(_NO_GRADS)
            return linked
        if not isinstance(grads, list | tuple) or len(grads) != len(groups):
            raise ValueError(f"grads is {describe(grads)}; expected a list of {len(groups)}, one entry for each group")
        return [
            group._structure.match(entry, f"grads[{i}]")
            for i, (group, entry) in enumerate(zip(groups, grads, strict=True))
        ]

    def _clip(self, norm: float, grads: Sequence[Sequence[FloatArray]]) -> float | None:
        """Return the factor on gradients of this norm, or None to leave the step out; raises if they are refused."""
        exact = exact_norm(norm, grads)
        if self._nonfinite != "propagate" and not math.isfinite(exact[0]):
            first = _first_non_finite(self._grad_names, grads)
            if first is not None and self._nonfinite == "raise":
                raise FloatingPointError(f"{first} (nonfinite is 'raise')")
            if first is not None:
                self._skipped += 1
                return None
        return 1.0 if self._max_norm is None else clip_scale(exact, self._max_norm)

    # --- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything that a later `load_state_dict` needs to go on exactly from here.

        Returns
        -------
        dict
            "optimizer" (the class's name), "steps", "lr", "weight_decay", "options" (the other hyper-parameters) and
            "groups": for each its "lr" and "weight_decay" (None if they follow the optimizer's), "l1", and "states",
            which are a dict of arrays per parameter.

        Raises
        ------
        RuntimeError
            If another thread is in a step of this optimizer.
        """
        return self._updater.alone(self._state)

    def _state(self) -> dict[str, Any]:
        return {
            "optimizer": type(self).__name__,
            "steps": self._updater.steps,
            "lr": self._lr,
            "weight_decay": self._weight_decay,
            "options": dict(self._parameters),
            "groups": [
                {
                    "lr": group._lr if group._own_lr else None,
                    "weight_decay": group._weight_decay if group._own_weight_decay else None,
                    "l1": group._l1,
                    "states": [
                        {name: state.copy() for name, state in zip(self._state_names, states, strict=True)}
                        for states in group._states
                    ],
                }
                for group in self.groups
            ],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # Bound to what it was bound to: the copies of the arrays, or of the model, that are made along with it.
        own = getattr(self, "__dict__", None) or None  # of a user's subclass
        return _rebuild, (type(self), self._given(), self._parameters, self.state_dict(), self._skipped), own

    def _given(self) -> Any:
        """Return `params` as the constructor took it; TypeError if copies of it would be bound to something else."""
        if self._only is not None:
            return self._only._structure.for_copy()
        return [{"params": group._structure.for_copy()} for group in self.groups]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned: step count, learning rates, penalties, state arrays.

        The options must be the same ones as at construction.

        Raises
        ------
        ValueError, TypeError
            If an entry is missing, or it is the state of another optimizer or of other parameters. Nothing has changed
            then.
        RuntimeError
            If another thread is in a step of this optimizer.
        """
        changes = Changes()
        self._plan(state, changes)
        self._updater.alone(changes.make)

    def _plan(self, state: Mapping[str, Any], changes: Changes) -> None:
        """Add to `changes` what makes this state the optimizer's, or refuse it."""
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict, what state_dict returned, found {describe(state)}")
        complete(state, "state", ("optimizer", "options", "steps", "lr", "weight_decay", "groups"))
        if state["optimizer"] != type(self).__name__:
            raise ValueError(f"state is one of {state['optimizer']}; expected one of {type(self).__name__}")
        options = _as_dict(state["options"], "state['options']")
        complete(options, "state['options']", self._parameters)
        for name, expected in self._parameters.items():
            found = options[name]
            if (tuple(found) if isinstance(found, list) else found) != expected:
                raise ValueError(f"state has {name}={found!r}; expected this optimizer's, {expected!r}")
        steps = integer(state["steps"], "state['steps']", least=0, most=_MOST_STEPS)
        lr = real(state["lr"], "state['lr']", least=0.0)
        weight_decay = real(state["weight_decay"], "state['weight_decay']", least=0.0)
        groups = _as_list(state["groups"], "state['groups']")
        if len(groups) != len(self.groups):
            raise ValueError(f"state has {len(groups)} groups; expected {len(self.groups)}")
        for i, (group, entry) in enumerate(zip(self.groups, groups, strict=True)):
            self._plan_group(
                group, _as_dict(entry, f"state['groups'][{i}]"), f"state['groups'][{i}]", changes, (lr, weight_decay)
            )
        changes.set(self, "_lr", lr)
        changes.set(self, "_weight_decay", weight_decay)
        changes.set(self._updater, "steps", steps)

    def _plan_group(
        self, group: Group, entry: Mapping[str, Any], name: str, changes: Changes, shared: tuple[float, float]
    ) -> None:
        complete(entry, name, ("lr", "weight_decay", "l1", "states"))
        own = entry["lr"] is not None, entry["weight_decay"] is not None
        lr = real(entry["lr"], f"{name}['lr']", least=0.0) if own[0] else shared[0]
        decay = real(entry["weight_decay"], f"{name}['weight_decay']", least=0.0) if own[1] else shared[1]
        group._plan((lr, decay, real(entry["l1"], f"{name}['l1']", least=0.0)), own, changes)
        states = _as_list(entry["states"], f"{name}['states']")
        if len(states) != len(group._states):
            raise ValueError(
                f"{name}['states'] has {len(states)} entries; expected one for each of the {len(group._states)} "
                "parameters"
            )
        for j, (targets, sources) in enumerate(zip(group._states, states, strict=True)):
            given = _as_dict(sources, f"{name}['states'][{j}]")
            complete(given, f"{name}['states'][{j}]", self._state_names)
            for state_name, target in zip(self._state_names, targets, strict=True):
                source = real_array(given[state_name], f"{name}['states'][{j}]['{state_name}']")
                if source.shape != target.shape or source.dtype != target.dtype:
                    raise ValueError(
                        f"{name}['states'][{j}]['{state_name}'] is {describe(source)}; expected {describe(target)}"
                    )
                changes.copy(target, source)


def _as_dict(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, found {describe(value)}")
    return value


def _as_list(value: object, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} must be a list, found {describe(value)}")
    return value


def _rebuild(
    cls: type[Optimizer], params: Any, options: Mapping[str, Any], state: Mapping[str, Any], skipped: int
) -> Optimizer:
    make: Callable[..., Optimizer] = cls  # whose options are its own
    optimizer = make(params, **options)
    optimizer.load_state_dict(state)
    optimizer._skipped = skipped
    return optimizer


def _is_groups(params: object) -> bool:
    return isinstance(params, list | tuple) and bool(params) and all(isinstance(p, Mapping) for p in params)
