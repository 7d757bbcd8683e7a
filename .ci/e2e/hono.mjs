// The Hono example as its README has it, on free ports: two instances, one tidegate, real clients.

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import WebSocket from 'ws'
import { deadline, equal, freePort, listens, main, start, until } from './process.mjs'

const [tidegate, folder, python, pythonClient] = process.argv.slice(2)

/** A client that has been greeted. */
function greeted(url) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(url, { rejectUnauthorized: false, handshakeTimeout: deadline })
    socket.on('error', fail)
    socket.once('message', (data) => done({ socket, greeting: data.toString() }))
  })
}

function echo(socket, message) {
  return new Promise((done, fail) => {
    socket.once('error', fail)
    socket.once('message', (data, isBinary) => done(isBinary ? data : data.toString()))
    socket.send(message)
  })
}

function get(url) {
  return new Promise((done, fail) => {
    const asked = request(url, { rejectUnauthorized: false }, (answer) => {
      let body = ''
      answer.on('data', (data) => { body += data })
      answer.on('end', () => done({ status: answer.statusCode, body }))
    })
    asked.on('error', fail)
    asked.end()
  })
}

await main(async (check) => {
  execFileSync('./make-cert.sh', { cwd: folder })
  const ports = { one: await freePort(), two: await freePort() }
  const outside = await freePort()
  const instances = {}
  for (const [name, port] of Object.entries(ports)) {
    instances[name] = start('node', ['server.js'], { cwd: folder, env: { ...process.env, NAME: name, PORT: String(port) } })
  }
  for (const port of Object.values(ports)) await until('an instance', () => listens(port))
  const config = readFileSync(join(folder, 'tidegate.toml'), 'utf8')
    .replace('127.0.0.1:8443', `127.0.0.1:${outside}`)
    .replace('127.0.0.1:3001', `127.0.0.1:${ports.one}`)
    .replace('127.0.0.1:3002', `127.0.0.1:${ports.two}`)
  writeFileSync(join(folder, 'tidegate.toml'), config)
  const proxy = start(tidegate, ['run', '--config', 'tidegate.toml'], { cwd: folder })
  await until('tidegate', () => listens(outside))
  const url = `wss://127.0.0.1:${outside}/realtime`

  await check('the npm client talks through wss', async () => {
    const { socket } = await greeted(url)
    equal(await echo(socket, 'hällo'), 'hällo', 'text')
    const binary = Buffer.alloc(1 << 20, 7)
    equal((await echo(socket, binary)).equals(binary), true, '1 MiB of binary')
    socket.close(4001)
    await new Promise((done) => socket.once('close', done))
  })

  await check('the Python client talks through wss', async () => {
    equal(execFileSync(python, [pythonClient, url], { timeout: deadline }).toString(), 'ok\n', 'python')
  })

  await check('two clients are served by two instances', async () => {
    const clients = [await greeted(url), await greeted(url)]
    equal(clients.map((client) => client.greeting).sort().join(), 'hello from one,hello from two', 'greetings')
    for (const client of clients) client.socket.terminate()
  })

  await check('a plain GET gets the answer of the app', async () => {
    const { status, body } = await get(`https://127.0.0.1:${outside}/realtime`)
    equal(status, 200, 'status')
    equal(/^This is (one|two)\. Connect with a WebSocket to talk\.\n$/.test(body), true, body)
  })

  await check('after a kill, new handshakes go to the one that is left', async () => {
    const other = await greeted(url)
    const killed = other.greeting === 'hello from one' ? 'two' : 'one'
    instances[killed].child.kill('SIGKILL')
    await instances[killed].ended
    for (let round = 0; round < 10; round += 1) {
      const { socket, greeting } = await greeted(url)
      equal(greeting, other.greeting, 'greeting')
      socket.terminate()
    }
    equal(await echo(other.socket, 'still here'), 'still here', 'the tunnel from before')
    other.socket.terminate()
  })

  await check('SIGTERM ends it in order', async () => {
    proxy.child.kill('SIGTERM')
    equal(await proxy.ended, 0, 'exit code')
  })
})
