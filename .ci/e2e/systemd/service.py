"""The service, its configuration, and those who connect to it: what every check works with."""

import asyncio
import os
import ssl
import subprocess
import time
from pathlib import Path

import websockets

ENDPOINT = 9001
CONFIG = Path("/etc/tidegate/config.toml")
DROP_INS = Path("/etc/systemd/system/tidegate.service.d")
# An emulated machine is slow; what waits this long hangs.
PATIENCE = 60

LISTENER = """
[server.shutdown]
grace = "6s"

[server.upgrade]
drain = "8s"

[listener.web]
bind = %s

[listener.web.tls]
certificates = [{ cert = "/etc/tidegate/chat.pem", key = "${CREDENTIALS_DIRECTORY}/chat.key" }]

[[route]]
name = "all"
upstream = "app"

[upstream.app]
endpoints = ["127.0.0.1:%d"]
"""
OWN = LISTENER % ('["0.0.0.0:443", "[::]:443"]', ENDPOINT)
PASSED = LISTENER % ('["systemd:web"]', ENDPOINT)


class Failed(Exception):
    """What was expected, and what came instead."""


class NotRun(Exception):
    """What is not here."""


def expect(is_so, what):
    if not is_so:
        raise Failed(what)


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def systemctl(*arguments, check=True):
    return run("systemctl", *arguments, check=check)


def show(name):
    return systemctl("show", "--value", "--property", name, "tidegate.service")


def main_pid():
    return int(show("MainPID"))


def processes():
    group = show("ControlGroup")
    if not group:
        return set()
    return {int(pid) for pid in Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split()}


def journal():
    return run("journalctl", "--unit", "tidegate.service", "--output", "cat", "--no-pager")


def reloads():
    return sum(line.endswith(" INFO configuration reloaded") for line in journal().split("\n"))


def drop_in(name, text):
    DROP_INS.mkdir(exist_ok=True)
    (DROP_INS / f"{name}.conf").write_text(text)
    systemctl("daemon-reload")


async def until(what, is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise Failed(f"waited in vain for {what() if callable(what) else what}")
        await asyncio.sleep(0.1)


async def off_the_loop(work, *arguments):
    """systemctl takes its time, and clients go on meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(None, lambda: work(*arguments))


async def dial(path="/"):
    context = ssl.create_default_context(cafile="/etc/tidegate/chat.pem")
    return await websockets.connect(
        f"wss://localhost{path}", ssl=context, server_hostname="localhost", open_timeout=PATIENCE
    )


async def talk(client, text):
    await client.send(text)
    expect(await client.recv() == text, "an echo")


async def tunnels(count):
    clients = [await dial() for _ in range(count)]
    for number, client in enumerate(clients):
        await talk(client, f"hello {number}")
    return clients


async def ends(clients):
    """How each of them is closed, which has an answer to everything that it says until then."""

    async def end(client):
        try:
            for number in range(10 * PATIENCE):
                await asyncio.wait_for(talk(client, f"message {number}"), PATIENCE)
                await asyncio.sleep(0.1)
            return "never"
        except websockets.ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")

    return await asyncio.gather(*(end(client) for client in clients))


class Visitors:
    """Clients that come one after the other, all the time, each with a path of its own, and count whom nobody
    served."""

    async def __aenter__(self):
        self.served, self.failed = 0, []
        self._coming = asyncio.create_task(self._come())
        return self

    async def _come(self):
        while True:
            try:
                client = await dial(f"/visit/{self.served}")
                await talk(client, "still there?")
                await client.close()
                self.served += 1
            except Exception as error:
                self.failed.append(repr(error))
            await asyncio.sleep(0.02)

    async def more(self, count):
        wanted = self.served + count
        await until(lambda: f"{count} more, not {self.failed}", lambda: self.served >= wanted)

    async def __aexit__(self, *_):
        self._coming.cancel()
