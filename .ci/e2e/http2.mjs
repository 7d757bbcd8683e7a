// WebSockets over HTTP/2 (RFC 8441) by programs of others: Node's `http2`, Python's `h2`, nghttpx in front, Chromium
// and Firefox. `http2.mjs TIDEGATE PYTHON [smoke]`; `smoke` leaves out nghttpx, Firefox and what takes long.

import { randomBytes } from 'node:crypto'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import WebSocket from 'ws'
import { browsers } from './http2browsers.mjs'
import { ask, certificate, clientsOf, connectNode, folder, openTunnel, startEndpoint, startProxy, talk } from './http2peers.mjs'
import { equal, freePort, listens, main, start, until } from './process.mjs'

const [tidegate, python, extent] = process.argv.slice(2)
const isSmoke = extent === 'smoke'

/** Messages of every size, some of which deflate well. */
const messages = (number) => ['', `short ${number}`, 'deflates well '.repeat(100 + number), randomBytes(1000 + number), Buffer.alloc(20_000, number)]

/** Opens `count` tunnels at once on one connection. */
const openMany = (session, count) => Promise.all(Array.from({ length: count }, () => openTunnel(session, '/echo')))

async function manyTunnels(proxy) {
  const session = await connectNode(proxy.port)
  const tunnels = await openMany(session, 100)
  const pages = (async () => {
    for (let count = 0; count < 100; count += 1) equal((await ask(session, `/page?${count}`)).body, `/page?${count}`, 'a page')
  })()
  await Promise.all(tunnels.map(async (tunnel, number) => {
    await talk(tunnel, messages(number))
    await talk(tunnel, [randomBytes(200_000)])
  }))
  await pages
  equal(clientsOf(proxy, '/echo').size, 1, 'connections of the tunnels')
  for (const tunnel of tunnels) tunnel.close(1000)
  for (const tunnel of tunnels) equal(await tunnel.closed, 1000, 'the code of a close')
  session.close()
}

/** One endpoint reads nothing of thousands of small messages: the neighbours and page requests notice nothing. */
async function stalled(proxy) {
  const session = await connectNode(proxy.port)
  const tunnels = await openMany(session, 20)
  const stuck = await openTunnel(session, '/stall')
  // Until nothing moves any more: neither what tidegate has pending nor the buffers of the sockets take more. The kernel
  // lets these grow for a while, so that more has to wait than it may take later.
  let count = 0
  while (stuck.bufferedAmount < 2 ** 22) {
    for (let batch = 0; batch < 1000; batch += 1) stuck.send(randomBytes(64), { compress: false })
    count += 1000
    await talk(tunnels[count / 1000 % 20], ['a neighbour'])
    if (count > 1_000_000) throw new Error('the endpoint does not stall')
  }
  await Promise.all(tunnels.map(async (tunnel, number) => {
    for (let round = 0; round < 10; round += 1) await talk(tunnel, messages(number))
  }))
  equal((await ask(session, '/page')).body, '/page', 'a page')
  if (stuck.bufferedAmount < 2 ** 17) throw new Error('the endpoint has not stalled')
  await ask(session, '/resume')
  stuck.send('how many?')
  const [answer] = await once(stuck, 'message')
  equal(answer.toString(), JSON.stringify([count, count * 64]), 'what the stalled endpoint got')
  session.destroy()
}

async function reload(proxy) {
  const session = await connectNode(proxy.port)
  const tunnels = await openMany(session, 20)
  equal((await ask(session)).version, '1', 'the version before')
  await proxy.reload('2')
  await Promise.all(tunnels.map((tunnel, number) => talk(tunnel, messages(number))))
  equal((await ask(session)).version, '2', 'the version of the next request')
  await talk(await openTunnel(session, '/echo'), ['after the reload'])
  equal(session.isGoingAway, false, 'a GOAWAY')
  session.destroy()
}

