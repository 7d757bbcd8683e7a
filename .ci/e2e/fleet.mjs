// Three tidegates that share through three etcd members, each pair on a machine of its own (network namespaces), while
// clients keep tunnels open and open new ones: the leader of etcd dies, a member is lost for good, a machine is cut off its
// store, etcd is full, a tidegate is killed and replaced. The clocks of two machines are an hour off, in opposite directions.
// `fleet.mjs TIDEGATE smoke` checks that the three find each other, and share keys; `fleet.mjs TIDEGATE cost` measures what a
// node with many tunnels and endpoints costs etcd.

import { execFile, execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect as connectHttp2 } from 'node:http2'
import { request } from 'node:https'
import { join } from 'node:path'
import { connect as tlsConnect } from 'node:tls'
import { once } from 'node:events'
import { promisify } from 'node:util'
import WebSocket, { WebSocketServer } from 'ws'
import { Cluster } from './etcd.mjs'
import { Machines } from './namespaces.mjs'
import { equal, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, extent] = process.argv.slice(2)
const isSmoke = extent === 'smoke'
const NODES = [1, 2, 3]
const TUNNELS = isSmoke ? 10 : 100
/** Handshakes a second and node. */
const HANDSHAKES = isSmoke ? 2 : 5
/** What the wall clock of a machine shows. */
const CLOCKS = { 1: undefined, 2: '+1h', 3: '-1h' }

/** What the nodes share. */
const SHARED = ['members', 'keys', ...isSmoke ? [] : ['certificates']]

const folder = temporaryFolder('fleet-')
const file = (name) => join(folder, name)
const write = (name, text, mode = 0o600) => {
  writeFileSync(file(name), text, { mode })
  return file(name)
}
const pause = (seconds) => new Promise((next) => setTimeout(next, seconds * 1000))

/** The environment of a program whose wall clock is off; other clocks are right. */
function clock(offset) {
  if (!offset) return {}
  const libraries = execFileSync('dpkg', ['-L', 'libfaketime'], { encoding: 'utf8' }).split('\n')
  const library = libraries.find((path) => path.endsWith('/libfaketimeMT.so.1'))
  return { LD_PRELOAD: library, FAKETIME: offset, FAKETIME_DONT_FAKE_MONOTONIC: '1', DONT_FAKE_MONOTONIC: '1' }
}

/** Certificates that are valid for a day, also where the clock is slow. */
function openssl(...args) {
  execFileSync('openssl', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH, ...clock('-3h') } })
}

const newKey = (name) => ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${name}.key`]

function makeRoot() {
  openssl('req', '-x509', ...newKey('root'), '-days', '2', '-subj', '/CN=test root', '-out', 'root.pem')
}

function makeCertificate(name, names) {
  openssl('req', ...newKey(name), '-subj', `/CN=${name}`, '-out', `${name}.csr`)
  write(`${name}.ext`, `subjectAltName=${names}\n`)
  openssl('x509', '-req', '-in', `${name}.csr`, '-CA', 'root.pem', '-CAkey', 'root.key', '-CAcreateserial', '-days', '2',
    '-extfile', `${name}.ext`, '-out', `${name}.pem`)
  return { cert: file(`${name}.pem`), key: file(`${name}.key`) }
}

const machines = new Machines(NODES.length)
const cluster = new Cluster(machines, folder, file('root.pem'), makeCertificate)

/** Two endpoints, on the machine of the clients; each says who it is. */
async function startEndpoints() {
  for (const [at, port] of [[1, 9001], [2, 9002]]) {
    const server = new WebSocketServer({ host: machines.address('front', 0), port })
    await new Promise((done) => server.on('listening', done))
    server.on('connection', (socket) => {
      socket.send(`endpoint ${at}`)
      socket.on('message', (data) => socket.send(data.toString()))
      socket.on('error', () => {})
    })
  }
}

/** A tidegate on a machine. */
class Node {
  constructor(at) {
    this.at = at
    this.name = `edge-${at}`
    this.admin = `${machines.address('back', at)}:9900`
    this.certificate = makeCertificate(this.name, `DNS:chat.example.com,DNS:${this.name}.internal,IP:${machines.address('front', at)},IP:${machines.address('back', at)}`)
    this.endpoints = [9001, 9002].map((port) => `"${machines.address('front', 0)}:${port}"`)
    this.configure()
  }

  configure() {
    this.config = write(`${this.name}.toml`, this.configuration())
  }

  configuration() {
    const pair = `cert = "${this.certificate.cert}", key = "${this.certificate.key}"`
    return `
