"""Opens the WebSocket URLs on standard input, one after the other, with the `websockets` package."""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI


async def main() -> None:
    for url in sys.stdin.read().splitlines():
        try:
            async with connect(url, open_timeout=10) as socket:
                await socket.recv()
        except (ConnectionClosed, InvalidURI):
            pass
        except InvalidStatus as refused:
            assert refused.response.status_code == 400, (url, refused)


asyncio.run(main())
