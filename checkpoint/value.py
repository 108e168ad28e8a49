"""The base of the values of code that is shipped: what dataclasses would make of them. Pure; shipped.

`import dataclasses` takes 36 ms on the machines that this was measured on (it brings inspect, ast and dis along), and
an agent is started for every run: that is more than all of ours. At home, where one process serves a job to its end,
values are dataclasses. tests/unit/test_layers.py sees to it that nothing shipped imports them.
"""

from __future__ import annotations


class Value:
    """A value: compared, hashed and shown by its slots, which cannot be assigned again.

    A subclass names its fields in __slots__, annotates each, and sets them all in its __init__ by `_set`.
    """

    __slots__: tuple[str, ...] = ()

    def _set(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r:.60}" for name, value in zip(self.__slots__, self._fields()))
        return f"{type(self).__name__}({shown})"
