"""Pictures and clips by URL, within limits.

Programs may name a file by its URL instead of sending it. Gradio then downloads it, guarded
against addresses inside the server's own network but of any size and for any time. `limit_fetching`
puts a download with limits in its place, with the same guard.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import gradio as gr
import httpx
import safehttpx

FETCH_SECONDS = 20
_REDIRECTS = 5


async def fetch(url: str, folder: Path, max_bytes: int) -> Path:
    """Download what a URL names into a folder, under a name of our own.

    Raises:
        gradio.Error: No answer in time, an error, too many bytes, or an address that is not public.
    """
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{secrets.token_hex(4)}"
    try:
        path.write_bytes(await asyncio.wait_for(_get(url, max_bytes), FETCH_SECONDS))
    except gr.Error:
        raise
    except (asyncio.TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
        raise gr.Error(
            "The file could not be fetched from that address.", print_exception=False
        ) from None
    return path


async def _get(url: str, max_bytes: int) -> bytes:
    for _ in range(_REDIRECTS):
        host = httpx.URL(url).host
        # Raises ValueError unless the name resolves to a public address, which is then used.
        transport = safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(host))
        async with (
            httpx.AsyncClient(transport=transport, timeout=FETCH_SECONDS) as client,
            client.stream("GET", url, follow_redirects=False) as response,
        ):
            if response.has_redirect_location:
                url = urljoin(url, response.headers["Location"])
                continue
            response.raise_for_status()
            chunks = bytearray()
            async for chunk in response.aiter_bytes():
                chunks += chunk
                if len(chunks) > max_bytes:
                    raise gr.Error(
                        f"The file has too many bytes; at most {max_bytes:,} are accepted.",
                        print_exception=False,
                    )
            return bytes(chunks)
    raise ValueError("Too many redirects.")


def limit_fetching(demo: gr.Blocks, max_bytes: int, others: Mapping[Any, int]) -> None:
    """Let no component of the page download more than `max_bytes` for a visitor.

    Gradio fetches the URL of any file that is sent to any component, so each of them gets it.

    Args:
        demo: The page.
        max_bytes: The limit.
        others: Components with a limit of their own.
    """

    def limited(block, max_bytes):
        original = block.async_move_resource_to_block_cache

        async def move(url_or_path):
            if not str(url_or_path).lower().startswith(("http://", "https://")):
                return await original(url_or_path)
            folder = Path(block.GRADIO_CACHE)
            folder.mkdir(parents=True, exist_ok=True)
            path = str(await fetch(str(url_or_path), folder, max_bytes))
            block.temp_files.add(path)
            return path

        return move

    for block in demo.blocks.values():
        if hasattr(block, "async_move_resource_to_block_cache"):
            block.async_move_resource_to_block_cache = limited(  # type: ignore
                block, others.get(block, max_bytes)
            )
