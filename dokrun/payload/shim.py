"""Make the command that finds or brings `shim.pyz` in any image, and starts it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from dokrun.payload.pyz import build
from dokrun.shim import protocol

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

# How long one try to fetch the shim, some 300 KiB, may take.
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
    fetched = "shim" in addresses
    # What is carried has to be short.
    ready = build(with_code=fetched)
    carried = protocol.FETCHED if fetched else base64.b64encode(ready.packed.data or b"").decode()
    table = json.dumps(addresses, separators=(",", ":"))
    script = _BOOTSTRAP % {"baked": BAKED_PATH, "elsewhere": protocol.FETCHED, "patience": patience_s}
    return [script, ready.sha256, carried, payload or protocol.FETCHED, table, *([calls] if calls else [])]
