// Spans, as OpenTelemetry's own decoder reads them: the ids that client and endpoint see, parents, times, attributes.
// `traces.mjs TIDEGATE PYTHON`; Python has `opentelemetry-proto`.

import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import WebSocket, { WebSocketServer } from 'ws'
import { equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, python] = process.argv.slice(2)
const folder = temporaryFolder('traces')
const here = dirname(fileURLToPath(import.meta.url))
const requests = []

/** A collector: keeps each request in a file. */
const collector = createServer((request, response) => {
  const parts = []
  request.on('data', (part) => parts.push(part))
  request.on('end', () => {
    const file = join(folder, `${requests.length}.json`)
    writeFileSync(file, Buffer.concat(parts))
    requests.push({ file, url: request.url, method: request.method, type: request.headers['content-type'] })
    response.setHeader('content-type', 'application/json').end('{}')
  })
})

const spans = () => {
  if (requests.length === 0) return []
  const files = requests.map(({ file }) => file)
  return JSON.parse(execFileSync(python, [join(here, 'traces.py'), ...files], { encoding: 'utf8', maxBuffer: 1 << 26 }))
}

/** Opens a tunnel and sends messages; resolves when it is closed, with what the echo saw of the handshake. */
function talk(port, path, { messages = [], headers = {} } = {}) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, { headers, perMessageDeflate: false })
    let left = messages.length
    const more = () => left === 0 ? socket.close(4000, 'done') : socket.send(messages[messages.length - left])
    socket.on('open', more)
    socket.on('message', () => { left -= 1; more() })
    socket.on('close', done)
    socket.on('unexpected-response', (_, response) => done(response.statusCode))
    socket.on('error', fail)
  })
}