[server]
workers = 1
access_log = { to = "off" }
[server.shutdown]
grace = "1s"
[admin]
bind = "${this.admin}"
token_file = "${file('admin.token')}"
tls = { ${pair} }
[store]
secret_file = "${file('fleet.key')}"
[store.etcd]
endpoints = [${NODES.map((at) => `"https://${machines.address('back', at)}:2379"`).join(', ')}]
prefix = "/tidegate/"
user = "tidegate"
password_file = "${file('etcd.password')}"
tls = { ca = "${file('root.pem')}" }
[fleet]
node = "${this.name}"
share = ${JSON.stringify(SHARED)}
admin = { url = "https://${this.admin}", networks = ["${machines.address('back', 0).replace(/\d+$/, '0')}/24"] }
[listener.public]
bind = ["${machines.address('front', this.at)}:8443"]
tls.certificates = [{ ${pair} }${SHARED.includes('certificates') ? ', { names = ["issued.example.com"], acme = "pebble" }' : ''}]
http2 = { streams = 128 }
${SHARED.includes('certificates') ? this.authority() : ''}
[[route]]
upstream = "chat"
[upstream.chat]
endpoints = [${this.endpoints.join(', ')}]
sticky = { cookie = "tidegate" }
`
  }

  /** The authority, and where it asks for challenges. */
  authority() {
    return `[acme.pebble]
directory = "https://${machines.address('front', 0)}:14000/dir"
ca = "${file('root.pem')}"
email = "ops@example.com"
terms_agreed = true
challenges = ["http-01"]
state = "${file(`state-${this.at}`)}"
[listener.plain]
bind = ["${machines.address('front', this.at)}:5002"]
redirect_to_https = true`
  }

  start() {
    const env = { PATH: process.env.PATH, RUST_BACKTRACE: '1', ...clock(CLOCKS[this.at]) }
    this.program = start(...machines.command(this.at, tidegate, ['run', '--config', this.config]), { env })
    return until(this.name, () => this.fleet())
  }

  /** Runs a command against this node. */
  async ask(...args) {
    const access = ['--admin', `https://${this.admin}`, '--token-file', file('admin.token'), '--admin-ca', file('root.pem')]
    return (await promisify(execFile)(tidegate, [...args, ...access], { timeout: 60_000 })).stdout
  }

  /** What the node says about the fleet; undefined if it does not respond. */
  fleet() {
    return this.get('fleet')
  }

  /** What its admin interface answers; undefined if it does not. */
  get(what) {
    const headers = { authorization: `Bearer ${readFileSync(file('admin.token'), 'utf8').trim()}` }
    return new Promise((done) => {
      const asked = request(`https://${this.admin}/v1/${what}`, { ca: readFileSync(file('root.pem')), headers, timeout: 5000 }, async (answer) => {
        let text = ''
        for await (const part of answer) text += part
        done(answer.statusCode === 200 ? JSON.parse(text) : undefined)
      })
      asked.on('timeout', () => asked.destroy())
      asked.on('error', () => done(undefined))
      asked.end()
    })
  }

  async kill() {
    this.program.child.kill('SIGKILL')
    await this.program.ended
  }
}

/** Clients of one node: tunnels that stay and answer each second, and others that come and go. */
class Load {
  constructor(node) {
    Object.assign(this, { node, tunnels: [], failures: [], handshakes: 0, echoes: 0 })
  }

  connect(headers = {}) {
    return new Promise((done, fail) => {
      const socket = new WebSocket(`wss://${machines.address('front', this.node.at)}:8443/`, {
        ca: readFileSync(file('root.pem')), servername: 'chat.example.com', handshakeTimeout: 15_000,
        headers: { host: 'chat.example.com', ...headers },
      })
      socket.on('upgrade', (answer) => { socket.cookie = answer.headers['set-cookie']?.[0]?.split(';')[0] })
      socket.once('message', (data) => { socket.endpoint = data.toString(); done(socket) })
      socket.on('error', fail)
      socket.on('close', (code) => fail(new Error(`closed with ${code}`)))
    })
  }

