"""The page's server: on this machine alone unless told otherwise, and nothing of it outlives it."""

import asyncio
import contextlib
import importlib.util
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from retfm_jax import extras
from retfm_jax.errors import UserError
from retfm_jax.experiments.demo import examples, words
from retfm_jax.experiments.demo.answers import Reader
from retfm_jax.experiments.demo.cases import open_cases
from retfm_jax.experiments.demo.front import Front
from retfm_jax.experiments.demo.guard import Kept, Limits, Turns, photograph
from retfm_jax.experiments.demo.page import STYLE, make_page
from retfm_jax.experiments.demo.uploads import add_uploads
from retfm_jax.files import PathLike
from retfm_jax.model import load

if TYPE_CHECKING:
    import uvicorn

#: Addresses that only this machine reaches.
_OWN = ("127.0.0.1", "::1", "localhost")
#: Names by which a browser on this machine may call the page; another site's name that was made to
#: lead here is not among them.
_NAMES = ["127.0.0.1", "localhost", "[::1]"]
#: Seconds for the last answers when the server ends, and between two looks for what is too old.
_LAST_SECONDS, _LOOK_EVERY = 3, 20.0
#: Connections at a time, of which a browser has several.
_CONNECTIONS = 256


def demo(
    workdir: PathLike,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    cases: str | None = None,
    split: str = "train",
    data_dir: PathLike = "datasets",
    most_cases: int = 10_000,
    tell: Callable[[str], None] = lambda what: None,
) -> None:
    """Serves the page until a signal ends it.

    Args:
      workdir: of the network, or its checkpoint folder, or whatever `retfm_jax.load` reads.
      host: address that is listened to; others than this machine's own open the page to whoever
        reaches them.
      port: that is listened to; 0 for any free one.
      cases: name or folder of a built dataset whose cases and reports the page may show; None shows
        none.
      split: of that dataset.
      data_dir: where named datasets are.
      most_cases: how many cases are embedded at most.
      tell: is called with a sentence on each step, and on where the page is.

    Raises:
      UserError: gradio is not installed, the port cannot be listened to, the network knows neither
        classes nor texts, or see `retfm_jax.load` and `cases.open_cases`.
    """
    _require_gradio()
    limits = Limits()
    with listening(host, port) as door, own_folder():
        model = load(workdir)
        found = None
        if cases is not None:
            found = open_cases(model, cases, split, data_dir, most_cases)
            tell(
                f"{len(found)} of {found.available} cases of {found.dataset}, {found.split}, are "
                "shown to whoever opens the page: photographs, labels and reports, but no ids"
            )
        reader = Reader(model, limits, found)
        tell("compiling")
        right, left = (photograph(data, limits) for data in examples.patient())
        reader.answer({"right": right})
        reader.answer({"right": right, "left": left})
        server = make_server(reader, host)
        tell(_where(host, door.getsockname()[1]))
        server.run(sockets=[door])


def make_server(reader: Reader, host: str = "127.0.0.1") -> "uvicorn.Server":
    """Makes the server, which `run(sockets=[...])` runs; gradio must be installed.

    Args:
      reader: who answers.
      host: address that is going to be listened to.
    """
    import uvicorn

    app = make_app(reader, anybody=host not in _OWN)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would name what was asked, and when
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return uvicorn.Server(config)


def make_app(reader: Reader, *, anybody: bool = False) -> Front:
    """Makes the application: the page, its uploads, and the front before both.

    Args:
      reader: who answers.
      anybody: whether it may be called by any name of this machine, not by its own names alone.
    """
    import gradio as gr
    from fastapi import FastAPI
    from gradio.themes import Default
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    limits = reader.limits
    kept, turns = Kept(limits), Turns(limits.waiting)

    @contextlib.asynccontextmanager
    async def forgetting(_: Any) -> AsyncIterator[None]:
        async def look() -> None:
            while True:
                await asyncio.sleep(_LOOK_EVERY)
                kept.expire()

        task = asyncio.create_task(look())
        yield
        task.cancel()

    closed: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None}
    app = FastAPI(lifespan=forgetting, **closed)
    add_uploads(app, kept, limits)
    gr.mount_gradio_app(
        app,
        make_page(reader, kept, turns),
        path="/",
        footer_links=[],
        run_history=False,  # it keeps answers in the browser
        app_kwargs=closed,
        allowed_paths=[],
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE,
    )
    named = ["*"] if anybody else _NAMES
    return Front(TrustedHostMiddleware(app, allowed_hosts=named, www_redirect=False))


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listens to a port, so that a wrong one is noticed before the network is read.

    Args:
      host: address.
      port: 0 for any free one.

    Yields:
      the socket.

    Raises:
      UserError: the address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, socket.SOCK_STREAM)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(_CONNECTIONS)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen to port {port} of {host}: {why}; choose another port, or 0 for any "
            "that is free"
        ) from error
    with door:
        yield door


def _where(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    reach = (
        "only this machine reaches it"
        if host in _OWN
        else "WHOEVER reaches this machine can use it: there is no password and no encryption"
    )
    return f"http://{name}:{port} ({reach}); {words.NOTICE.en}"


def _require_gradio() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"the page wants gradio: `{extras.install('demo')}`")


@contextlib.contextmanager
def own_folder() -> Iterator[str]:
    """Gives gradio a folder for whatever it may write; its telemetry is off before its import.

    Yields:
      the folder, which goes when the block ends.
    """
    with tempfile.TemporaryDirectory(prefix="retfm_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        yield folder