await main(async (check) => {
  await new Promise((ready) => collector.listen(0, '127.0.0.1', ready))
  const echo = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  const seen = []
  echo.on('connection', (socket, request) => {
    seen.push({ path: request.url, field: request.headers.traceparent })
    socket.on('message', (data, binary) => socket.send(data, { binary }))
  })
  await until('the echo', () => echo.address())
  const port = await freePort()
  const config = join(folder, 'tidegate.toml')
  writeFileSync(config, `
[traces]
url = "http://127.0.0.1:${collector.address().port}/v1/traces"
ratio = 1
parent = "any"
service_name = "edge"
[listener.main]
bind = ["127.0.0.1:${port}"]
[[route]]
name = "chat"
path_prefix = "/chat"
upstream = "chat"
[upstream.chat]
endpoints = ["127.0.0.1:${echo.address().port}"]
`)
  const process = start(tidegate, ['run', '--config', config])
  await until('tidegate', () => listens(port))

  const trace = randomBytes(16).toString('hex')
  const caller = randomBytes(8).toString('hex')
  const called = (path, flags) => ({ headers: { traceparent: `00-${trace}-${caller}-${flags}` } })
  const began = Date.now()
  await talk(port, '/chat/called', { ...called('/chat/called', '01'), messages: ['one', Buffer.alloc(70_000), 'three'] })
  await talk(port, '/chat/unsampled', called('/chat/unsampled', '00'))
  await talk(port, '/chat/begun?token=secret')
  equal(await talk(port, '/nowhere'), 404, 'a path without a route')
  await Promise.all(Array.from({ length: 200 }, () => talk(port, '/chat/many')))
  const field = (path) => seen.find((it) => it.path.startsWith(path)).field

  await check('every handshake and every tunnel has arrived, once', async () => {
    await until('all spans', () => spans().length >= 2 + 2 + 1 + 400)
    const ids = spans().map(({ span }) => span)
    equal(ids.length, 405, 'spans')
    equal(new Set(ids).size, 405, 'different ids')
    for (const { method, url, type } of requests) equal(`${method} ${url} ${type}`, 'POST /v1/traces application/json', 'request')
  })
  const all = spans()
  const of = (path) => all.filter(({ attributes }) => attributes['url.path'] === path)
  const pair = (path) => ['SPAN_KIND_SERVER', 'SPAN_KIND_INTERNAL'].map((kind) => of(path).find((it) => it.kind === kind))

  await check('the trace of a caller goes on, through both spans, to the endpoint', () => {
    const [handshake, tunnel] = pair('/chat/called')
    for (const span of [handshake, tunnel]) equal(span.trace, trace, 'trace')
    equal(handshake.parent, caller, 'the parent of the handshake')
    equal(handshake.flags, 0x301, 'flags: sampled, by a remote parent')
    equal(tunnel.parent, handshake.span, 'the parent of the tunnel')
    equal(field('/chat/called'), `00-${trace}-${handshake.span}-01`, 'what the endpoint gets')
  })
  await check('what the caller does not sample has no span, and goes on as it is', () => {
    equal(of('/chat/unsampled').length, 0, 'spans')
    equal(field('/chat/unsampled'), `00-${trace}-${caller}-00`, 'what the endpoint gets')
  })
  await check('a trace that begins here has no parent, and no query', () => {
    const [handshake, tunnel] = pair('/chat/begun')
    equal(handshake.parent, '', 'parent')
    equal(tunnel.trace, handshake.trace, 'trace')
    equal(field('/chat/begun'), `00-${handshake.trace}-${handshake.span}-01`, 'what the endpoint gets')
    equal(JSON.stringify(all).includes('secret'), false, 'the query is in a span')
    equal(new Set(of('/chat/many').map((it) => it.trace)).size, 200, 'traces')
  })
  await check('the times are those of the client', () => {
    const [handshake, tunnel] = pair('/chat/called')
    const times = [began - 1, handshake.began, handshake.ended, tunnel.ended, Date.now() + 1]
    equal(times.every((time, at) => at === 0 || times[at - 1] <= time), true, `in order: ${times}`)
    equal(tunnel.began >= handshake.began && tunnel.began <= handshake.ended + 50, true, `${tunnel.began} ${handshake.ended}`)
  })
  await check('the attributes are those of the conventions, with the values of the client', () => {
    const [handshake, tunnel] = pair('/chat/called')
    const want = (span, attributes) => {
      for (const [name, value] of Object.entries(attributes)) equal(span.attributes[name], value, `${span.name}: ${name}`)
    }
    equal(handshake.name, 'GET chat', 'name')
    want(handshake, {
      'http.request.method': 'GET', 'http.response.status_code': 101, 'url.scheme': 'http', 'server.address': '127.0.0.1', 'server.port': port,
      'client.address': '127.0.0.1', 'network.protocol.version': '1.1', 'tidegate.route': 'chat', 'tidegate.outcome': 'opened',
      'tidegate.endpoint': `127.0.0.1:${echo.address().port}`, 'error.type': undefined,
    })
    // Two short messages with a header of six bytes, a long one of fourteen, a Close with a code and a reason.
    want(tunnel, {
      'tidegate.messages_from_client': 3, 'tidegate.messages_from_endpoint': 3, 'tidegate.reason': 'client-close',
      'tidegate.close_code': 4000, 'tidegate.closed_by': 'client', 'tidegate.bytes_from_client': 9 + 70_014 + 11 + 12,
      'tidegate.session': handshake.attributes['tidegate.session'],
    })
    const [refused] = of('/nowhere')
    equal(`${refused.name} ${refused.kind} ${refused.status}`, 'GET SPAN_KIND_SERVER STATUS_CODE_UNSET', 'a 404')
    want(refused, { 'http.response.status_code': 404, 'tidegate.reason': 'no-route', 'error.type': undefined })
    for (const { resource, scope } of all) equal(`${resource['service.name']} ${scope}`, 'edge tidegate', 'resource')
  })
  await check('the last spans arrive before the process has ended', async () => {
    const held = new WebSocket(`ws://127.0.0.1:${port}/chat/held`)
    await new Promise((open, fail) => { held.on('open', open); held.on('error', fail) })
    process.child.kill('SIGTERM')
    equal(await process.ended, 0, 'exit code')
    const last = spans().filter(({ attributes }) => attributes['url.path'] === '/chat/held')
    equal(last.find(({ kind }) => kind === 'SPAN_KIND_INTERNAL')?.attributes['tidegate.reason'], 'shutdown', 'reason')
  })
})