/** Asks and talks on connections while `drain` happens, until they have ended. Nothing may fail until their turn. */
async function drained(proxy, drain, count) {
  const sessions = await Promise.all(Array.from({ length: count }, () => connectNode(proxy.port)))
  const all = await Promise.all(sessions.map(async (session) => {
    const seen = { session, tunnels: await openMany(session, 30), pages: 0, late: 0 }
    return seen
  }))
  await Promise.all([drain(), ...all.map(async (seen) => {
    const { session, tunnels } = seen
    let turn = false
    for (const tunnel of tunnels) tunnel.closed.then(() => { turn = true })
    const talking = tunnels.map(async (tunnel, number) => {
      while (tunnel.readyState === WebSocket.OPEN) {
        await talk(tunnel, messages(number)).catch((error) => { if (!/closed with 1012/.test(error.message)) throw error })
      }
      equal(await tunnel.closed, 1012, 'the code of a drained tunnel')
    })
    const asking = (async () => {
      while (!session.isGoingAway && !session.closed) {
        equal((await ask(session)).body, '/page', 'a page while the connection drains')
        seen.pages += 1
        if (seen.pages % 10 === 0 && !turn) {
          const late = await openTunnel(session, '/echo').catch((error) => { if (!turn && !session.isGoingAway) throw error })
          if (late) { tunnels.push(late); seen.late += 1; await talk(late, ['late']).catch((error) => { if (!/1012/.test(error.message)) throw error }) }
        }
      }
    })()
    await Promise.all([...talking, asking])
    for (const tunnel of tunnels) equal(await tunnel.closed, 1012, 'the code of a drained tunnel')
    if (!session.closed) await once(session, 'close')
    equal(session.isGoingAway, true, 'a GOAWAY')
  })])
  const pages = all.map((seen) => seen.pages)
  const late = all.map((seen) => seen.late).reduce((sum, each) => sum + each)
  if (Math.min(...pages) < 1 || late < 1) throw new Error(`too little to see: pages ${pages}, tunnels opened while draining ${late}`)
}

async function upgrade(proxy) {
  await drained(proxy, proxy.upgrade, 4)
  const session = await connectNode(proxy.port)
  await talk(await openTunnel(session, '/echo'), ['after the upgrade'])
  session.destroy()
}

/** nghttpx speaks HTTP/2 to tidegate. Its clients speak HTTP/1.1 and HTTP/2, on one connection to tidegate. */
async function behindNghttpx(proxy) {
  const port = await freePort()
  start('nghttpx', ['--conf=/dev/null', '--workers=1', '--insecure', `--backend=127.0.0.1,${proxy.port};;proto=h2;tls`,
    `--frontend=127.0.0.1,${port};tls`, '--errorlog-file=/dev/stderr', '--accesslog-file=/dev/null',
    join(folder, 'key.pem'), join(folder, 'cert.pem')])
  await until('nghttpx', () => listens(port))
  const session = await connectNode(port)
  const overHttp2 = await Promise.all(Array.from({ length: 20 }, () => openTunnel(session, '/echo?nghttpx')))
  const overHttp1 = await Promise.all(Array.from({ length: 20 }, async () => {
    const socket = new WebSocket(`wss://localhost:${port}/echo?nghttpx`, { rejectUnauthorized: false })
    socket.closed = once(socket, 'close').then(([code]) => code)
    await once(socket, 'open')
    equal(socket.extensions, 'permessage-deflate', 'extensions')
    return socket
  }))
  await Promise.all([...overHttp1, ...overHttp2].map((socket, number) => talk(socket, messages(number))))
  equal((await ask(session)).body, '/page', 'a page')
  for (const socket of [...overHttp1, ...overHttp2]) socket.close(1000)
  for (const socket of [...overHttp1, ...overHttp2]) equal(await socket.closed, 1000, 'the code of a close')
  session.close()
}

async function byPython(proxy) {
  const script = join(dirname(fileURLToPath(import.meta.url)), 'http2.py')
  const { stdout } = await promisify(execFile)(python, [script, String(proxy.port)], { timeout: 60_000 })
  equal(stdout.trim().split('\n').at(-1), 'resets', 'the last check')
}

async function stop(proxy) {
  await drained(proxy, async () => proxy.program.child.kill('SIGTERM'), 4)
  equal(await proxy.program.ended, 0, 'the exit code')
}

await main(async (check) => {
  certificate()
  const endpoint = await startEndpoint()
  const proxy = await startProxy(tidegate, endpoint)
  await check('Node: 100 tunnels on one connection, and pages between', () => manyTunnels(proxy))
  await check('Node: a stalled endpoint, its neighbours and pages', () => stalled(proxy))
  await check('Python: messages, early data, windows that are used up, resets', () => byPython(proxy))
  if (!isSmoke) await check('nghttpx in front, with clients in HTTP/1.1 and HTTP/2', () => behindNghttpx(proxy))
  await check('Node: a reload meanwhile', () => reload(proxy))
  await check('Node: an upgrade meanwhile, no request fails', () => upgrade(proxy))
  const stopped = await startProxy(tidegate, endpoint)
  await check('Node: a stop meanwhile, no request fails', () => stop(stopped))
  await browsers(check, { tidegate, isSmoke })
  endpoint.close()
})
