// The peers of the checks of HTTP/2: an endpoint, a tidegate with `http2`, and a client of Node's `http2` module whose
// WebSockets are those of `ws`.

import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { connect } from 'node:http2'
import { join } from 'node:path'
import WebSocket, { extension, PerMessageDeflate, WebSocketServer } from 'ws'
import { equal, freePort, listens, start, temporaryFolder, until } from './process.mjs'

export const folder = temporaryFolder('http2')

export const certificate = () => execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt',
  'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
  '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' })

/**
 * An endpoint with permessage-deflate: `/echo` sends back what comes, `/late` does so and answers its handshake late,
 * `/stall` reads nothing until `/resume` is requested and then counts, `/flood` sends a megabyte at once, and `/reset`
 * ends its connection by a RST. `pages` are its plain responses by path.
 */
export async function startEndpoint(pages = {}) {
  const stalled = new Set()
  const ended = []
  const server = createServer((request, response) => {
    const [path] = request.url.split('?')
    if (path === '/resume') {
      for (const socket of stalled) socket.resume()
      stalled.clear()
    }
    if (path === '/ended') return response.end(JSON.stringify(ended))
    const page = pages[path]
    if (page) response.setHeader('content-type', 'text/html')
    response.end(page ?? request.url)
  })
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: { threshold: 16 }, maxPayload: 2 ** 26 })
  server.on('upgrade', (request, connection, head) => {
    const path = request.url.split('?')[0]
    const begin = () => sockets.handleUpgrade(request, connection, head, (socket) => serve(socket, path, connection))
    if (path === '/late') setTimeout(begin, 300)
    else begin()
  })
  const serve = (socket, path, connection) => {
    socket.on('error', () => {})
    socket.on('close', (code) => ended.push([path, code]))
    if (path === '/stall') {
      let count = 0
      let bytes = 0
      socket.pause()
      stalled.add(socket)
      socket.on('message', (data) => {
        count += 1
        bytes += data.length
        if (data.toString() === 'how many?') socket.send(JSON.stringify([count - 1, bytes - data.length]))
      })
      return
    }
    if (path === '/flood') for (let count = 0; count < 1024; count += 1) socket.send(Buffer.alloc(1024, count), { compress: false })
    socket.on('message', (data, isBinary) => {
      if (path === '/reset') connection.resetAndDestroy()
      else socket.send(data, { binary: isBinary })
    })
  }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { port: server.address().port, ended, close: () => { server.closeAllConnections(); server.close() } }
}

/** A tidegate in front of the endpoint, with `http2`. */
export async function startProxy(tidegate, endpoint) {
  const port = await freePort()
  const path = join(folder, `tidegate-${port}.toml`)
  const configure = (version) => writeFileSync(path, `
[admin]
bind = "unix:${join(folder, `admin-${port}.sock`)}"
[server]
workers = 2
[server.access_log]
to = "stdout"
format = "json"
[server.upgrade]
drain = "3s"
settle = "1s"
[server.shutdown]
grace = "3s"
[listener.public]
bind = ["127.0.0.1:${port}"]
tls = { certificates = [{ cert = "cert.pem", key = "key.pem" }] }
http2 = { streams = 128 }
[[route]]
upstream = "endpoint"
response_headers.set.x-version = "${version}"
[upstream.endpoint]
endpoints = ["127.0.0.1:${endpoint.port}"]
`)
  configure('1')
  const program = start(tidegate, ['run', '--config', path])
  await until('tidegate', async () => {
    if (program.child.exitCode !== null) throw new Error(program.said)
    return listens(port)
  })
  const logged = () => program.said.split('\n').filter((line) => line.startsWith('{')).flatMap((line) => {
    try {
      return [JSON.parse(line)]
    } catch {
      return []
    }
  })
  const reload = async (version) => {
    const before = program.said.split('configuration reloaded').length
    configure(version)
    program.child.kill('SIGHUP')
    await until('the reload', () => program.said.split('configuration reloaded').length > before)
  }
  /** Starts a new process in place of this one. Returns when the old one begins to drain. */
  const upgrade = async () => {
    program.child.kill('SIGUSR2')
    const [, pid] = await until('the upgrade', () => /handover complete.* pid=(\d+)/.exec(program.said))
    // It is not our child, and main() ends only those.
    process.on('exit', () => process.kill(Number(pid), 'SIGKILL'))
  }
  return { port, path, program, logged, reload, upgrade }
}

/** Which clients, by address and port, have opened tunnels to this path. */
export const clientsOf = (proxy, path) => new Set(proxy.logged()
  .filter((line) => line.message === 'tunnel opened' && line.path === path).map((line) => line.client))

/** A connection of Node's `http2`, once the settings of the server are there. */
export async function connectNode(port, options = {}) {
  const session = connect(`https://localhost:${port}`, { rejectUnauthorized: false, ...options })
  session.isGoingAway = false
  session.on('goaway', () => { session.isGoingAway = true })
  session.on('error', () => {})
  if (session.remoteSettings?.enableConnectProtocol === undefined) await once(session, 'remoteSettings')
  equal(session.remoteSettings.enableConnectProtocol, true, 'SETTINGS_ENABLE_CONNECT_PROTOCOL')
  return session
}

/** A WebSocket on a stream of this connection. It has what a `WebSocket` of `ws` has. */
export async function openTunnel(session, path) {
  const stream = session.request({
    ':method': 'CONNECT', ':protocol': 'websocket', ':path': path, 'sec-websocket-version': '13',
    'sec-websocket-extensions': 'permessage-deflate; client_max_window_bits',
  })
  const [head] = await once(stream, 'response')
  equal(head[':status'], 200, 'the status of a handshake')
  const socket = new WebSocket(null, [], { closeTimeout: 10_000, autoPong: true })
  socket._isServer = false
  const offers = extension.parse(head['sec-websocket-extensions'])
  const deflate = new PerMessageDeflate({ threshold: 16 })
  deflate.accept(offers['permessage-deflate'])
  socket._extensions['permessage-deflate'] = deflate
  socket.setSocket(stream, Buffer.alloc(0), { allowSynchronousEvents: true, maxPayload: 2 ** 26 })
  socket.on('error', () => {})
  socket.closed = once(socket, 'close').then(([code]) => code)
  return socket
}

/** Sends each message and compares what comes back. */
export async function talk(socket, messages) {
  for (const message of messages) {
    const heard = once(socket, 'message')
    socket.send(message)
    const [answer] = await Promise.race([heard, socket.closed.then((code) => { throw new Error(`closed with ${code}`) })])
    if (!answer.equals(Buffer.from(message))) throw new Error(`${answer.length} other bytes than the ${message.length} sent`)
  }
}

/** A plain request on this connection. */
export async function ask(session, path = '/page') {
  const stream = session.request({ ':path': path })
  let body = ''
  stream.setEncoding('utf8')
  stream.on('data', (data) => { body += data })
  const [head] = await once(stream, 'response')
  if (!stream.readableEnded) await once(stream, 'end')
  equal(head[':status'], 200, path)
  return { version: head['x-version'], body }
}
