"""PyTorch's tensors: their bytes travel beside the pickle, as those of arrays do. PyTorch would copy them into it.

What every tensor is a view of is a storage, a parameter's and a model's too; only that is pickled in another way here.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import pickle
import sys
from typing import Any, Tuple


def storages() -> Tuple[type, ...]:
    """Tell the classes of storages, if PyTorch is loaded: without it nothing can be one."""
    torch: Any = sys.modules.get("torch")
    try:
        return () if torch is None else (torch.UntypedStorage, torch.storage.TypedStorage)
    except AttributeError:  # one from before 2.0, or whatever calls itself torch
        return ()


def reduce(storage: Any, *, bring_home: bool) -> Any:
    """Tell how a storage is pickled; NotImplemented of one that PyTorch has to pickle itself.

    One that is not in this machine's memory, but on a GPU, is brought there with `bring_home`.
    """
    untyped, dtype = storage, None
    if hasattr(storage, "_untyped_storage"):
        # Asked for in public ways, a typed storage warns of its own removal.
        untyped, dtype = storage._untyped_storage, storage.dtype  # noqa: SLF001
    if untyped.device.type == "meta" or (untyped.device.type != "cpu" and not bring_home):
        return NotImplemented
    return restore, (pickle.PickleBuffer(_bytes_of(untyped.cpu())), dtype)


def _bytes_of(untyped: Any) -> Any:
    import ctypes  # which is not small, and for them alone

    size = untyped.nbytes()
    if not size:
        return b""
    view: Any = (ctypes.c_ubyte * size).from_address(untyped.data_ptr())
    view.owner = untyped  # for as long as somebody reads what lies there
    return view


def restore(buffer: Any, dtype: Any) -> Any:
    """Make a storage of its bytes, where they lie; `dtype` is None of one that has no type."""
    import torch

    untyped = torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage() if len(buffer) else torch.UntypedStorage(0)
    return untyped if dtype is None else torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


# In the container this file is the shim's; under this name both sides find it.
restore.__module__ = "dokrun.shim.tensors"
