"""What travels beside its pickle, as most arrays do on their own, and is neither copied nor kept twice in memory.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

from typing import Any

from . import arrays, tensors


class Beside:
    """Tells a pickler how such values are pickled, as far as their libraries are loaded when it is made.

    Args:
        bring_home: whether what lies on a GPU is brought into this machine's memory for that.
    """

    def __init__(self, *, bring_home: bool) -> None:
        self._bring_home = bring_home
        self._arrays = arrays.kinds()
        self._storages = tensors.storages()

    def reduce(self, value: Any) -> Any:
        """Tell how a value is pickled; NotImplemented of one that needs no help."""
        if type(value) in self._arrays:
            return arrays.reduce(value)
        if isinstance(value, self._storages):
            return tensors.reduce(value, bring_home=self._bring_home)
        return NotImplemented
