// Real applications behind a tidegate, with the configurations of docs/howto/applications.md:
// node applications.mjs TIDEGATE PAGE FOLDER [smoke]. Without `smoke`, needs mosquitto, novnc, websockify, a VNC server
// (tigervnc-standalone-server) and chromium as well.

import { createServer } from 'node:http'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildSchema } from 'graphql'
import { createClient } from 'graphql-ws'
import { useServer } from 'graphql-ws/use/ws'
import mqtt from 'mqtt'
import { Server } from 'socket.io'
import { io } from 'socket.io-client'
import WebSocket, { WebSocketServer } from 'ws'
import { openPage } from './chromium.mjs'
import { deadline, equal, freePort, listens, main, start, until } from './process.mjs'

const [tidegate, page, folder, mode] = process.argv.slice(2)
const isSmoke = mode === 'smoke'

/** The blocks of the page for these upstreams, with other addresses for their endpoints. */
function configuration(listener, endpoints) {
  const blocks = [...readFileSync(page, 'utf8').matchAll(/```toml\n(.*?)```/gs)].map(([, block]) => block)
  let text = listener
  for (const [upstream, ports] of Object.entries(endpoints)) {
    const block = blocks.find((each) => each.includes(`[upstream.${upstream}]`))
    if (!block) throw new Error(`the page has no ${upstream}`)
    const addresses = ports.map((port) => `"127.0.0.1:${port}"`).join(', ')
    const changed = block.replace(/^endpoints = \[.*\]$/m, `endpoints = [${addresses}]`)
    if (changed === block) throw new Error(`the endpoints of ${upstream} were not found`)
    text += changed
  }
  return text
}

/** A promise that fails if it takes too long. */
const within = (what, promise) => Promise.race([
  promise,
  new Promise((_, fail) => setTimeout(() => fail(new Error(`waited too long: ${what}`)), deadline).unref()),
])

async function socketIo(name) {
  const http = createServer()
  const server = new Server(http, { cors: { origin: true } })
  const sessions = new Set()
  server.on('connection', (socket) => {
    sessions.add(socket.id)
    socket.emit('hello', name)
    socket.on('say', (text, answer) => answer(`${name}: ${text}`))
  })
  await new Promise((done) => http.listen(0, '127.0.0.1', done))
  return { server, http, sessions, port: http.address().port }
}

async function graphQl() {
  const http = createServer((_, response) => response.end('{"data":{"plain":true}}'))
  const schema = buildSchema('type Query { plain: Boolean } type Subscription { count(to: Int!): Int }')
  async function * count({ to }) {
    for (let at = 1; at <= to; at += 1) yield { count: at }
  }
  const sockets = new WebSocketServer({ server: http, path: '/graphql' })
  useServer({ schema, roots: { query: { plain: true }, subscription: { count } } }, sockets)
  await new Promise((done) => http.listen(0, '127.0.0.1', done))
  return http.address().port
}

async function broker() {
  const port = await freePort()
  const file = join(folder, 'mosquitto.conf')
  // With nothing but WebSocket it says that it cannot listen.
  writeFileSync(file, `listener ${port} 127.0.0.1
protocol websockets
listener 0 ${join(folder, 'mqtt.sock')}
allow_anonymous true
persistence false
user root
`)
  start('mosquitto', ['-c', file])
  await until('the broker', () => listens(port))
  return port
}

async function vnc() {
  const screen = 40 + (process.pid % 50)
  start('Xtigervnc', [`:${screen}`, '-SecurityTypes', 'None', '-localhost', '-rfbport', String(5900 + screen), '-geometry', '640x480'])
  await until('the VNC server', () => listens(5900 + screen))
  const port = await freePort()
  start('websockify', ['--web', '/usr/share/novnc', `127.0.0.1:${port}`, `127.0.0.1:${5900 + screen}`])
  await until('websockify', () => listens(port))
  return port
}

