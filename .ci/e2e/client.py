"""A client of the Hono example, by the `websockets` package."""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect


async def main() -> None:
    trust = ssl.create_default_context()
    trust.check_hostname = False
    trust.verify_mode = ssl.CERT_NONE
    async with connect(sys.argv[1], ssl=trust, max_size=None) as socket:
        assert (await socket.recv()).startswith("hello from ")
        for message in ["text", b"\x00\xff" * 100_000, ""]:
            await socket.send(message)
            assert await socket.recv() == message
        pong = await socket.ping()
        await pong
    assert socket.close_code == 1000, socket.close_code
    print("ok")


asyncio.run(asyncio.wait_for(main(), 20))