  async begin() {
    for (let count = 0; count < TUNNELS; count += 1) {
      const socket = await this.connect()
      socket.on('message', () => { this.echoes += 1; socket.asked = undefined })
      socket.on('close', (code) => { if (!this.isOver) this.failures.push(`a tunnel of ${this.node.name} was closed with ${code}`) })
      this.tunnels.push(socket)
    }
    this.timers = [
      setInterval(() => this.echo(), 1000),
      setInterval(() => this.handshake(), 1000 / HANDSHAKES),
    ]
  }

  echo() {
    for (const socket of this.tunnels) {
      if (socket.asked && Date.now() - socket.asked > 20_000) this.failures.push(`a tunnel of ${this.node.name} does not answer`)
      socket.asked ??= Date.now()
      socket.send('hello')
    }
  }

  async handshake() {
    try {
      const socket = await this.connect()
      this.handshakes += 1
      socket.terminate()
    } catch (error) {
      if (!this.isOver) this.failures.push(`a handshake with ${this.node.name} failed: ${error.message}`)
    }
  }

  end() {
    this.isOver = true
    for (const timer of this.timers) clearInterval(timer)
    for (const socket of this.tunnels) socket.terminate()
  }
}

/** Pebble, for which every name is the third node, whichever of them orders. */
async function startAuthority() {
  const own = machines.address('front', 0)
  const { cert, key } = makeCertificate('pebble', `IP:${own}`)
  write('pebble.json', JSON.stringify({ pebble: {
    listenAddress: `${own}:14000`, managementListenAddress: `${own}:15000`, certificate: cert, privateKey: key,
    httpPort: 5002, tlsPort: 5001, ocspResponderURL: '', externalAccountBindingRequired: false,
  } }))
  start('pebble-challtestsrv', ['-defaultIPv4', machines.address('front', 3), '-defaultIPv6', '', '-dns01', `${own}:8053`,
    '-management', `${own}:8055`, '-http01', '', '-https01', '', '-tlsalpn01', ''])
  const pebble = start('pebble', ['-config', file('pebble.json'), '-dnsserver', `${own}:8053`, '-strict'], {
    env: { PATH: process.env.PATH, PEBBLE_VA_NOSLEEP: '1', PEBBLE_WFE_NONCEREJECT: '20', PEBBLE_AUTHZREUSE: '0' },
  })
  await until('Pebble', () => pebble.said.includes('ACME directory available'))
  return pebble
}

/** The certificate that a node has from Pebble; undefined if it has none. */
function issued(node) {
  return new Promise((done) => {
    const socket = tlsConnect({ host: machines.address('front', node.at), port: 8443, servername: 'issued.example.com', rejectUnauthorized: false }, () => {
      const certificate = socket.getPeerX509Certificate()
      done(certificate.issuer.includes('Pebble') ? certificate.serialNumber : undefined)
      socket.destroy()
    })
    socket.on('error', () => done(undefined))
  })
}

/** What a client that was connected to one node gets from another: whether its TLS session is resumed. */
function resumed(from, to) {
  const options = (node) => ({
    host: machines.address('front', node.at), port: 8443, servername: 'chat.example.com', ca: readFileSync(file('root.pem')),
  })
  return new Promise((done, fail) => {
    const first = tlsConnect(options(from))
    first.on('error', fail)
    first.once('session', (session) => {
      first.destroy()
      const second = tlsConnect({ ...options(to), session }, () => {
        done(second.isSessionReused())
        second.destroy()
      })
      second.on('error', fail)
    })
  })
}

const nodes = []
const loads = []

/** Whether all clients were served, since the beginning. */
function mustBeWhole() {
  const failures = loads.flatMap((load) => load.failures)
  if (failures.length > 0) throw new Error(`${failures.length} failures: ${failures.slice(0, 5).join('; ')}`)
}

/** The names of the members that a node knows. */
const members = async (node) => (await node.fleet())?.members.map((member) => member.node).sort().join(' ')
const knows = async (node, names) => await members(node) === names
async function reachesStore(node) {
  const { store } = await node.fleet() ?? {}
  return store?.read_error === null && store.write_error === null
}
const everywhere = (what, ask, limit = 60_000) => until(what, async () => {
  for (const node of nodes) if (!await ask(node)) return false
  return true
}, limit)
const all = NODES.map((at) => `edge-${at}`).join(' ')

