"""What activations and losses share: immutable objects that bind parameters to a kernel of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fuseprop._elsewhere import check_constructor
from fuseprop._registry import Spec


class Formula:
    """A formula with its parameters: the Python half of `_core.Activation` and `_core.Loss`.

    Immutable; the parameters read as attributes. Equal if class and parameters are, hashable, picklable.
    """

    __slots__ = ()

    #: Name, parameters, domain, error budget; see `fuseprop._registry`.
    spec: ClassVar[Spec]

    _parameters: dict[str, Any]
    _bind: Any

    def __init_subclass__(cls) -> None:
        """Let the constructor say of an option that there is not which name it may have here."""
        super().__init_subclass__()
        check_constructor(cls)

    def __init__(self, **parameters: Any) -> None:
        if hasattr(self, "_parameters"):
            raise RuntimeError(f"{type(self).__name__} is immutable: make a new one instead of calling __init__ again")
        object.__setattr__(self, "_parameters", parameters)
        self._bind_core()

    def _bind_core(self) -> None:
        """Tell the core which formula this is, and its numbers."""
        self._bind(self.spec.name, self._core_parameters())

    def _core_parameters(self) -> tuple[Any, ...]:
        """Return the parameters as the core takes them: numbers; for a string, its place among the choices."""
        choices = self.spec.choices
        return tuple(choices[k].index(v) if isinstance(v, str) else v for k, v in self._parameters.items())

    if TYPE_CHECKING:
        # The parameters are properties, which `register` makes. A real __getattr__ would slow every call down.
        def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: make a new one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._parameters)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Formula):
            return NotImplemented
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def _values(self) -> tuple[Any, ...]:
        """Return the parameters as what can be compared and hashed: arrays by their values."""
        return tuple(tuple(v.tolist()) if isinstance(v, np.ndarray) else v for v in self._parameters.values())

    def __repr__(self) -> str:
        shown = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in self._parameters.items()}
        inside = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({inside})"


def _rebuild(cls: type[Formula], parameters: dict[str, Any]) -> Formula:
    return cls(**parameters)
