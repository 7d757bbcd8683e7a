"""tidegate as a service of systemd: the unit as the package installs it, asked for what docs/systemd.md says of it.

Runs in a virtual machine that is there for nothing else: .ci/systemd.
"""

import asyncio
import logging
import os
import re
import signal
import ssl
import stat
import time
import traceback
from pathlib import Path

import websockets

import folders
import memory
from service import (
    CONFIG,
    DROP_INS,
    ENDPOINT,
    OWN,
    PASSED,
    PATIENCE,
    NotRun,
    Visitors,
    drop_in,
    ends,
    expect,
    journal,
    main_pid,
    off_the_loop,
    processes,
    reloads,
    run,
    show,
    systemctl,
    tunnels,
    until,
)


async def the_package_has_started_it_by_itself():
    await until("it serves", lambda: show("ActiveState") == "active")
    expect(show("NotifyAccess") == "main", "the unit as it is")
    expect(show("User") == "" or show("DynamicUser") == "yes", "a user of its own")
    uid = os.stat(f"/proc/{main_pid()}").st_uid
    expect(uid != 0, f"it runs as user {uid}")
    expect("0 tunnels" in show("StatusText"), show("StatusText"))
    expect("tidegate" in run("tidegate", "status"), "operators reach it")


def certificate(key, chain):
    run(
        *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30".split(),
        *"-subj /CN=localhost -addext subjectAltName=DNS:localhost".split(),
        *f"-keyout {key} -out {chain}".split(),
    )
    os.chmod(chain, 0o644)
    os.chmod(key, 0o600)


async def a_key_comes_as_a_credential():
    certificate("/root/chat.key", "/etc/tidegate/chat.pem")
    drop_in("key", "[Service]\nLoadCredential=chat.key:/root/chat.key\n")
    CONFIG.write_text(OWN)
    systemctl("restart", "tidegate.service")
    for client in await tunnels(3):
        await client.close()


async def a_key_that_certbot_renews_is_read_by_its_group():
    run("groupadd", "--system", "tidegate-keys")
    drop_in("keys", Path("/root/keys.conf").read_text())
    lineage = Path("/etc/letsencrypt/live/localhost")
    lineage.mkdir(parents=True)

    def renew():
        certificate(lineage / "privkey.pem", lineage / "fullchain.pem")
        run("env", f"RENEWED_LINEAGE={lineage}", "/root/certbot-deploy-hook")
        return (lineage / "fullchain.pem").read_text().strip()

    def served():
        return ssl.get_server_certificate(("127.0.0.1", 443)).strip()

    first = renew()
    own = OWN.replace("/etc/tidegate/chat.pem", "certificates/localhost.pem")
    CONFIG.write_text(own.replace("${CREDENTIALS_DIRECTORY}/chat.key", "certificates/localhost.key"))
    systemctl("restart", "tidegate.service")
    expect(served() == first, "the first one")
    second = renew()
    await until("the renewed one", lambda: served() == second)
    expect(stat.S_IMODE(os.stat("/etc/tidegate/certificates/localhost.key").st_mode) == 0o640, "the mode")
    expect(reloads() == 0, "nobody asked for a reload")
    CONFIG.write_text(OWN)
    systemctl("restart", "tidegate.service")


async def reload_takes_the_file_and_shows_its_mistakes():
    CONFIG.write_text(OWN.replace('name = "all"', 'name = "other"'))
    systemctl("reload", "tidegate.service")
    await until("the reload", lambda: reloads() == 1)
    CONFIG.write_text(OWN + "colour = 3\n")
    systemctl("reload", "tidegate.service")
    await until("the mistake in the status", lambda: "colour" in show("StatusText"))
    expect(show("ActiveState") == "active", "it goes on")
    CONFIG.write_text(OWN)
    systemctl("reload", "tidegate.service")
    await until("a good status", lambda: "endpoints up" in show("StatusText"))


async def with_notify_reload_a_reload_is_waited_for():
    if int(run("systemctl", "--version").split()[1]) < 253:
        raise NotRun("this systemd is older than 253")
    drop_in("notify-reload", Path("/root/notify-reload.conf").read_text())
    systemctl("restart", "tidegate.service")
    for name in ["one", "two", "three"]:
        CONFIG.write_text(OWN.replace('name = "all"', f'name = "{name}"'))
        systemctl("reload", "tidegate.service")
        shown = run("tidegate", "explain", "wss://localhost/").split("\n")
        expect(f"route     {name}" in shown, shown)
    CONFIG.write_text(OWN + "colour = 3\n")
    systemctl("reload", "tidegate.service")
    expect("colour" in show("StatusText"), show("StatusText"))
    CONFIG.write_text(OWN)
    systemctl("reload", "tidegate.service")
    expect(show("ActiveState") == "active", "it is active again")


