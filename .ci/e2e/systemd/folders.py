"""The folders that systemd makes for the service: one for logs, which logrotate works in, and one for state."""

import gzip
import itertools
import json
import os
import re
import stat
from pathlib import Path

from service import (
    CONFIG,
    OWN,
    Visitors,
    dial,
    expect,
    main_pid,
    off_the_loop,
    processes,
    run,
    show,
    systemctl,
    until,
)

LOG = Path("/var/log/tidegate/access.log")
ROTATED = Path("/var/log/tidegate/access.log.1")
COMPRESSED = Path("/var/log/tidegate/access.log.2.gz")
SHIPPED = "/etc/logrotate.d/tidegate"
# When logrotate has last rotated what.
ROTATIONS = Path("/var/lib/logrotate/status")

STATE = Path("/var/lib/tidegate")


def logged_to(file):
    return f'{OWN}\n[server.access_log]\nto = "{file}"\nformat = "json"\n'


def tunnels_in(*files):
    """The paths of the tunnels that were opened, as these logs have them."""
    text = ""
    for file in files:
        text += gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    # The end of the file may be a line of which the rest is yet to come.
    events = [json.loads(line) for line in text.split("\n")[:-1]]
    return [event["path"] for event in events if event["message"] == "tunnel opened"]


def user():
    """Whom the service runs as."""
    return os.stat(f"/proc/{main_pid()}").st_uid


def has_open(file):
    named = file.stat()
    opened = [os.stat(entry) for entry in Path(f"/proc/{main_pid()}/fd").iterdir()]
    return any((it.st_dev, it.st_ino) == (named.st_dev, named.st_ino) for it in opened)


def as_seen_by_the_service(file):
    """On the disk it may belong to another user: systemd 257 maps the owners in these folders."""
    return Path(f"/proc/{main_pid()}/root{file}").stat()


def expect_to_be_the_services(*files):
    for file in files:
        seen = as_seen_by_the_service(file)
        expect(seen.st_uid == user() != 0, f"{file} belongs to {seen.st_uid}")
        expect(stat.S_IMODE(seen.st_mode) == 0o600, f"{file} has the mode {seen.st_mode:o}")


def output_of(*command):
    """What it writes to standard error, too: logrotate writes everything there."""
    return run("sh", "-c", '"$@" 2>&1', "sh", *command)


async def logrotate_rotates_the_access_log_and_no_line_is_lost():
    CONFIG.write_text(logged_to(LOG))
    systemctl("restart", "tidegate.service")
    expect(LOG.resolve() == Path("/var/log/private/tidegate/access.log"), LOG.resolve())
    async with Visitors() as visitors:
        await visitors.more(3)
        said = await off_the_loop(output_of, "logrotate", "--force", "--verbose", SHIPPED)
        expect("error:" not in said and "insecure" not in said, said)
        expect(ROTATED.exists(), said)
        await visitors.more(3)
        await until("the new file", lambda: LOG.exists() and has_open(LOG) and not has_open(ROTATED))
        # As on a day when the timer starts it, in a sandbox of its own.
        aged = re.sub(rf'("{LOG}") .*', r"\1 2020-1-1-0:0:0", ROTATIONS.read_text())
        expect("2020-1-1" in aged, aged)
        ROTATIONS.write_text(aged)
        await off_the_loop(systemctl, "start", "logrotate.service")
        expect(COMPRESSED.exists(), os.listdir(LOG.parent))
        await until("the new file", lambda: LOG.exists() and has_open(LOG) and not has_open(ROTATED))
        await visitors.more(3)
        served = visitors.served
    files = (COMPRESSED, ROTATED, LOG)
    last = f"/visit/{served - 1}"
    await until("the last line", lambda: last in tunnels_in(LOG))
    # Who was about to be served when the visits ended may be in it, too.
    expected = [f"/visit/{number}" for number in range(served)]
    expect(tunnels_in(*files)[:served] == expected, [expected, *map(tunnels_in, files)])
    expect(all(tunnels_in(file) for file in files), "each has some of the lines")
    expect(not visitors.failed, visitors.failed)
    expect_to_be_the_services(*files)
    users = {os.stat(f"/proc/{pid}").st_uid for pid in processes()}
    expect(users == {user()}, users)
    CONFIG.write_text(OWN)
    systemctl("restart", "tidegate.service")


async def what_the_service_keeps_outlives_it():
    """The access log stands for what the service keeps: it is written by the same user in the same sandbox."""
    kept = STATE / "kept.log"
    expected = []

    async def keeps_on(path):
        expected.append(path)
        client = await dial(path)
        await client.close()
        await until(lambda: f"{path} in {tunnels_in(kept)}", lambda: tunnels_in(kept) == expected)
        expect_to_be_the_services(kept)
        environment = Path(f"/proc/{main_pid()}/environ").read_text().split("\0")
        expect(f"STATE_DIRECTORY={STATE}" in environment, environment)

    CONFIG.write_text(logged_to(kept))
    systemctl("restart", "tidegate.service")
    expect(STATE.resolve() == Path("/var/lib/private/tidegate"), STATE.resolve())
    expect(stat.S_IMODE(STATE.stat().st_mode) == 0o700, "nobody else looks into it")
    expect(as_seen_by_the_service(STATE).st_uid == user() != 0, "it is the service's")
    # logrotate could not enter as the owner, either.
    for folder, owner in itertools.product((STATE, LOG.parent), (user(), STATE.stat().st_uid)):
        outside = ("setpriv", f"--reuid={owner}", "--regid=nogroup", "--clear-groups")
        said = run(*outside, "sh", "-c", f"ls {folder}/ 2>&1; true")
        expect("Permission denied" in said, said)
    await keeps_on("/started")
    systemctl("restart", "tidegate.service")
    await keeps_on("/restarted")
    systemctl("reload", "tidegate.service")
    await keeps_on("/reloaded")
    await upgrade()
    await keeps_on("/upgraded")
    systemctl("stop", "tidegate.service")
    expect(tunnels_in(kept) == expected, "it is there while the service is not")
    CONFIG.write_text(OWN)
    systemctl("start", "tidegate.service")


async def upgrade():
    old = main_pid()
    await off_the_loop(run, "tidegate", "upgrade")
    await until("the new process alone", lambda: processes() == {main_pid()} != {old})


async def the_package_installed_again_ends_nothing():
    """As in an upgrade of the package: dpkg runs the same scripts, with the version that was there before."""
    client, old = await dial(), main_pid()
    said = await off_the_loop(output_of, "dpkg", "--install", "/root/tidegate.deb")
    expect("`tidegate upgrade` hands over" in said, said)
    expect(main_pid() == old and show("NRestarts") == "0", "the same process")
    await client.send("still there?")
    expect(await client.recv() == "still there?", "an echo")
    await client.close()
    expect(CONFIG.read_text() == OWN, "dpkg keeps the configuration")
    await upgrade()


CHECKS = [
    logrotate_rotates_the_access_log_and_no_line_is_lost,
    what_the_service_keeps_outlives_it,
    the_package_installed_again_ends_nothing,
]
