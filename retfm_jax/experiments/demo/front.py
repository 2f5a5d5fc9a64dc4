"""What reaches the page's server: known paths, small requests, nothing from other sites."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

#: As ASGI has them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Path of uploads; they bound their own size.
PHOTOGRAPH = "/photograph"
#: What the page itself asks of gradio. Its uploads, its files on the disk, its proxy and its tools
#: for developers are not among them.
_PATHS = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", PHOTOGRAPH}
_BELOW = (
    "/assets/", "/static/", "/svelte/", f"{PHOTOGRAPH}/", "/gradio_api/queue/",
    "/gradio_api/info", "/gradio_api/heartbeat/", "/gradio_api/call/", "/gradio_api/startup-events",
    "/gradio_api/cancel", "/gradio_api/reset",
)  # fmt: skip
#: Bytes of any other request, which holds keys and names of classes.
_BODY = 64 << 10

#: Nothing is loaded from, or sent to, another server; no other page shows this one in a frame.
#: Gradio's interface makes functions of text, so that scripts of this page cannot be fewer.
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_NOT_KEPT = (b"cache-control", b"no-store")


class Front:
    """ASGI application before another one.

    Args:
      app: gets what is let through.
    """

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection, as ASGI says.

        Args:
          scope: of the connection.
          receive, send: its two directions.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"]
        if path not in _PATHS and not path.startswith(_BELOW):
            await _refuse(send, 404)
            return
        if scope["method"] == "POST" and path != PHOTOGRAPH:
            body = await _read(receive)
            if body is None:
                await _refuse(send, 413)
                return
            receive = _replayed(body, receive)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *_headers()]
                kept = path.startswith(("/assets/", "/static/", "/svelte/"))
                message = {**message, "headers": headers + [_NOT_KEPT] * (not kept)}
            await send(message)

        await self._app(scope, receive, guarded)


def _headers() -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in _HEADERS.items()]


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None where it is too large, of which the rest stays unread."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if len(body) > _BODY:
            return None
        if not message.get("more_body", False):
            return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Receives a body that was read before, and then whatever follows."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _refuse(send: Send, status: int) -> None:
    body = json.dumps({"status": status}).encode()
    headers = [(b"content-type", b"application/json"), *_headers(), _NOT_KEPT]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
