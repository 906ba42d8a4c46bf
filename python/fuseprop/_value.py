"""Small immutable objects that are their parameters: schedules and regularisers."""

from __future__ import annotations

from typing import Any


class Value:
    """Its parameters read as attributes; equal if class and parameters are; hashable if they are, picklable.

    A constructor checks its arguments and passes them on by keyword. (Not a dataclass: making each of those would take
    a share of the time to import the package that is worth these lines.)
    """

    __slots__ = ("_parameters",)

    def __init__(self, **parameters: Any) -> None:
        object.__setattr__(self, "_parameters", parameters)

    def __getattr__(self, name: str) -> Any:
        if name == "_parameters" or name not in self._parameters:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self._parameters[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: make a new one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._parameters.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return NotImplemented
        return type(self) is type(other) and self._parameters == other._parameters

    def __hash__(self) -> int:
        return hash((type(self), tuple(self._parameters.values())))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._parameters.items())
        return f"{type(self).__name__}({inside})"
