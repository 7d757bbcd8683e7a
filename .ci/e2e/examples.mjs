// The examples, as far as this machine can start them: `examples.mjs TIDEGATE EXAMPLES`. Those for container engines run
// without one: the same configuration and the same backends, at addresses of this machine.

import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import WebSocket from 'ws'
import { equal, freePort, listens, main, start, until } from './process.mjs'

const [tidegate, examples] = process.argv.slice(2)
const here = dirname(fileURLToPath(import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'examples-'))

/** Whether a program is there and works. */
function works(...command) {
  try {
    execFileSync(command[0], command.slice(1), { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** A client: who answered, and how its tunnel ended. */
async function connect(port) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`)
  const closed = new Promise((next) => socket.on('close', next))
  const greeting = await new Promise((next, failed) => {
    socket.once('message', (data) => next(`${data}`))
    socket.on('error', failed)
  })
  return { socket, closed, name: greeting.replace('connected to ', '') }
}

await main(async (check) => {
  await check('compose: both backends answer, and one that stops takes only its own tunnels along', async () => {
    // Beside this file, where its dependency is.
    copyFileSync(join(examples, 'compose/backend/server.js'), join(here, 'backend-of-compose.mjs'))
    let configuration = readFileSync(join(examples, 'compose/config/config.toml'), 'utf8')
    const backends = {}
    for (const name of ['one', 'two']) {
      const port = await freePort()
      const env = { ...process.env, NAME: name, PORT: `${port}` }
      backends[name] = start(process.execPath, [join(here, 'backend-of-compose.mjs')], { env })
      await until(name, () => listens(port))
      configuration = configuration.replace(`${name}:9000`, `127.0.0.1:${port}`)
    }
    const port = await freePort()
    configuration = configuration.replace('0.0.0.0:8080', `127.0.0.1:${port}`)
    writeFileSync(join(folder, 'tidegate.toml'), `${configuration}\n[admin]\nbind = "off"\n`)
    start(tidegate, ['run', '--config', join(folder, 'tidegate.toml')])
    await until('tidegate', () => listens(port))
    const clients = []
    for (let count = 0; count < 6; count += 1) clients.push(await connect(port))
    const of = (name) => clients.filter((client) => client.name === name)
    equal(`${of('one').length} ${of('two').length}`, '3 3', 'tunnels of the backends')
    equal(await (await fetch(`http://127.0.0.1:${port}/page`)).text().then((text) => text.endsWith(' answers /page\n')), true, 'a page')
    backends.one.child.kill('SIGTERM')
    for (const client of of('one')) equal(await client.closed, 1012, 'the Close of a backend that stops')
    equal((await connect(port)).name, 'two', 'the backend of a new client')
    for (const { socket } of of('two')) equal(socket.readyState, WebSocket.OPEN, 'a tunnel of the other backend')
  })
  if (works('docker', 'compose', 'version') && works('docker', 'info')) {
    await check('compose: the engine accepts the file', async () => {
      execFileSync('docker', ['compose', '-f', join(examples, 'compose/compose.yaml'), 'config', '--quiet'])
    })
  } else {
    console.log('    not started: compose.yaml, because no container engine runs here; tests/docs parses it')
  }
  if (works('kubectl', 'version', '--client')) {
    await check('kubernetes: kustomize builds it', async () => {
      execFileSync('kubectl', ['kustomize', join(examples, 'kubernetes')], { stdio: ['ignore', 'ignore', 'inherit'] })
    })
  } else {
    console.log('    not started: kubernetes, because there is no cluster here; tests/docs parses it')
  }
  rmSync(folder, { recursive: true, force: true })
})
