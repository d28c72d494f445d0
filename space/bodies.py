"""A limit on what requests carry, apart from files.

Gradio limits the size of uploads. Whatever else is sent to it, it reads whole into memory first.
"""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 2**20  # room for a camera's picture as text


class LimitBodies:
    """Middleware: a request other than an upload has at most MAX_BODY_BYTES, or fails with 413."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith("/upload"):
            return await self.app(scope, receive, send)
        count = 0

        async def receive_limited() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > MAX_BODY_BYTES:
                raise HTTPException(413, f"At most {MAX_BODY_BYTES:,} bytes are accepted.")
            return message

        return await self.app(scope, receive_limited, send)
