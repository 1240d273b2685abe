"""NumPy's arrays that NumPy itself would copy into their pickle: those that are not of one piece, dates, mapped files.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import sys
from typing import Any, Tuple

from .envelope import SMALLEST_BUFFER


def kinds() -> Tuple[type, ...]:
    """Tell the classes of such arrays, if NumPy is loaded: without it nothing can be one."""
    numpy: Any = sys.modules.get("numpy")
    try:
        return () if numpy is None else (numpy.ndarray, numpy.memmap)
    except AttributeError:  # it is being loaded, or something else is called so
        return ()


def reduce(array: Any) -> Any:
    """Tell how an array is pickled, by one whose bytes lie beside the pickle; NotImplemented where NumPy does so."""
    if array.nbytes < SMALLEST_BUFFER or array.dtype.hasobject:
        return NotImplemented
    numpy: Any = sys.modules["numpy"]
    if type(array) is not numpy.ndarray:
        return numpy.ndarray.view, (array.view(numpy.ndarray), type(array))
    if array.dtype.kind in "mM":
        # Dates and times have no buffer, and the numbers that they are have one.
        return numpy.ndarray.view, (array.view(f"i{array.dtype.itemsize}"), array.dtype)
    if array.flags.forc:
        return NotImplemented
    axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    ordered = array.transpose(axes)
    if ordered.flags.c_contiguous:  # of one piece, and only its axes are in another order
        return numpy.ndarray.transpose, (ordered, [axes.index(axis) for axis in range(array.ndim)])
    return numpy.ascontiguousarray(array).__reduce_ex__(5)
