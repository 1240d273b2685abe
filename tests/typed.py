"""Read by type checkers only, mypy and pyright: the types of a function's arguments and result survive `@remote`.

Each `type: ignore` is a mistake that they must see: one that they do not is told as an unused comment.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dokrun as dok

if TYPE_CHECKING:
    from typing_extensions import assert_type

    @dok.remote(plan="h100-80gb", timeout="2h", env={"A": "1"}, tags=["t"], http=dok.Http(8000, path="/lab"))
    def train(name: str, *, epochs: int = 1) -> float:
        return 0.0

    @dok.remote
    def plain(number: int) -> list[int]:
        return [number]

    class Model:
        @dok.remote(plan="h100-80gb")
        def fit(self, steps: int) -> str:
            return ""

    def double(number: int) -> int:
        return 2 * number

    async def wait() -> None:
        assert_type(await train("a"), float)
        assert_type(await train.map(["a", "b"]), list[float])
        async for number in train.map(["a"], order=False):
            assert_type(number, float)
        async with dok.session(plan="h100-80gb", workers=2, reconnect=True) as warm:
            assert_type(warm, dok.Session)
            assert_type(await warm.submit(train, "a"), float)

    assert_type(train("a", epochs=2), dok.Future[float])
    assert_type(train("a").result(timeout=1.0), float)
    assert_type(train.options(http=8000)("a").http_uri, str)
    assert_type(train.local("a"), float)
    assert_type(train.rehearse("a", epochs=2), float)
    assert_type(train.rehearse.in_container("a"), float)
    assert_type(train.options(plan="v100-32gb")("a"), dok.Future[float])
    assert_type(plain(1).result(), list[int])
    assert_type(Model().fit(3), dok.Future[str])
    assert_type(train.map(["a"], tasks=2, workers="auto", order=False, return_exceptions=True), dok.Map[float])
    assert_type(train.starmap([("a",), ["b"]]), dok.Map[float])
    assert_type(next(plain.map(range(3))), list[int])
    assert_type(list(plain.map([1], [2])), list[list[int]])
    assert_type(plain.map([1]).futures, list[dok.Future[list[int]]])
    assert_type(Model().fit.map([1, 2]), dok.Map[str])
    assert_type(dok.prices(), dict[str, dok.Price])
    executor = dok.Executor(4, plan="h100-80gb", timeout="1h")
    standard: concurrent.futures.Executor = executor
    assert_type(executor.submit(double, 1), dok.Future[int])
    assert_type(executor.submit(train, "a", epochs=2), dok.Future[float])
    assert_type(executor.map(double, [1], timeout=1.0), Iterator[int])
    assert_type(executor.map(train, ["a"], chunksize=2), Iterator[float])
    with dok.session(plan="h100-80gb", idle_timeout="5m", max_yen=100, image=dok.Image.debian_slim()) as session:
        assert_type(session, dok.Session)
        assert_type(session.submit(train, "a", epochs=2), dok.Future[float])
        assert_type(session.submit(double, 1), dok.Future[int])
        assert_type(session.submit(Model().fit, 3), dok.Future[str])
        assert_type(train.options(session=session).map(["a"]), dok.Map[float])
        assert_type(session.tunnel(8888), dok.Tunnel)
        model = dok.Actor(Model, session=session, timeout="1m")
        assert_type(model, dok.Actor[Model])
        assert_type(model.made, dok.Future[None])
    assert_type(train.quote("a", epochs=2), dok.Quote)
    assert_type(train.quote.map(["a"], tasks=2), dok.Quote)
    assert_type(train("a").receipt, dok.Receipt | None)
    assert_type(train("a").files(), list[dok.ArtifactFile])
    assert_type(dok.put([1.0]), list[float])

    train(1)  # type: ignore[arg-type]
    session.submit(train, 1)  # type: ignore[call-overload]
    session.submit(double, "many")  # type: ignore[call-overload]
    dok.session(pln="h100-80gb")  # type: ignore[call-arg]
    dok.session(idle_timeout=[5])  # type: ignore[arg-type]
    train.quote(1)  # type: ignore[arg-type]
    train.rehearse(1)  # type: ignore[arg-type]
    train("a", epoch=1)  # type: ignore[call-arg]
    train.options(plan=1)  # type: ignore[arg-type]
    train.options(http="8000")  # type: ignore[arg-type]
    dok.remote(pln="h100-80gb")  # type: ignore[call-overload]
    train.map(["a"], task=2)  # type: ignore[call-arg]
    train.map(["a"], tasks="2")  # type: ignore[arg-type]
    train.map(3)  # type: ignore[arg-type]
    train.starmap(["a"], order=1)  # type: ignore[arg-type]
    executor.submit(double, "many")  # type: ignore[call-overload]
    executor.submit(train, 1)  # type: ignore[call-overload]
    dok.Executor("all")  # type: ignore[arg-type]
    dok.Executor(pln="h100-80gb")  # type: ignore[call-arg]
    Model().fit("many")  # type: ignore[arg-type]
