"""A web service that reads handwritten digits on a warm GPU: asyncio, one session, one model that stays in memory.

    python examples/service.py --port 8000
    curl -s http://127.0.0.1:8000/read -d '[0, 0, 5, 13, …]'   # 64 numbers from 0 to 16

The session begins with the service and ends with it. A request is a call: its coroutine waits for the answer without
keeping the others from going on, and `workers=2` lets two be answered at once. `GET /` tells what it has cost so far.
(`pip install 'dokrun[local,examples]'` brings what it needs.)
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import dokrun as dok

PIXELS = 64
image = dok.Image.debian_slim().pip_install("scikit-learn>=1.4")


@functools.cache
def model() -> Any:
    """Make the model: once in each worker, and warm from then on."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    return SVC(gamma=0.001, C=10).fit(images[::2], digits[::2])


@dok.remote(timeout="1m")
def read(pixels: list[float]) -> int:
    """Tell the digit on one image."""
    return int(model().predict([pixels])[0])


@contextlib.asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, dok.Session]]:
    """Have a session as long as the service runs."""
    async with dok.session(plan="v100-32gb", image=image, workers=2, idle_timeout="15m", reconnect=True) as session:
        yield {"session": session}


async def answer(request: Request) -> JSONResponse:
    """Answer a request for one image."""
    pixels = await request.json()
    if not isinstance(pixels, list) or len(pixels) != PIXELS:
        return JSONResponse({"error": f"send a list of {PIXELS} numbers"}, status_code=400)
    try:
        return JSONResponse({"digit": await request.state.session.submit(read, pixels)})
    except dok.CallFailed as error:
        return JSONResponse({"error": error.args[0], "ran": error.ran}, status_code=503)


async def meter(request: Request) -> JSONResponse:
    """Tell what the session has cost so far."""
    told = request.state.session.meter
    return JSONResponse({"yen": None if told.yen is None else float(told.yen), "calls": told.calls})


app = Starlette(routes=[Route("/", meter), Route("/read", answer, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    """Serve on this machine, until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Read handwritten digits.")
    parser.add_argument("--port", type=int, default=8000, help="where it listens on 127.0.0.1; 0 is a free port")
    uvicorn.run(app, port=parser.parse_args().port)


if __name__ == "__main__":
    main()
