// Request targets as real clients write them: Chromium, `ws`, undici and Python's `websockets` open a socket with
// every printable character in path and query. Through tidegate, the endpoint sees the bytes that it sees
// directly, or the client gets the one 400 that docs/routing.md lists.

import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import { createServer as createPlainServer } from 'node:net'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { writeFileSync } from 'node:fs'
import { WebSocket as UndiciWebSocket } from 'undici'
import WebSocket from 'ws'
import { openPage } from './chromium.mjs'
import { deadline, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, python, pythonClient] = process.argv.slice(2)
const folder = temporaryFolder('targets')

/** An endpoint that notes the bytes of each target, by the number in its path, and closes each socket. */
async function endpoint() {
  const seen = new Map()
  const server = createPlainServer((socket) => {
    let head = ''
    socket.on('error', () => {})
    socket.on('data', (data) => {
      if (head.endsWith('\r\n\r\n')) return socket.end()
      head += data.toString('latin1')
      if (!head.endsWith('\r\n\r\n')) return
      const target = head.slice('GET '.length, head.indexOf(' HTTP/1.1\r\n'))
      seen.set(Number(target.split('/')[1]), target)
      const key = /^sec-websocket-key: (.*)\r$/im.exec(head)[1]
      const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`)
      socket.write(Buffer.from([0x88, 2, 3, 0xe8]))
    })
  })
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  return { seen, port: server.address().port }
}

/** Every target: `/1/a[z`, `/2/?a[z`, and so on. */
function targets() {
  const all = []
  for (let code = 0x21; code < 0x7f; code += 1) {
    const character = String.fromCharCode(code)
    all.push(`/${all.length}/a${character}z`, `/${all.length + 1}/?a${character}z`)
  }
  return all
}

/** What has to be encoded, so that a client that does not gets 400. */
const refused = (target) => {
  const [path, ...query] = target.split('?')
  return /["#<>\\`]|%(?![0-9a-f]{2})/i.test(path) || /["#<>]/.test(query.join('?'))
}

/** Opens the URLs one after the other with a browser's interface. */
async function openAll(Socket, urls) {
  for (const url of urls) {
    await new Promise((done) => {
      let socket
      try {
        socket = new Socket(url)
      } catch {
        return done()
      }
      socket.onerror = done
      socket.onclose = done
    })
  }
}

async function openAllInPython(urls) {
  const client = spawn(python, [pythonClient], { stdio: ['pipe', 'inherit', 'inherit'] })
  client.stdin.end(`${urls.join('\n')}\n`)
  const [code] = await once(client, 'exit')
  if (code !== 0) throw new Error(`the Python client: ${code}`)
}

/** A page in Chromium that opens sockets. */
async function browser() {
  const server = createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<title>targets</title>'))
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  const page = await openPage(`http://127.0.0.1:${server.address().port}/`, join(folder, 'browser'))
  return (urls) => page.evaluate(`(${openAll})(WebSocket, ${JSON.stringify(urls)})`)
}

await main(async (check) => {
  const { seen, port } = await endpoint()
  const outside = await freePort()
  writeFileSync(join(folder, 'tidegate.toml'), `
[listener.public]
bind = ["127.0.0.1:${outside}"]
[[route]]
upstream = "endpoint"
[upstream.endpoint]
endpoints = ["127.0.0.1:${port}"]
`)
  start(tidegate, ['run', '--config', join(folder, 'tidegate.toml')])
  await until('tidegate', () => listens(outside))
  const clients = {
    ws: (urls) => openAll(WebSocket, urls),
    undici: (urls) => openAll(UndiciWebSocket, urls),
    'websockets (Python)': openAllInPython,
    Chromium: await browser(),
  }
  for (const [name, open] of Object.entries(clients)) {
    await check(`${name}: the endpoint sees the same bytes as directly`, async () => {
      const sent = async (at) => {
        seen.clear()
        await Promise.race([
          open(targets().map((target) => `ws://127.0.0.1:${at}${target}`)),
          new Promise((_, fail) => { setTimeout(fail, deadline, new Error('it takes too long')).unref() }),
        ])
        return new Map(seen)
      }
      const direct = await sent(port)
      const through = await sent(outside)
      if (direct.size < 180) throw new Error(`only ${direct.size} sockets were opened directly`)
      let missing = 0
      for (const [number, target] of direct) {
        if (through.get(number) === target) continue
        if (through.has(number) || !refused(target)) throw new Error(`${target} became ${through.get(number)}`)
        missing += 1
      }
      console.log(`    ${direct.size} targets, ${missing} of them 400`)
    })
  }
})
