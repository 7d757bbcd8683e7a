// Upgrades from one release to another and back, under load, in plain text and over TLS: no handshake fails, no tunnel
// ends but by the drain of its process, and what one release keeps the next one knows. What cannot take over leaves the
// running process in service. `upgrades.mjs OLD NEW [smoke]`

import { execFileSync, fork, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { fileURLToPath } from 'node:url'
import WebSocket, { WebSocketServer } from 'ws'
import { equal, freePort, listens, main, start, until } from './process.mjs'

const second = 1000

/** Three endpoints in a process of their own, which reports how many tunnels each has been asked for. */
function endpoints() {
  const opened = [0, 0, 0]
  const servers = opened.map((_, index) => new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false })
    .on('connection', (socket) => {
      opened[index] += 1
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
      socket.on('error', () => {})
    }))
  process.on('message', () => process.send({ opened }))
  process.on('disconnect', () => process.exit())
  Promise.all(servers.map((server) => new Promise((next) => server.on('listening', next))))
    .then(() => process.send({ ports: servers.map((server) => server.address().port) }))
}

/** Clients of one listener: tunnels that talk all the time, and handshakes at a rate. */
class Load {
  constructor(url, { tunnels, rate, pause }) {
    Object.assign(this, { url, rate, pause, tunnels, running: true, open: new Set(), failed: [], lost: [] })
    this.counts = { handshakes: 0, echoes: 0, drained: 0, unanswered: 0 }
    this.since = Date.now()
    for (let count = 0; count < tunnels; count += 1) setTimeout(() => this.keep(), count * 2)
    this.started = 0
    this.timer = setInterval(() => this.next(), 5)
  }

  connect() {
    return new WebSocket(this.url, { perMessageDeflate: false, rejectUnauthorized: false, handshakeTimeout: 120 * second })
  }

  /** One tunnel that sends a message after the other, and opens again when its process drains. */
  keep() {
    const socket = this.connect()
    let opened = false
    let sent = 0
    let answered = 0
    let timer
    const send = () => {
      if (socket.readyState !== WebSocket.OPEN) return
      sent += 1
      socket.send(`${sent}`)
    }
    socket.on('open', () => {
      opened = true
      this.open.add(socket)
      send()
    })
    socket.on('message', (data) => {
      answered += 1
      if (`${data}` !== `${answered}`) this.lost.push(`${data} instead of ${answered}`)
      this.counts.echoes += 1
      timer = setTimeout(send, this.pause)
    })
    socket.on('error', (error) => { if (!opened) this.failed.push(`tunnel: ${error.message}`) })
    socket.on('close', (code, reason) => {
      clearTimeout(timer)
      this.open.delete(socket)
      this.counts.unanswered += sent - answered
      if (!this.running) return
      if (opened && code === 1012) this.counts.drained += 1
      else if (opened) this.lost.push(`${code} ${reason}`)
      this.keep()
    })
  }

  next() {
    const due = Math.floor((Date.now() - this.since) / 1000 * this.rate)
    // A machine that cannot keep up gets fewer: the figures that are printed show how many.
    const pending = () => this.started - this.counts.handshakes - this.failed.length
    for (; this.started < due && pending() < this.rate; this.started += 1) this.once()
  }

  /** A handshake, a message and a Close. */
  once() {
    const socket = this.connect()
    let echoed = false
    let failed
    socket.on('open', () => socket.send('once'))
    socket.on('message', () => {
      echoed = true
      socket.close(1000)
    })
    socket.on('error', (error) => { failed = error.message })
    socket.on('close', (code) => {
      if (!this.running) return
      if (echoed || code === 1012) this.counts.handshakes += 1
      else this.failed.push(`handshake: ${failed ?? code}`)
    })
  }

  async settled() {
    await until(`${this.tunnels} tunnels`, () => this.open.size === this.tunnels, 120 * second)
  }

  assertWhole() {
    equal(this.failed.length, 0, `failed handshakes, such as ${this.failed[0]}`)
    equal(this.lost.length, 0, `lost tunnels, such as ${this.lost[0]}`)
  }

  async stop() {
    clearInterval(this.timer)
    this.seconds = (Date.now() - this.since) / 1000
    // Those under way come to their end.
    await until('the last handshakes', () => this.counts.handshakes + this.failed.length >= this.started, 60 * second)
    this.running = false
    for (const socket of this.open) socket.terminate()
  }
}