await main(async (check) => {
  const outside = await freePort()
  const url = `http://127.0.0.1:${outside}`
  const backends = [await socketIo('one'), await socketIo('two')]
  const endpoints = { socketio: backends.map((each) => each.port), graphql: [await graphQl()] }
  if (!isSmoke) Object.assign(endpoints, { mqtt: [await broker()], novnc: [await vnc()] })
  const listener = `[server]
shutdown = { delay = "0s", grace = "2s" }
[listener.main]
bind = ["127.0.0.1:${outside}"]
`
  const file = join(folder, 'tidegate.toml')
  writeFileSync(file, configuration(listener, endpoints).replaceAll('vnc.example.com', 'vnc.localhost'))
  const proxy = start(tidegate, ['run', '--config', file])
  await until('tidegate', () => listens(outside))

  const origin = 'https://chat.example.com'
  // A new object each time: the client adds its cookies to the headers.
  const options = (from) => ({ withCredentials: true, extraHeaders: { Origin: from }, forceNew: true })
  const clients = []
  const opened = (more) => {
    const client = io(url, { ...options(origin), ...more })
    clients.push(client)
    return within('a client of Socket.IO', new Promise((done, fail) => {
      client.once('hello', (name) => done({ client, name }))
      client.once('connect_error', fail)
    }))
  }
  const asks = async ({ client, name }, text) => {
    const answer = await client.timeout(deadline).emitWithAck('say', text)
    equal(answer, `${name}: ${text}`, 'the answer of the backend that the client knows')
  }

  await check('Socket.IO: sessions begin by polling and change to WebSocket, on two backends', async () => {
    const all = await Promise.all(Array.from({ length: 20 }, () => opened({})))
    for (const each of all) {
      await until('WebSocket', () => each.client.io.engine.transport.name === 'websocket')
      await asks(each, 'after the change')
    }
    const names = new Set(all.map((each) => each.name))
    equal([...names].sort().join(), 'one,two', 'the backends')
  })

  await check('Socket.IO: polling alone stays with its backend', async () => {
    const all = await Promise.all(Array.from({ length: 20 }, () => opened({ transports: ['polling'] })))
    for (let round = 0; round < 5; round += 1) await Promise.all(all.map((each) => asks(each, `round ${round}`)))
    equal(new Set(all.map((each) => each.name)).size, 2, 'the backends')
    for (const { client } of all) equal(client.io.engine.transport.name, 'polling', 'the transport')
  })

  await check('Socket.IO: a page of another origin is refused', async () => {
    const client = io(url, { ...options('https://elsewhere.example'), transports: ['websocket'], reconnection: false })
    await within('the refusal', new Promise((done, fail) => {
      client.once('connect_error', done)
      client.once('connect', () => fail(new Error('connected')))
    }))
    client.close()
  })

  const subscribes = (client, to) => within('a subscription', new Promise((done, fail) => {
    const seen = []
    client.subscribe({ query: `subscription { count(to: ${to}) }` }, {
      next: ({ data }) => seen.push(data.count),
      error: fail,
      complete: () => done(seen),
    })
  }))
  const Origin = class extends WebSocket {
    constructor(address, protocols) { super(address, protocols, { origin: 'https://app.example.com' }) }
  }
  const graphql = createClient({ url: `ws://127.0.0.1:${outside}/graphql`, webSocketImpl: Origin, retryAttempts: 5, lazy: false })

  await check('GraphQL: subscriptions share a connection, and queries are plain requests', async () => {
    const all = await Promise.all(Array.from({ length: 10 }, () => subscribes(graphql, 100)))
    for (const seen of all) equal(seen.length, 100, 'events')
    const answer = await fetch(`${url}/graphql`, { method: 'POST', body: '{}' })
    equal(await answer.text(), '{"data":{"plain":true}}', 'a query')
  })

  let device
  const heard = []
  if (!isSmoke) {
    await check('MQTT: messages of all qualities arrive, large ones too', async () => {
      device = await within('the broker', mqtt.connectAsync(`ws://127.0.0.1:${outside}/mqtt`, { keepalive: 10 }))
      device.on('message', (_, payload) => heard.push(payload.length))
      await device.subscribeAsync('news/#', { qos: 2 })
      for (const qos of [0, 1, 2]) await device.publishAsync('news/today', Buffer.alloc(100_000, 7), { qos })
      await until('three messages', () => heard.length === 3)
      equal(heard.join(), '100000,100000,100000', 'lengths')
    })

    await check('MQTT: a client that sends nothing but pings stays connected', async () => {
      const quiet = await within('the broker', mqtt.connectAsync(`ws://127.0.0.1:${outside}/mqtt`, { keepalive: 3 }))
      let losses = 0
      quiet.on('close', () => { losses += 1 })
      await new Promise((done) => setTimeout(done, 7000))
      equal(losses, 0, 'losses')
      await quiet.endAsync(true)
    })

    await check('noVNC: its page shows a screen in Chromium', async () => {
      const address = `http://vnc.localhost:${outside}/vnc_lite.html`
      const { evaluate, close } = await openPage(address, join(folder, 'profile'))
      await until('the screen', () => evaluate("document.querySelector('canvas')?.width === 640 && /Connected/.test(document.getElementById('status').textContent)"))
      await close()
    })
  }

  await check('a reload interrupts none of them', async () => {
    writeFileSync(file, `${readFileSync(file, 'utf8')}\n[[route]]\npath = "/new"\nrespond = { status = 204 }\n`)
    proxy.child.kill('SIGHUP')
    await until('the reload', async () => (await fetch(`${url}/new`)).status === 204)
    for (const client of clients) equal(client.connected, true, 'a client of Socket.IO')
    equal((await subscribes(graphql, 3)).join(), '1,2,3', 'a subscription')
    if (device) equal(device.connected, true, 'the MQTT client')
  })

  await check('after a stop and a start, all of them are back by themselves', async () => {
    const before = new Set([...backends[0].sessions, ...backends[1].sessions])
    proxy.child.kill('SIGTERM')
    equal(await proxy.ended, 0, 'exit code')
    start(tidegate, ['run', '--config', file])
    await until('tidegate', () => listens(outside))
    await until('the clients of Socket.IO', () => clients.every((client) => client.connected && !before.has(client.id)))
    equal((await subscribes(graphql, 3)).join(), '1,2,3', 'a subscription')
    if (device) {
      await until('the MQTT client', () => device.connected)
      await device.publishAsync('news/again', 'x', { qos: 1 })
      await until('its message', () => heard.length === 4)
    }
  })

  for (const client of clients) client.close()
  await graphql.dispose()
  await device?.endAsync(true)
})
