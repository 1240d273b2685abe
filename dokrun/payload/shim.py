"""Make `shim.pyz`, the one file that runs in the container, and the command that finds or brings it in any image.

The archive holds `dokrun/shim/` (as the package `dokrun_shim`), the client's own cloudpickle, and of dokrun itself what
the user's modules may refer to when they are imported in the container; it is last in line there, so that an installed
dokrun wins. None of it has docstrings or comments there. The bytes depend on these files alone: no times, no order of
a file system. In the archive the files are stored as they are, which is quickest to import from; it travels compressed
as a whole, which is a quarter smaller than each file on its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cloudpickle

import dokrun.shim
from dokrun.payload.strip import strip
from dokrun.shim import protocol
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
    **{f"dokrun/shim/{name}.py": _itself(name) for name in ("protocol", "report")},
}

# The image may have Python under either name. `$0` is the first word of the command, which is the script below.
ENTRYPOINT = (
    "/bin/sh",
    "-c",
    (
        "p=$(command -v python3 || command -v python) || "
        f'{{ echo "dokrun: this image has neither python3 nor python" >&2; exit {protocol.NO_PYTHON}; }}; '
        'exec "$p" -u -c "$0" "$@"'
    ),
)

# Where an image may have the same bytes, so that they need not be brought.
BAKED_PATH = "/opt/dokrun/shim.pyz"

# How long one try to fetch the shim, some 60 KiB, may take.
PATIENCE_S = 60.0

# The arguments are `protocol`'s. The archive's digest stands in the task definition, which only the client writes; its
# bytes are run only if they match it, wherever they came from.
_BOOTSTRAP = """\
import sys
sys.path[:]=[p for p in sys.path if p]
import base64,hashlib,json,os,tempfile,time,zlib
sha256,carried=sys.argv[1:3]
def once():
 from urllib.request import urlopen
 until=time.monotonic()+%(patience)g
 data=b""
 with urlopen(json.loads(sys.argv[4])["shim"],timeout=%(patience)g)as answer:
  told=answer.length
  most=min(told or 1<<22,1<<22)
  while len(data)<most:
   part=answer.read1(most-len(data))
   if not part and told or time.monotonic()>until:
    raise OSError("it was cut, or came too slowly")
   if not part:
    break
   data+=part
 return data
def fetched():
 for pause in(1,2,4,8,0):
  try:
   return once()
  except Exception as error:
   code=getattr(error,"code",500)
   if not pause or(code<500 and code not in(408,429)):
    sys.exit("dokrun: the shim could not be fetched: "+str(getattr(error,"reason",error)))
   time.sleep(pause)
def unpacked(data):
 try:
  return zlib.decompressobj().decompress(data,1<<22)
 except zlib.error:
  return b""
def baked():
 try:
  with open("%(baked)s","rb")as file:
   return file.read(1<<22)
 except OSError:
  return b""
data=baked()
if hashlib.sha256(data).hexdigest()!=sha256:
 data=unpacked(fetched()if carried=="%(elsewhere)s"else base64.b64decode(carried))
if hashlib.sha256(data).hexdigest()!=sha256:
 sys.exit("dokrun: the shim does not match its digest; nothing was run")
with tempfile.TemporaryDirectory(prefix="dokrun-")as folder:
 path=os.path.join(folder,"shim.pyz")
 with open(path,"wb")as file:
  file.write(data)
 sys.path.insert(0,path)
 from dokrun_shim.__main__ import main
 status=main(sys.argv[3:])
sys.exit(status)
"""


@dataclass(frozen=True)
class Shim:
    """The archive's bytes and their SHA-256; and what travels, the same compressed."""

    data: bytes
    sha256: str
    packed: Segment


@functools.cache
def build() -> Shim:
    """Pack the shim. The same files, packed with the same zlib, give the same bytes."""
    files = {"__main__.py": _MAIN.encode()}
    files |= _python_files(Path(dokrun.shim.__file__).parent, "dokrun_shim")
    files |= _python_files(Path(cloudpickle.__file__).parent, "cloudpickle")
    # A second name, for what older versions have pickled.
    files.pop("cloudpickle/cloudpickle_fast.py", None)
    package = Path(dokrun.shim.__file__).parent.parent
    files |= {f"dokrun/{name}": (package / name).read_bytes() for name in _FOR_USERS}
    files |= _STAND_INS
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            zipped.writestr(entry, strip(files[name]), zipfile.ZIP_STORED)
    data = archive.getvalue()
    return Shim(data, hashlib.sha256(data).hexdigest(), segment_of(zlib.compress(data, 9)))


def _python_files(folder: Path, package: str) -> dict[str, bytes]:
    return {f"{package}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*.py")}


def command(
    payload: str | None, addresses: Mapping[str, object], *, calls: str = "", patience_s: float = PATIENCE_S
) -> list[str]:
    """Tell the command that, behind `ENTRYPOINT`, runs the shim in any image that has Python.

    Args:
        payload: the payload in base 64, if it rides in the command.
        addresses: where the rest is to be had; the command carries the shim itself where they do not name it.
        calls: which calls are to be run, where not all are.
        patience_s: how long one try to fetch the shim may take, in seconds.
    """
    ready = build()
    carried = protocol.FETCHED if "shim" in addresses else base64.b64encode(ready.packed.data or b"").decode()
    table = json.dumps(addresses, separators=(",", ":"))
    script = _BOOTSTRAP % {"baked": BAKED_PATH, "elsewhere": protocol.FETCHED, "patience": patience_s}
    return [script, ready.sha256, carried, payload or protocol.FETCHED, table, *([calls] if calls else [])]