async function together(check, pebble) {
  await check('three nodes find each other; two have clocks that are an hour off', async () => {
    for (const node of nodes) await node.start()
    await everywhere('the members', (node) => knows(node, all))
    for (const node of nodes) {
      const load = new Load(node)
      loads.push(load)
      await load.begin()
    }
  })
  if (SHARED.includes('certificates')) await certificates(check, pebble)
  if (!isSmoke) await keys(check)
  await check('who may only read etcd learns no key, and cannot write', () => secrecy())
  await check('a command with --fleet shows all nodes', async () => {
    const shown = await nodes[0].ask('status', '--fleet')
    for (const node of nodes) equal(shown.includes(node.name), true, `${node.name} in ${shown}`)
  })
}

async function certificates(check, pebble) {
  await check('a certificate is ordered once, whichever node the authority connects to, and served by all', async () => {
    await everywhere('the certificate', issued, 120_000)
    const serials = new Set(await Promise.all(nodes.map(issued)))
    equal(serials.size, 1, 'certificates')
    equal(pebble.said.split('Added order').length - 1, 1, 'orders')
  })
}

async function keys(check) {
  await check('a TLS session of one node is resumed by the others, two minutes after the fleet has begun', async () => {
    for (const [from, to] of [[0, 1], [1, 2], [2, 0]]) {
      await until(`node ${to + 1} to resume a session of node ${from + 1}`, () => resumed(nodes[from], nodes[to]), 180_000)
    }
  })
  await check('a sticky cookie of one node leads to the same endpoint on the others', async () => {
    const used = async (node) => (await node.get('status'))?.shared_keys.find((it) => it.keys === 'sticky-keys').key
    await everywhere('the same sticky key', async (node) => await used(node) && await used(node) === await used(nodes[0]))
    for (let count = 0; count < 6; count += 1) {
      const first = await loads[count % 3].connect()
      const second = await loads[(count + 1) % 3].connect({ cookie: first.cookie })
      equal(second.endpoint, first.endpoint, 'the endpoint')
      for (const socket of [first, second]) socket.terminate()
    }
  })
}

/** What a user of etcd without write access gets. */
async function secrecy() {
  const stored = await until('the shared keys', async () => {
    const text = await cluster.ctlAs('reader', 'get', '--prefix', '/tidegate/')
    return /ticket-keys/.test(text) && text
  })
  equal(/PRIVATE KEY|"d":|BEGIN/.test(stored), false, `a key in ${stored}`)
  let refused = false
  try { await cluster.ctlAs('reader', 'put', '/tidegate/x', 'y') } catch { refused = true }
  equal(refused, true, 'a write is refused')
}

async function troubles(check) {
  await check('the leader of etcd is killed, and comes back', async () => {
    const leader = await cluster.leader()
    await cluster.kill(leader)
    await pause(10)
    await everywhere('another member to be asked', reachesStore)
    cluster.startMember(leader, 'existing')
    await until('etcd', () => cluster.isHealthy())
    mustBeWhole()
  })
  await check('a member of etcd is lost for good, and another takes its place', async () => {
    const id = await cluster.lose(3)
    await pause(10)
    await everywhere('another member to be asked', reachesStore)
    await cluster.replace(3, id)
    await everywhere('the members', (node) => knows(node, all))
    mustBeWhole()
  })
  if (machines.separate) {
    await check('a machine is cut off its store for 30 s, and serves on', async () => {
      machines.cut('back', 2)
      await pause(30)
      equal(await reachesStore(nodes[1]), false, 'it says that it does not reach the store')
      mustBeWhole()
      machines.cut('back', 2, false)
      await until('the store', () => reachesStore(nodes[1]))
      await everywhere('the members', (node) => knows(node, all))
      if (SHARED.includes('keys')) await until('a session to be resumed', () => resumed(nodes[1], nodes[2]))
      mustBeWhole()
    })
  }
  await check('etcd is full, and has room again', async () => {
    await cluster.fill()
    await until('a report', () => nodes.some((node) => /space exceeded/i.test(node.program.said)), 60_000)
    mustBeWhole()
    await cluster.clear()
    await everywhere('the store', reachesStore)
    mustBeWhole()
  })
  await check('etcd is compacted and defragmented', async () => {
    await cluster.ctl('compact', String((await cluster.status())[0].Status.header.revision))
    await cluster.ctl('defrag')
    await pause(3)
    await everywhere('the members', (node) => knows(node, all))
    mustBeWhole()
  })
  await check('a node whose name is in use is refused', async () => {
    const [command, args] = machines.command(3, tidegate, ['run', '--config', write('twin.toml',
      nodes[0].configuration().replace(`${machines.address('front', 1)}:8443`, `${machines.address('front', 3)}:8444`)
        .replaceAll(nodes[0].admin, `${machines.address('back', 3)}:9901`))])
    const twin = start(command, args)
    equal(await Promise.race([twin.ended, pause(60)]), 3, `its exit code: ${twin.said}`)
    equal(twin.said.includes('edge-1'), true, twin.said)
    mustBeWhole()
  })
  await check('a node is killed and replaced: the others serve on, keys are taken over', async () => {
    loads[0].end()
    await nodes[0].kill()
    await until('the others to see it go', () => knows(nodes[1], 'edge-2 edge-3'), 120_000)
    mustBeWhole()
    await nodes[0].start()
    await everywhere('the members', (node) => knows(node, all))
    if (SHARED.includes('keys')) await until('a session to be resumed', () => resumed(nodes[0], nodes[1]))
    loads[0] = new Load(nodes[0])
    await loads[0].begin()
    mustBeWhole()
  })
}

