"""Make `shim.pyz`, the one file that runs in the container.

It holds `dokrun/shim/` (as the package `dokrun_shim`), the client's own cloudpickle, and of dokrun itself what the
user's modules may refer to when they are imported in the container; it is last in line there, so that an installed
dokrun wins. None of it has docstrings or comments there. In the archive the files are stored as they are, which is
quickest to import from; it travels compressed as a whole, which is a quarter smaller than each file on its own.

Beside each file may stand what the client's own Python has made of it, as in `__pycache__`: a container whose Python is
of that version starts in half the time, and any other passes it over.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import marshal
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cloudpickle

import dokrun.shim
from dokrun.payload.strip import strip
from dokrun.shim.envelope import Segment, segment_of

# The oldest time a zip archive can hold; a fixed one makes the bytes reproducible.
_TIME = (1980, 1, 1, 0, 0, 0)
_MAIN = "import sys\nfrom dokrun_shim.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"

# Standard library only, all of them: `import dokrun` and `@dok.remote(…)` must work where dokrun is not installed.
_FOR_USERS = (
    "__init__.py",
    "artifact.py",
    "cell.py",
    "cost.py",
    "errors.py",
    "function.py",
    "future.py",
    "given.py",
    "image/__init__.py",
    "image/spec.py",
    "living.py",
    "map.py",
    "options.py",
    "port.py",
    "retry.py",
    "secret.py",
    "shim/__init__.py",
    "trial.py",
)

# Of what modules may speak of, and inside a task nobody has use for, this stands in place of their originals.
_NONE = """\
class {name}:
    def __init__(self,*_,**__):
        raise OptionError("there is no dok.{name} inside a DOK task, which has no credentials")
    def __class_getitem__(cls,_):
        return cls
"""


def _none(*names: str) -> bytes:
    return ("from dokrun.errors import OptionError\n" + "".join(_NONE.format(name=name) for name in names)).encode()


def _itself(name: str) -> bytes:
    return f"import sys, dokrun_shim.{name} as it\nsys.modules[__name__] = it\n".encode()


_STAND_INS = {
    "dokrun/actor.py": _none("Actor"),
    "dokrun/executor.py": _none("Executor"),
    "dokrun/joblib.py": b"",
    "dokrun/sessions.py": _none("Session", "Tunnel", "attach", "session"),
    # What these names mean is there already.
    **{f"dokrun/shim/{name}.py": _itself(name) for name in ("digests", "protocol", "report", "tensors")},
}
# What tells Python that compiled code is to be taken as it is: its source has no time in the archive to compare.
_UNCHECKED = (1).to_bytes(4, "little") + bytes(8)
# The first version of `marshal` without references, which depend on what else the process has done: the same code
# gives the same bytes.
_MARSHAL = 2


@dataclass(frozen=True)
class Shim:
    """The archive's bytes and their SHA-256; and what travels, the same compressed."""

    data: bytes
    sha256: str
    packed: Segment

    @classmethod
    def of(cls, packed: bytes) -> Shim:
        """Make it of what travels. Raises zlib.error."""
        data = zlib.decompress(packed)
        return cls(data, hashlib.sha256(data).hexdigest(), segment_of(packed))


@functools.cache
def build(*, with_code: bool) -> Shim:
    """Pack the shim, with compiled code or without. The same files, packed by the same Python, give the same bytes.

    It is kept where Python keeps what it has compiled of this file, if it may.
    """
    files = _files()
    digest = _digest(files)
    with suppress(OSError, zlib.error):
        return Shim.of(_kept(digest, with_code=with_code).read_bytes())
    packed = zlib.compress(_archive(files, with_code=with_code))
    with suppress(OSError):
        _keep(_kept(digest, with_code=with_code), packed)
    return Shim.of(packed)


def _files() -> dict[str, bytes]:
    files = {"__main__.py": _MAIN.encode()}
    files |= _python_files(Path(dokrun.shim.__file__).parent, "dokrun_shim")
    files |= _python_files(Path(cloudpickle.__file__).parent, "cloudpickle")
    # A second name, for what older versions have pickled.
    files.pop("cloudpickle/cloudpickle_fast.py", None)
    package = Path(dokrun.shim.__file__).parent.parent
    return files | {f"dokrun/{name}": (package / name).read_bytes() for name in _FOR_USERS} | _STAND_INS


def _python_files(folder: Path, package: str) -> dict[str, bytes]:
    return {f"{package}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*.py")}


def _digest(files: Mapping[str, bytes]) -> str:
    """Tell one archive from another before it is made: by what is in it, and by what makes it."""
    makers = [
        importlib.util.MAGIC_NUMBER,
        *(Path(path).read_bytes() for path in (__file__, strip.__code__.co_filename)),
    ]
    parts = [f"{name} {len(data)}\n".encode() + data for name, data in sorted(files.items())]
    return hashlib.sha256(b"".join(makers + parts)).hexdigest()


def _archive(files: Mapping[str, bytes], *, with_code: bool) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in sorted(files):
            source = strip(files[name])
            members = {name: source} | ({f"{name}c": _compiled(source, name)} if with_code else {})
            for member, data in members.items():
                entry = zipfile.ZipInfo(member, _TIME)
                entry.external_attr = 0o644 << 16
                entry.create_system = 3
                zipped.writestr(entry, data, zipfile.ZIP_STORED)
    return archive.getvalue()


def _compiled(source: bytes, name: str) -> bytes:
    # As the container's Python would compile it, however this one was started.
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED + marshal.dumps(code, _MARSHAL)


def _kept(digest: str, *, with_code: bool) -> Path:
    place = Path(importlib.util.cache_from_source(__file__))
    return place.with_name(f"{place.stem}-{'code' if with_code else 'text'}-{digest[:16]}.pyz.z")


def _keep(path: Path, data: bytes) -> None:
    if sys.dont_write_bytecode:
        return
    former = set(path.parent.glob(f"{path.name.rpartition('-')[0]}-*.pyz.z")) - {path}
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(path)
    for each in former:
        each.unlink(missing_ok=True)
