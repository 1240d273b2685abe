"""Make `shim.pyz`, the one file that runs in the container, and the command that brings it into any image.

The archive holds `dokrun/shim/` (as the package `dokrun_shim`), the client's own cloudpickle, and of dokrun itself what
the user's modules may refer to when they are imported in the container; it is last in line there, so that an installed
dokrun wins. The bytes depend on these files alone: no times, no order of a file system.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cloudpickle

import dokrun.shim

# The oldest time a zip archive can hold; a fixed one makes the bytes reproducible.
_TIME = (1980, 1, 1, 0, 0, 0)
_MAIN = "import sys\nfrom dokrun_shim.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"

# Standard library only, all of them: `import dokrun` and `@dok.remote(…)` must work where dokrun is not installed.
_FOR_USERS = (
    "__init__.py",
    "cost.py",
    "errors.py",
    "function.py",
    "future.py",
    "options.py",
    "shim/__init__.py",
    "shim/protocol.py",
)

# The image may have Python under either name. `$0` is the first word of the command, which is the script below.
ENTRYPOINT = ("/bin/sh", "-c", 'exec "$(command -v python3 || command -v python || echo python3)" -u -c "$0" "$@"')

# Arguments: the shim's URL and SHA-256. The digest stands in the task definition, which only the client writes; the
# bytes are run only if they match it.
_BOOTSTRAP = """\
import hashlib,os,sys,tempfile,time
from urllib.request import urlopen
url,sha256=sys.argv[1:3]
for pause in(1,2,4,8,0):
 try:
  data=urlopen(url,timeout=60).read(1<<22)
  break
 except OSError as error:
  code=getattr(error,"code",500)
  if not pause or(code<500 and code not in(408,429)):
   sys.exit("dokrun: the shim could not be fetched: %s"%getattr(error,"reason",error))
  time.sleep(pause)
if hashlib.sha256(data).hexdigest()!=sha256:
 sys.exit("dokrun: the shim does not match its digest; nothing was run")
with tempfile.TemporaryDirectory(prefix="dokrun-") as folder:
 path=os.path.join(folder,"shim.pyz")
 with open(path,"wb")as file:file.write(data)
 sys.path.insert(0,path)
 from dokrun_shim.__main__ import main
 status=main([])
sys.exit(status)
"""


@dataclass(frozen=True)
class Shim:
    """The archive's bytes and their SHA-256."""

    data: bytes
    sha256: str


@functools.cache
def build() -> Shim:
    """Pack the shim. The same files, packed with the same zlib, give the same bytes."""
    files = {"__main__.py": _MAIN.encode()}
    files |= _python_files(Path(dokrun.shim.__file__).parent, "dokrun_shim")
    files |= _python_files(Path(cloudpickle.__file__).parent, "cloudpickle")
    package = Path(dokrun.shim.__file__).parent.parent
    files |= {f"dokrun/{name}": (package / name).read_bytes() for name in _FOR_USERS}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            zipped.writestr(entry, files[name], zipfile.ZIP_DEFLATED, compresslevel=9)
    data = archive.getvalue()
    return Shim(data, hashlib.sha256(data).hexdigest())


def _python_files(folder: Path, package: str) -> dict[str, bytes]:
    return {f"{package}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*.py")}


def injected_command(url: str, sha256: str) -> list[str]:
    """Tell the command that, behind `ENTRYPOINT`, brings the shim from `url` into an image that has Python."""
    return [_BOOTSTRAP, url, sha256]
