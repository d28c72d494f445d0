"""Serve a model over HTTP.

    pip install fcn-hub fastapi uvicorn
    FCN_HUB_MODEL=owner/name uvicorn --app-dir examples serve_fastapi:app
    curl --data-binary @photo.jpg http://127.0.0.1:8000/segment
    curl --data-binary @photo.jpg http://127.0.0.1:8000/segment?answer=overlay > overlay.png

A picture is the body of the request, so that its size is limited while it arrives. The interactive
description of the API is at /docs. Errors are JSON, {"error": "…"}: 413 for too many bytes, 422 for
something that is not a picture or has too many pixels, 503 where too many requests wait.
"""

import asyncio
import io
import os
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from PIL import Image

from fcn_hub import ImageError, Segmentation, Segmenter

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
MAX_OPEN = 16
Answer = Literal["json", "mask", "overlay"]

app = FastAPI(title="fcn-hub")
segmenter = Segmenter.from_pretrained(
    os.environ["FCN_HUB_MODEL"], max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES
)
network = asyncio.Semaphore(1)  # one picture at a time uses all cores, or the GPU
open_requests = 0


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


@app.exception_handler(Refusal)
def refuse(request: Request, refusal: Refusal) -> Response:
    return JSONResponse({"error": refusal.message}, refusal.status)


@app.post("/segment")
async def segment(request: Request, answer: Answer = "json") -> Response:
    """The classes in a picture with their shares (json), or a PNG: class indices, or an overlay."""
    global open_requests
    if open_requests >= MAX_OPEN:
        raise Refusal(503, "Too many pictures are waiting. Try again in a moment.")
    open_requests += 1
    try:
        picture = await read(request)
        async with network:
            result = await run_in_threadpool(segmenter, picture)
    except ImageError as error:
        raise Refusal(422, str(error)) from None
    finally:
        open_requests -= 1
    return await run_in_threadpool(respond, result, answer)


async def read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Refusal(413, f"Too many bytes; at most {MAX_BYTES:,} are accepted.")
    return bytes(body)


def respond(result: Segmentation, answer: Answer) -> Response:
    if answer == "json":
        return JSONResponse(result.to_dict())
    file = io.BytesIO()
    picture = Image.fromarray(result.label_map) if answer == "mask" else result.overlay(legend=True)
    picture.save(file, format="PNG")
    return Response(file.getvalue(), media_type="image/png")