/** The timeouts are long: a slow machine is not what is tested. */
const configuration = (ports, addresses, admin, upgrade, more = '') => `
${more}
[server]
workers = 2
[server.upgrade]
${upgrade}
max_generations = 3
[server.access_log]
to = "off"
[admin]
bind = "unix:${admin}"
[listener.plain]
bind = ["127.0.0.1:${ports.plain}"]
timeouts = { request_header = "60s" }
[listener.tls]
bind = ["127.0.0.1:${ports.tls}"]
timeouts = { tls_handshake = "60s", request_header = "60s" }
[listener.tls.tls]
certificates = [{ cert = "server.pem", key = "server.key" }]
[[route]]
upstream = "echo"
[upstream.echo]
endpoints = [${addresses.map((address) => `"${address}"`).join(', ')}]
timeouts = { connect = "60s", handshake = "60s" }
`

/** A program that speaks a later protocol of handovers. */
const stranger = `#!/bin/sh
said='{"says":"hello","protocol":99,"version":"9.0.0"}'
printf "\\\\000\\\\000\\\\000\\\\$(printf '%03o' "\${#said}")\\\\000\\\\000\\\\000\\\\000%s" "$said" >&0
sleep 5
`

/** A running tidegate through its generations. */
class Generations {
  constructor(folder, admin) {
    Object.assign(this, { folder, admin, number: 1, pids: [] })
  }

  run(binary) {
    this.first = start(binary, ['run', '--config', join(this.folder, 'tidegate.toml')], { cwd: this.folder })
  }

  /** What a command of this program prints, and its exit code. The load goes on meanwhile. */
  command(binary, ...args) {
    return new Promise((done) => {
      const child = spawn(binary, [...args, '--admin', `unix:${this.admin}`])
      const ran = { out: '', err: '' }
      child.stdout.on('data', (data) => { ran.out += data })
      child.stderr.on('data', (data) => { ran.err += data })
      child.on('close', (code) => {
        // Successors are not children of this process.
        for (const [, pid] of ran.out.matchAll(/^generation .*process (\d+)/g)) this.pids.push(Number(pid))
        done({ ...ran, code })
      })
    })
  }

  /** Kills every process that was started by an upgrade. */
  end() {
    for (const pid of this.pids) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It has exited.
      }
    }
  }

  async upgrade(from, to) {
    const printed = await this.command(from, 'upgrade', to)
    const version = execFileSync(to, ['--version'], { encoding: 'utf8' }).trim()
    equal(printed.code, 0, `${printed.out}${printed.err}`)
    this.number += 1
    const expected = `generation ${this.number} (${version}, process `
    if (!printed.out.startsWith(expected)) throw new Error(`${printed.out} instead of ${expected}`)
  }

  /** Waits until the previous process has closed its last tunnel and is gone. */
  async drained(binary, drain) {
    await until('the end of the previous process', async () => {
      const status = JSON.parse((await this.command(binary, 'status', '--json')).out)
      return status.status.generations.length === 1
    }, (drain + 120) * second)
  }
}

/** A session ticket of one process, used with the next one. */
function resumed(port, session) {
  return new Promise((done, failed) => {
    const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false, session })
    let ticket
    let isResumed
    socket.on('session', (next) => { ticket = next })
    socket.on('error', failed)
    // A request: tickets of TLS 1.3 come with the first bytes.
    socket.on('secureConnect', () => {
      isResumed = socket.isSessionReused()
      socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
    })
    socket.on('data', () => {})
    socket.on('close', () => done({ isResumed, ticket }))
  })
}

const shown = (load) => `${Math.round(load.counts.handshakes / load.seconds)} handshakes/s, ` +
  `${Math.round(load.counts.echoes / load.seconds)} echoes/s, ${load.counts.drained} tunnels closed by drains ` +
  `(${load.counts.unanswered} messages under way), ${load.failed.length} failed, ${load.lost.length} lost, in ${Math.round(load.seconds)} s`

