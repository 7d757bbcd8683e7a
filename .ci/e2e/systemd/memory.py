"""The limit on the memory of the unit, MemoryMax=: tidegate finds it, and keeps away from it."""

import re
import shutil
from pathlib import Path
from urllib.request import urlopen

import websockets

from service import (
    CONFIG,
    DROP_INS,
    ENDPOINT,
    OWN,
    Failed,
    drop_in,
    expect,
    journal,
    main_pid,
    show,
    systemctl,
    talk,
    until,
)

MIB = 1 << 20
METRICS = "127.0.0.1:9901"
# Without TLS: it is the number of tunnels that counts, and each takes less time.
PLAIN = """
[server.shutdown]
grace = "1s"

[admin]
metrics_bind = "%s"

[listener.plain]
bind = ["127.0.0.1:8080"]

[[route]]
upstream = "app"

[upstream.app]
endpoints = ["127.0.0.1:%d"]
""" % (METRICS, ENDPOINT)
# What `systemctl set-property --runtime` writes.
RUNTIME = Path("/run/systemd/system.control/tidegate.service.d")
# More than the memory that is left for them has room for.
MOST = 1000


def measured(name):
    with urlopen(f"http://{METRICS}/metrics", timeout=60) as response:
        text = response.read().decode()
    found = re.search(rf"^tidegate_memory_{name}_bytes (\S+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def group(file):
    return (Path(f"/sys/fs/cgroup{show('ControlGroup')}") / file).read_text()


async def dial_plain():
    return await websockets.connect("ws://127.0.0.1:8080/", open_timeout=60, ping_interval=None)


async def tunnels_until_rejected():
    """All the tunnels that are opened, and the response to the handshake after them."""
    clients = []
    while len(clients) < MOST:
        try:
            clients.append(await dial_plain())
        except websockets.InvalidStatus as rejected:
            return clients, rejected.response
    raise Failed(f"{MOST} tunnels, {measured('used')} of {measured('limit')} bytes")


async def near_memory_max_handshakes_are_rejected_and_tunnels_stay():
    CONFIG.write_text(PLAIN)
    drop_in("memory", "[Service]\nMemoryMax=256M\n")
    systemctl("restart", "tidegate.service")
    old = main_pid()
    expect(int(group("memory.max")) == 256 * MIB, group("memory.max"))
    expect(measured("limit") == 256 * MIB, measured("limit"))
    used, most = measured("used"), int(group("memory.peak"))
    expect(MIB < used <= most, f"{used} bytes of {most}")

    # Room for some hundred tunnels, set while it runs. What only the start needed may be free by now.
    used = min(used, int(group("memory.current")))
    limit = (used + 2 * MIB) * 10 // 9 // 4096 * 4096
    systemctl("set-property", "--runtime", "tidegate.service", f"MemoryMax={limit}")
    await until("the new limit", lambda: measured("limit") == limit)
    clients, response = await tunnels_until_rejected()
    expect(len(clients) >= 20, f"only {len(clients)} tunnels")
    expect(response.status_code == 503, response.status_code)
    expect(response.headers["tidegate-reason"] == "memory-full", response.headers)
    expect(measured("used") >= limit * 85 // 100, f"{measured('used')} bytes")
    warned = [line for line in journal().split("\n") if "handshakes are rejected" in line]
    expect(len(warned) == 1 and f"limit={limit}" in warned[0], warned)
    for client in clients:
        await talk(client, "still there?")
    expect("\noom_kill 0\n" in group("memory.events"), group("memory.events"))
    expect(main_pid() == old and show("NRestarts") == "0", "nothing was killed")

    systemctl("set-property", "--runtime", "tidegate.service", "MemoryMax=256M")
    await until("enough memory", lambda: "handshakes are accepted" in journal())
    await talk(await dial_plain(), "welcome?")
    print(f"    {len(clients)} idle tunnels between {used} and 90 % of {limit} bytes")
    shutil.rmtree(RUNTIME)
    (DROP_INS / "memory.conf").unlink()
    systemctl("daemon-reload")
    CONFIG.write_text(OWN)
    systemctl("restart", "tidegate.service")


CHECKS = [near_memory_max_handshakes_are_rejected_and_tunnels_stay]