async def an_upgrade_makes_the_new_process_the_main_one():
    for ask in (
        lambda: run("tidegate", "upgrade"),
        lambda: systemctl("kill", "--kill-who=main", "--signal=USR2", "tidegate.service"),
    ):
        old = main_pid()
        clients = await tunnels(20)
        async with Visitors() as visitors:
            await visitors.more(3)
            await off_the_loop(ask)
            await until("another main process", lambda: main_pid() not in (0, old))
            new = main_pid()
            expect(processes() == {old, new}, "both are there")
            closed = await ends(clients)
            await until("the old one leaves", lambda: processes() == {new})
            await visitors.more(3)
            # Who is at it when the old one closes is told so, as all its tunnels are.
            lost = [it for it in visitors.failed if "1012" not in it]
            expect(not lost, lost)
        expect(set(closed) == {(1012, "shutdown")}, closed)
        expect(show("ActiveState") == "active" and main_pid() == new, "it goes on as the main one")
        expect(show("NRestarts") == "0", "nothing was restarted")
        # It is the new one that is reached.
        before = reloads()
        systemctl("reload", "tidegate.service")
        await until("a reload", lambda: reloads() > before)


async def the_watchdog_is_fed_by_whoever_is_the_main_one():
    drop_in("watchdog", "[Service]\nWatchdogSec=6s\nTimeoutAbortSec=2s\n")
    systemctl("restart", "tidegate.service")
    await off_the_loop(run, "tidegate", "upgrade")
    new = main_pid()
    await asyncio.sleep(15)
    expect(main_pid() == new and show("NRestarts") == "0", "it is well, and left alone")
    os.kill(new, signal.SIGSTOP)
    await until("another one", lambda: main_pid() not in (0, new))
    expect(show("NRestarts") == "1", show("NRestarts"))
    await until("it serves", lambda: show("ActiveState") == "active")
    await tunnels(1)
    (DROP_INS / "watchdog.conf").unlink()
    systemctl("daemon-reload")
    systemctl("restart", "tidegate.service")


def said(what):
    return sum(what in line for line in journal().split("\n"))


async def begun_upgrade():
    """The new process of an upgrade, once it accepts connections. The old one is the main process still."""
    accepts = "the new process accepts connections"
    before = said(accepts)
    systemctl("kill", "--kill-who=main", "--signal=USR2", "tidegate.service")
    await until("the new process", lambda: said(accepts) > before)
    (line,) = [line for line in journal().split("\n") if accepts in line][before:]
    return int(re.search(r"pid=(\d+)", line)[1])


async def if_the_new_process_dies_at_once_the_old_one_serves_on():
    old, restarts = main_pid(), show("NRestarts")
    failed = "upgrade failed; this process stays"
    before = said(failed)
    os.kill(await begun_upgrade(), signal.SIGKILL)
    await until("the old one", lambda: said(failed) > before)
    for client in await tunnels(3):
        await client.close()
    expect(main_pid() == old and show("NRestarts") == restarts, "systemd has noticed nothing")


async def if_the_new_process_dies_while_the_old_one_drains_it_is_restarted():
    CONFIG.write_text(OWN.replace('drain = "8s"', 'drain = "10m"'))
    systemctl("restart", "tidegate.service")
    clients = await tunnels(5)
    await off_the_loop(run, "tidegate", "upgrade")
    new = main_pid()
    os.kill(new, signal.SIGKILL)
    await until("another one", lambda: main_pid() not in (0, new))
    await until("it serves", lambda: show("ActiveState") == "active")
    await tunnels(1)
    expect(set(await ends(clients)) == {(1012, "shutdown")}, "the old one has left in order")
    CONFIG.write_text(OWN)
    systemctl("restart", "tidegate.service")


async def through_a_crash_whoever_connects_waits():
    # Or else systemd stops trying, after five.
    drop_in("crash", "[Unit]\nStartLimitIntervalSec=0\n")
    expect(int(show("NFileDescriptorStore")) >= 2, "systemd keeps the sockets")
    for after_upgrade in (False, True, False):
        if after_upgrade:
            await off_the_loop(run, "tidegate", "upgrade")
            await until("one process", lambda: len(processes()) == 1)
        async with Visitors() as visitors:
            await visitors.more(2)
            old = main_pid()
            # Who has a tunnel, or has been accepted, loses it: nobody else.
            expected = len(visitors.failed)
            os.kill(old, signal.SIGKILL)
            await until("another one", lambda: main_pid() not in (0, old))
            await visitors.more(3)
            lost = visitors.failed[expected:]
            expect(len(lost) <= 1, lost)
            expect(not any("refused" in it.lower() for it in lost), lost)
        expect(int(show("NFileDescriptorStore")) >= 2, "and keeps them on")


