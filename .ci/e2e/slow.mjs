// slowhttptest, in its header, body and read modes, beside good clients: every attacker is cut off by
// tidegate's deadlines, and no good client loses anything. What good clients wait, and what memory
// tidegate takes, is printed; that depends on the machine.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import WebSocket, { WebSocketServer } from 'ws'
import { deadline, equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate] = process.argv.slice(2)
const attackers = 300
const goodClients = 20
const seconds = 3

/** Echoes messages. */
async function echoes() {
  const sockets = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(data)))
  await new Promise((done) => sockets.on('listening', done))
  return sockets.address().port
}

/** Gives large replies, once a request's body has come; on a thread of its own, for it has much to do. */
async function replies() {
  const thread = new Worker(`
    const { parentPort } = require('node:worker_threads')
    // More than the kernel takes for a client that does not read.
    const large = Buffer.alloc(32 << 20, 'x')
    const server = require('node:http').createServer((asked, answer) => {
      for (const each of [asked, answer]) each.on('error', () => {})
      asked.resume().on('end', () => answer.end(large))
    })
    server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))
  `, { eval: true })
  return new Promise((done) => thread.on('message', done))
}

/** Those that are established, at tidegate's end (proc_net(5)). */
function connections(port) {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const lines = readFileSync('/proc/net/tcp', 'utf8').split('\n').map((line) => line.trim().split(/\s+/))
  return lines.filter(([, address, , state]) => address?.endsWith(local) && state === '01').length
}

function open(url) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(url, { handshakeTimeout: deadline })
    socket.on('error', fail)
    socket.on('open', () => done(socket))
  })
}

function echo(socket, message) {
  return new Promise((done, fail) => {
    socket.once('close', () => fail(new Error('a good client was cut off')))
    socket.once('message', (data) => {
      socket.removeAllListeners('close')
      equal(data.toString(), message, 'what came back')
      done()
    })
    socket.send(message)
  })
}

/** Good clients at work until `over`: the longest wait of 99 in 100, for a message and for a tunnel. */
async function work(url, over) {
  const waits = { echo: [], open: [] }
  let working = true
  const end = () => { working = false }
  over.then(end, end)
  const timed = async (kind, act) => {
    const before = performance.now()
    const result = await act()
    waits[kind].push(performance.now() - before)
    return result
  }
  const pause = () => new Promise((next) => setTimeout(next, 20))
  const talk = async (number) => {
    const socket = await open(url)
    for (let turn = 0; working; turn += 1) {
      await timed('echo', () => echo(socket, `${number} ${turn}`))
      await pause()
    }
    socket.terminate()
  }
  const come = async () => {
    while (working) {
      const socket = await timed('open', () => open(url))
      socket.terminate()
      await pause()
    }
  }
  await Promise.all([...Array.from({ length: goodClients }, (_, number) => talk(number)), come()])
  const late = (all) => all.sort((one, other) => one - other)[Math.floor(all.length * 0.99)].toFixed(1)
  return `p99 ${late(waits.echo)} ms an echo, ${late(waits.open)} ms a handshake`
}

const folder = temporaryFolder('slow')

/** tidegate, whose clients have so many seconds for each step. */
async function proxy(name, echo, large) {
  const port = await freePort()
  const config = join(folder, `${name}.toml`)
  const steps = ['request_header', 'request_body', 'response_body', 'keep_alive'].map((step) => `${step} = "${seconds}s"`)
  writeFileSync(config, `
[server]
log.level = "warn"
[listener.main]
bind = ["127.0.0.1:${port}"]
timeouts = { ${steps.join(', ')} }
[[route]]
path = "/large"
upstream = "large"
[[route]]
upstream = "main"
[upstream.main]
endpoints = ["127.0.0.1:${echo}"]
[upstream.large]
endpoints = ["127.0.0.1:${large}"]
`)
  const { child } = start(tidegate, ['run', '--config', config])
  await until('tidegate to listen', () => listens(port))
  const most = () => {
    const line = readFileSync(`/proc/${child.pid}/status`, 'utf8').split('\n').find((each) => each.startsWith('VmHWM'))
    return `${Math.round(Number(line.split(/\s+/)[1]) / 1024)} MiB at most`
  }
  return { port, url: `ws://127.0.0.1:${port}/`, most }
}

/** Attacks one while good clients are at work at another, or the same. */
async function attacked(mode, target, { url }) {
  let attack
  const cutOff = async () => {
    await until('good clients', () => connections(Number(new URL(url).port)) >= goodClients)
    // Those of good clients, if they are here: a tunnel each, and one that comes and goes.
    const before = connections(target.port)
    attack = start('slowhttptest', [...mode, '-c', `${attackers}`, '-r', `${attackers}`, '-l', '60', '-p', '5',
      '-u', `http://127.0.0.1:${target.port}/large`])
    await until(`${attackers} attackers`, () => connections(target.port) >= before + attackers - 2)
    const came = performance.now()
    // And slowhttptest looks now and then whether it is still served.
    await until('attackers to be cut off', () => connections(target.port) <= before + 2)
    return ((performance.now() - came) / 1000).toFixed(1)
  }
  const over = cutOff()
  const waits = await work(url, over)
  attack.child.kill()
  await attack.ended
  return { after: await over, waits }
}

await main(async (check) => {
  const [echo, large] = [await echoes(), await replies()]
  const [here, elsewhere] = [await proxy('here', echo, large), await proxy('elsewhere', echo, large)]
  console.log(`    alone: ${await work(here.url, new Promise((done) => setTimeout(done, 3000)))}, ${here.most()}`)

  // A head has one deadline, however often something comes; a body and a reader have theirs for each step.
  const modes = {
    'slow heads': ['-H', '-i', '1', '-x', '8'],
    'slow bodies': ['-B', '-i', `${seconds * 3}`, '-s', '8192', '-x', '8'],
    'slow readers': ['-X', '-w', '512', '-y', '1024', '-n', `${seconds * 3}`, '-z', '32', '-k', '1'],
  }
  for (const [name, mode] of Object.entries(modes)) {
    await check(`${attackers} ${name} are cut off, and good clients go on`, async () => {
      // What the attack takes of the machine, and then what it does to others of the same process.
      const machine = await attacked(mode, elsewhere, here)
      console.log(`    attack elsewhere: ${machine.waits}`)
      const { after, waits } = await attacked(mode, here, here)
      console.log(`    attack here:      ${waits}; cut off after ${after} s, ${here.most()}`)
    })
  }
})