async function checks(check) {
  const [older, newer, extent] = process.argv.slice(2)
  const isSmoke = extent === 'smoke'
  const size = isSmoke ? { tunnels: 50, rate: 50, pause: 100, drain: 3 } : { tunnels: 500, rate: 200, pause: 250, drain: 20 }
  const folder = mkdtempSync(join(tmpdir(), 'upgrades-'))
  const admin = join(folder, 'admin.sock')
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', 'server.key', '-out', 'server.pem'], { cwd: folder, stdio: 'ignore' })
  writeFileSync(join(folder, 'stranger'), stranger)
  chmodSync(join(folder, 'stranger'), 0o755)

  const backend = fork(fileURLToPath(import.meta.url), ['endpoints'])
  const said = () => new Promise((next) => backend.once('message', next))
  const { ports: backends } = await said()
  const opened = async () => {
    const answer = said()
    backend.send('opened')
    return (await answer).opened
  }
  const addresses = backends.map((port) => `127.0.0.1:${port}`)
  const ports = { plain: await freePort(), tls: await freePort() }
  // Version 0.1.0 has no `settle`.
  const upgrade = `drain = "${size.drain}s"${isSmoke ? '\nsettle = "1s"' : ''}`
  const write = (more) => writeFileSync(join(folder, 'tidegate.toml'), configuration(ports, addresses, admin, upgrade, more))
  write()

  const both = async (scheme, fleet) => {
    fleet.run(older)
    await until('tidegate', () => listens(ports.tls))
    const load = new Load(`${scheme}://127.0.0.1:${scheme === 'wss' ? ports.tls : ports.plain}/`, size)
    await load.settled()
    equal((await fleet.command(older, 'drain', addresses[2])).code, 0, 'the exit code of `drain`')
    // Handshakes that were on their way to it still arrive.
    let before
    await until('the drained endpoint gets nothing new', async () => {
      const seen = before
      before = (await opened())[2]
      await new Promise((next) => setTimeout(next, second))
      return seen === before
    })
    const first = (await resumed(ports.tls)).ticket

    await check(`${scheme}: the release before hands over to this one under load`, async () => {
      await fleet.upgrade(older, newer)
      equal((await resumed(ports.tls, first)).isResumed, true, 'a ticket of the release before resumes its session')
      await fleet.drained(newer, size.drain)
      await load.settled()
      load.assertWhole()
    })
    const later = (await resumed(ports.tls)).ticket

    await check(`${scheme}: what cannot take over leaves this release in service, and the answer says why`, async () => {
      const serving = (await fleet.command(newer, 'status', '--json')).out
      const refused = await fleet.command(newer, 'upgrade', join(folder, 'stranger'))
      equal(refused.code, 7, `the exit code after ${refused.err}`)
      if (!refused.err.includes('another handover protocol')) throw new Error(refused.err)
      // In a smoke test both are this release, which reads that file.
      if (older !== newer) {
        write('include = ["conf.d/*.toml"]')
        const unread = await fleet.command(newer, 'upgrade', older)
        write()
        equal(unread.code, 7, `the exit code after ${unread.out}${unread.err}`)
        if (!unread.err.includes('include')) throw new Error(unread.err)
      }
      equal(JSON.parse((await fleet.command(newer, 'status', '--json')).out).status.pid, JSON.parse(serving).status.pid, 'the serving process')
      load.assertWhole()
    })

    await check(`${scheme}: this release hands over to the one before under load`, async () => {
      await fleet.upgrade(newer, older)
      equal((await resumed(ports.tls, later)).isResumed, true, 'a ticket of this release resumes its session')
      await fleet.drained(older, size.drain)
      await load.settled()
      load.assertWhole()
    })

    await check(`${scheme}: the release before is left in service by what cannot take over, and answers why`, async () => {
      const refused = await fleet.command(older, 'upgrade', join(folder, 'stranger'))
      equal(refused.code, 7, `the exit code after ${refused.err}`)
      if (!refused.err.includes('another handover protocol')) throw new Error(refused.err)
    })

    await check(`${scheme}: nothing failed, nothing was lost, and a drained endpoint stayed drained`, async () => {
      await load.stop()
      load.assertWhole()
      equal((await opened())[2], before, 'tunnels that the drained endpoint was asked for')
      if (load.counts.drained < 2 * size.tunnels * 0.6) throw new Error(`only ${load.counts.drained} tunnels were drained`)
    })
    console.log(`    ${shown(load)}`)
  }
  try {
    for (const scheme of ['ws', 'wss']) {
      const fleet = new Generations(folder, admin)
      try {
        await both(scheme, fleet)
      } finally {
        fleet.end()
      }
      await until('the end of tidegate', async () => !(await listens(ports.plain)))
    }
  } finally {
    backend.disconnect()
    rmSync(folder, { recursive: true, force: true })
  }
}

if (process.argv[2] === 'endpoints') endpoints()
else await main(checks)
