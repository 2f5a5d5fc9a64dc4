"""Answers over HTTP what an exported classifier says of a photograph.

Needs the folder of `retfm export --to onnx` and the packages of requirements.txt, no retfm_jax:

    RETFM_EXPORT=exported uvicorn --factory app:make_app

A request is one photograph as its body. It is counted while it comes, decoded by its content, and
kept nowhere. Research only; not a medical device.
"""

import asyncio
import importlib.util
import os
import pathlib
import types
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

NOTICE = "For research only. Not a medical device; nothing here is a diagnosis."


class Health(BaseModel):
    """That the network is loaded."""

    status: str


class About(BaseModel):
    """What can be asked.

    Attributes:
      classes: names, in their order; grades from the lowest on.
      outcome: "exclusive", "grades" or "findings".
      fitted_on: what thresholds and sets were fitted on.
      megabytes: largest photograph.
      notice: what the answers are for.
    """

    classes: list[str]
    outcome: str
    fitted_on: dict[str, Any]
    megabytes: float
    notice: str


class Answer(BaseModel):
    """What one photograph shows.

    Attributes:
      classes: the most probable one; of findings those that reach their threshold.
      probabilities: calibrated, by class.
      set: classes that cannot be ruled out; null where no prediction sets were fitted.
      notice: what the answer is for.
    """

    classes: list[str]
    probabilities: dict[str, float]
    set: list[str] | None
    notice: str = NOTICE


class Failure(BaseModel):
    """Why there is no answer."""

    detail: str


_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (408, 413, 422, 503)
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def read_export(folder: pathlib.Path) -> types.ModuleType:
    """Imports the program of an export, which is Python: trust the folder as you trust this file.

    Args:
      folder: of the export, with `model.py`.
    """
    path = folder / "model.py"
    if not path.is_file():
        raise SystemExit(f"RETFM_EXPORT: {path} does not exist; export with `--to onnx` first")
    spec = importlib.util.spec_from_file_location("exported_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_app(
    folder: str | os.PathLike | None = None,
    *,
    megabytes: float | None = None,
    at_once: int | None = None,
    waiting: int = 32,
    seconds: float = 30.0,
) -> FastAPI:
    """Makes the application.

    Args:
      folder: of the export; None: the variable RETFM_EXPORT.
      megabytes: largest photograph; None: RETFM_MEGABYTES, or 32.
      at_once: photographs that are decoded and computed at one time, each of which may take some
        hundred megabytes of memory; None: RETFM_AT_ONCE, or 2.
      waiting: requests that may wait beside them; more get 503.
      seconds: how long a photograph may take to come in.
    """
    folder = pathlib.Path(folder or os.environ.get("RETFM_EXPORT", "/export"))
    largest = float(megabytes or os.environ.get("RETFM_MEGABYTES", 32))
    at_once = at_once or int(os.environ.get("RETFM_AT_ONCE", 2))
    module = read_export(folder)
    program = module.load()
    decisions = getattr(program, "decisions", None)  # programs of structures have none
    if decisions is None:
        raise SystemExit(f"RETFM_EXPORT: the network in {folder} has no classes")
    app = FastAPI(title="retfm_jax classifier", description=NOTICE)
    turns, inside = asyncio.Semaphore(at_once), set[object]()

    @app.get("/healthz")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get("/about")
    async def about() -> About:
        return About(
            classes=decisions["classes"],
            outcome=decisions["outcome"],
            fitted_on=decisions["fitted_on"],
            megabytes=largest,
            notice=NOTICE,
        )

    @app.post("/predict", responses=_FAILURES, openapi_extra=_BODY)
    async def predict(request: Request) -> Answer:
        if len(inside) >= at_once + waiting:
            busy = "too many photographs at once: try again"
            raise HTTPException(503, busy, {"Retry-After": "1"})
        place = object()
        inside.add(place)
        try:
            photograph = await body(request)
            async with turns:
                (said,) = await run_in_threadpool(program.decide, [photograph])
        except module.ImageError as error:
            raise HTTPException(422, str(error)) from error
        finally:
            inside.discard(place)
        return Answer(**said)

    async def body(request: Request) -> bytes:
        """The photograph, of which no more is read than is allowed."""
        data = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > largest * 10**6:
                        raise HTTPException(413, f"a photograph has at most {largest:g} MB")
        except TimeoutError as error:
            raise HTTPException(408, f"the photograph took more than {seconds:g} s") from error
        if not data:
            raise HTTPException(422, "the body is empty: send the bytes of one photograph")
        return bytes(data)

    return app