/** CPU time of the members of etcd, in seconds. */
const cpu = () => [...cluster.members.values()].reduce((sum, { child }) => {
  const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1].split(' ')
  return sum + (Number(fields[11]) + Number(fields[12])) / 100
}, 0)

/** What changes in etcd within a minute: revisions are writes. */
async function minute(what) {
  const of = async () => [(await cluster.status())[0].Status.header.revision, cpu()]
  const [writes, seconds] = await of()
  await pause(60)
  const [later, more] = await of()
  console.log(`    ${what}: ${later - writes} writes, ${(more - seconds).toFixed(2)} s of etcd's CPU time (three members), in a minute`)
}

/** A hundred tunnels on a connection of their own. */
async function hundred(node) {
  const session = connectHttp2(`https://${machines.address('front', node.at)}:8443`, { servername: 'chat.example.com', ca: readFileSync(file('root.pem')) })
  session.on('error', () => {})
  await once(session, 'remoteSettings')
  const streams = await Promise.all(Array.from({ length: 100 }, async () => {
    const stream = session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':authority': 'chat.example.com', ':path': '/', 'sec-websocket-version': '13' })
    stream.on('error', () => {})
    const [head] = await once(stream, 'response')
    equal(head[':status'], 200, 'status')
    return stream
  }))
  return { session, streams }
}

async function cost() {
  await minute('no node')
  const [node] = nodes
  // Nothing is there: backups are asked only when all others are down.
  for (let at = 0; at < 498; at += 1) node.endpoints.push(`{ address = "127.1.${Math.floor(at / 250)}.${1 + at % 250}:9", backup = true }`)
  node.configure()
  await node.start()
  await minute('one node without tunnels, 500 endpoints')
  const groups = []
  while (groups.length < 95) groups.push(await hundred(node))
  const { tunnels } = (await node.fleet()).members[0]
  await minute(`one node with ${groups.length * 100} tunnels (${tunnels} listed before), 500 endpoints`)
  const timer = setInterval(async () => {
    groups.shift().session.destroy()
    groups.push(await hundred(node))
  }, 2000)
  await minute('the same, with 50 tunnels a second that end and begin')
  clearInterval(timer)
  const stored = (await node.fleet()).store
  console.log(`    ${stored.keys} keys, ${stored.bytes} bytes in the store`)
  await node.kill()
}

await main(async (check) => {
  try {
    makeRoot()
    write('admin.token', 'a-token-of-thirty-two-characters!\n')
    write('fleet.key', execFileSync('openssl', ['rand', '-hex', '32'], { encoding: 'utf8' }))
    write('etcd.password', 'tidegate-password\n')
    await startEndpoints()
    await check(`three members of etcd, ${machines.separate ? 'on machines of their own' : 'on loopback addresses: namespaces are not permitted'}`, () => cluster.begin())
    nodes.push(...NODES.map((at) => new Node(at)))
    if (extent === 'cost') return await cost()
    await together(check, SHARED.includes('certificates') ? await startAuthority() : undefined)
    if (!isSmoke) await troubles(check)
    for (const load of loads) load.end()
    mustBeWhole()
    const sum = (what) => loads.reduce((total, load) => total + load[what], 0)
    console.log(`    ${sum('handshakes')} handshakes, ${sum('echoes')} echoes, none lost`)
    for (const node of nodes) await node.kill()
  } finally {
    machines.remove()
  }
})