async def stopped_in_order(clients, how="stop"):
    asked = asyncio.create_task(off_the_loop(systemctl, how, "tidegate.service"))
    closed = await ends(clients)
    await asked
    expect(set(closed) == {(1012, "shutdown")}, closed)
    expect(show("Result") == "success", show("Result"))
    if how == "stop":
        expect(not processes(), "nobody is left")
        expect(show("ActiveState") == "inactive", show("ActiveState"))
        expect(show("NFileDescriptorStore") == "0", "and no socket")


async def a_stop_ends_every_generation_in_order():
    CONFIG.write_text(OWN.replace('drain = "8s"', 'drain = "10m"'))
    # Without tunnels the new process, which is the main one, ends first.
    for of_the_new_one in (10, 0):
        systemctl("restart", "tidegate.service")
        clients = await tunnels(10)
        await off_the_loop(run, "tidegate", "upgrade")
        clients += await tunnels(of_the_new_one)
        expect(len(processes()) == 2, processes())
        await stopped_in_order(clients)
    CONFIG.write_text(OWN)


async def a_stop_during_an_upgrade_ends_both_processes_in_order():
    for of_the_old_one in (3, 0):
        systemctl("start", "tidegate.service")
        clients = await tunnels(of_the_old_one)
        await begun_upgrade()
        clients += await tunnels(2)
        await stopped_in_order(clients)


async def a_stop_and_a_restart_after_an_upgrade_are_in_order():
    systemctl("start", "tidegate.service")
    for how in ("restart", "stop"):
        await off_the_loop(run, "tidegate", "upgrade")
        # Its parent is gone.
        await until("one process", lambda: len(processes()) == 1)
        await stopped_in_order(await tunnels(5), how)


async def sockets_of_systemd_start_it_and_outlive_it():
    Path("/etc/systemd/system/tidegate.socket").write_text(Path("/root/tidegate.socket").read_text())
    CONFIG.write_text(PASSED)
    systemctl("daemon-reload")
    systemctl("start", "tidegate.socket")
    expect(show("ActiveState") == "inactive", "nobody has come yet")
    async with Visitors() as visitors:
        await visitors.more(1)
        expect(show("ActiveState") == "active", "somebody came")
        first = main_pid()
        for _ in range(2):
            await off_the_loop(systemctl, "restart", "tidegate.service")
            await visitors.more(3)
        await off_the_loop(run, "tidegate", "upgrade")
        await visitors.more(3)
        expect(main_pid() != first, "another process")
        lost = [it for it in visitors.failed if "1012" not in it]
        expect(not lost, lost)
    systemctl("stop", "tidegate.socket", "tidegate.service")


CHECKS = [
    the_package_has_started_it_by_itself,
    a_key_comes_as_a_credential,
    a_key_that_certbot_renews_is_read_by_its_group,
    reload_takes_the_file_and_shows_its_mistakes,
    with_notify_reload_a_reload_is_waited_for,
    *folders.CHECKS,
    *memory.CHECKS,
    an_upgrade_makes_the_new_process_the_main_one,
    the_watchdog_is_fed_by_whoever_is_the_main_one,
    if_the_new_process_dies_at_once_the_old_one_serves_on,
    if_the_new_process_dies_while_the_old_one_drains_it_is_restarted,
    through_a_crash_whoever_connects_waits,
    a_stop_ends_every_generation_in_order,
    a_stop_during_an_upgrade_ends_both_processes_in_order,
    a_stop_and_a_restart_after_an_upgrade_are_in_order,
    sockets_of_systemd_start_it_and_outlive_it,
]


async def echo(client):
    async for message in client:
        await client.send(message)


async def main():
    # Who is killed in the middle of something is one of the checks.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    print(run("systemctl", "--version").split("\n")[0])
    passed, failed = 0, 0
    async with websockets.serve(echo, "127.0.0.1", ENDPOINT):
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            begun = time.monotonic()
            try:
                await asyncio.wait_for(check(), 5 * PATIENCE)
                passed += 1
                print(f"ok  {name} ({time.monotonic() - begun:.0f} s)")
            except NotRun as why:
                print(f"NOT RUN  {name}: {why}")
            except Exception:
                failed += 1
                print(f"not ok  {name}")
                traceback.print_exc()
                print(*(line[:200] for line in journal().split("\n")[-20:]), sep="\n")
                print(systemctl("status", "--no-pager", "--lines=0", "tidegate.service", check=False))
    print(f"{passed} passed, {failed} failed")


asyncio.run(main())
