"""Photographs come in: one file a request, counted while it comes, kept in memory alone."""

import asyncio
import io
import threading
from typing import TYPE_CHECKING

from PIL import Image

from retfm_jax.experiments.demo import words
from retfm_jax.experiments.demo.front import PHOTOGRAPH
from retfm_jax.experiments.demo.guard import Kept, Limits, Refused, photograph, too_large
from retfm_jax.experiments.demo.words import Words

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

#: Header of a page's requests. Other sites' pages cannot send it without being asked for leave.
HEADER = "x-retfm"
#: Longer side of the photograph that is shown before the network is asked, pixels.
_SIDE = 320
#: What is read of a file that is too large, and thrown away, so that its sender gets the answer.
_THROWN_AWAY = 1 << 30


def add_uploads(app: "FastAPI", kept: Kept, limits: Limits) -> None:
    """Adds the requests on single photographs: POST gives a key, GET a small JPEG, DELETE forgets.

    Args:
      app: gets the routes.
      kept: where photographs are kept.
      limits: what is taken.
    """
    from fastapi import Request  # FastAPI looks for the name where the routes are made
    from fastapi.responses import JSONResponse, Response
    from starlette.concurrency import run_in_threadpool

    places, decoding = asyncio.Semaphore(limits.uploads), threading.Lock()

    def refused(said: Words, status: int) -> JSONResponse:
        told = {"said": "\n".join(dict.fromkeys(said)), "en": said.en, "zh": said.zh}
        return JSONResponse(told, status)

    def looked_at(data: bytes) -> str:
        with decoding:  # one at a time: pixels take ten times the bytes of their file
            photograph(data, limits)
        return kept.put(data)

    def small(data: bytes) -> bytes:
        with decoding:
            picture = Image.fromarray(photograph(data, limits))
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    async def come(request: Request) -> Response:
        if HEADER not in request.headers:
            return Response(status_code=403)
        try:
            async with asyncio.timeout(limits.upload_seconds), places:
                data = await _body(request, limits)
                if data is None:
                    return refused(too_large(limits), 413)
                key = await run_in_threadpool(looked_at, data)
        except TimeoutError:
            return refused(words.SLOW, 408)
        except Refused as error:
            return refused(error.said, 422)
        return JSONResponse({"key": key})

    async def show(key: str) -> Response:
        try:
            data = await run_in_threadpool(lambda: small(kept.get(key)))
        except Refused as error:
            return refused(error.said, 404)
        return Response(data, media_type="image/jpeg")

    async def forget(key: str, request: Request) -> Response:
        if HEADER not in request.headers:
            return Response(status_code=403)
        kept.drop(key)
        return Response(status_code=204)

    app.add_api_route(PHOTOGRAPH, come, methods=["POST"], response_model=None)
    app.add_api_route(f"{PHOTOGRAPH}/{{key}}", show, methods=["GET"], response_model=None)
    app.add_api_route(f"{PHOTOGRAPH}/{{key}}", forget, methods=["DELETE"], response_model=None)


async def _body(request: "Request", limits: Limits) -> bytes | None:
    """The bytes of an upload; None where there are too many."""
    data, count = bytearray(), 0
    async for chunk in request.stream():
        count += len(chunk)
        if count <= limits.file_bytes:
            data += chunk
        else:
            data.clear()
        if count > _THROWN_AWAY:
            break
    return bytes(data) if count <= limits.file_bytes else None
