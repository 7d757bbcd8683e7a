// Certificates from Pebble, the authority that Let's Encrypt tests with: every challenge, renewals, an authority that is
// down, nodes that share a folder, nodes that die, clocks that are wrong. `acme.mjs TIDEGATE smoke` issues one and stops.
//
// Debian's Pebble knows neither renewal information (RFC 9773) nor profiles: a front of this file's own adds them, and
// counts the orders.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { createServer, request as httpsRequest } from 'node:https'
import { join } from 'node:path'
import { connect as tlsConnect } from 'node:tls'
import WebSocket, { WebSocketServer } from 'ws'
import { equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, extent] = process.argv.slice(2)
const folder = temporaryFolder('acme')
const write = (name, text, mode = 0o644) => {
  writeFileSync(join(folder, name), text, { mode })
  return join(folder, name)
}
const openssl = (...args) => execFileSync('openssl', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
const ports = {}
for (const name of ['pebble', 'management', 'front', 'http', 'tls', 'dns', 'records', 'spare', 'echo']) ports[name] = await freePort()

/** The certificate of Pebble and of the front, by an authority that tidegate trusts as `ca`. */
function makeAuthority() {
  openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-subj', '/CN=test root', '-keyout', 'root.key', '-out', 'root.pem')
  openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
    '-subj', '/CN=localhost', '-keyout', 'pebble.key', '-out', 'pebble.csr')
  write('pebble.ext', 'subjectAltName=DNS:localhost,IP:127.0.0.1\n')
  openssl('x509', '-req', '-in', 'pebble.csr', '-CA', 'root.pem', '-CAkey', 'root.key', '-CAcreateserial', '-days', '2',
    '-extfile', 'pebble.ext', '-out', 'pebble.pem')
}

async function startPebble({ life = 90 * 86400, env = {} } = {}) {
  write('pebble.json', JSON.stringify({ pebble: {
    listenAddress: `127.0.0.1:${ports.pebble}`, managementListenAddress: `127.0.0.1:${ports.management}`,
    certificate: join(folder, 'pebble.pem'), privateKey: join(folder, 'pebble.key'),
    httpPort: ports.http, tlsPort: ports.tls, ocspResponderURL: '', externalAccountBindingRequired: false,
    certificateValidityPeriod: life,
  } }))
  const program = start('pebble', ['-config', join(folder, 'pebble.json'), '-dnsserver', `127.0.0.1:${ports.dns}`, '-strict'], {
    env: { PATH: process.env.PATH, PEBBLE_VA_NOSLEEP: '1', PEBBLE_WFE_NONCEREJECT: '20', PEBBLE_AUTHZREUSE: '0', ...env },
  })
  await until('pebble', () => listens(ports.pebble))
  return program
}

/** Adds renewal information and profiles to Pebble, and notes the orders. */
const front = {
  orders: [],
  /** Renewal windows by certificate; the default is far away. */
  window: () => [Date.now() + 20 * 86400_000, Date.now() + 21 * 86400_000],
  /** What happens before an order is passed on. */
  beforeOrder: async () => {},
  async start() {
    const options = { cert: readFileSync(join(folder, 'pebble.pem')), key: readFileSync(join(folder, 'pebble.key')) }
    const server = createServer(options, (asked, answer) => {
      this.serve(asked, answer).catch((error) => { answer.writeHead(503); answer.end(String(error)) })
    })
    await new Promise((done) => server.listen(ports.front, '127.0.0.1', done))
  },
  async serve(asked, answer) {
    const parts = []
    for await (const part of asked) parts.push(part)
    const sent = Buffer.concat(parts)
    if (asked.url.startsWith('/renewal-info/')) {
      const [begin, end] = this.window(asked.url.split('/').pop()).map((time) => new Date(time).toISOString())
      answer.writeHead(200, { 'content-type': 'application/json', 'retry-after': '21600' })
      answer.end(JSON.stringify({ suggestedWindow: { start: begin, end } }))
      return
    }
    const isOrder = asked.method === 'POST' && this.newOrder !== undefined && asked.url === this.newOrder
    const order = isOrder ? JSON.parse(Buffer.from(JSON.parse(sent.toString()).payload, 'base64url').toString()) : undefined
    if (isOrder) await this.beforeOrder(order)
    const passed = await this.pass(asked, sent)
    let { body } = passed
    if (asked.url === '/dir') {
      const directory = JSON.parse(body.toString())
      this.newOrder = new URL(directory.newOrder).pathname
      directory.renewalInfo = `https://${asked.headers.host}/renewal-info`
      directory.meta.profiles = { tlsserver: 'https://example.com/tlsserver', shortlived: 'https://example.com/shortlived' }
      body = Buffer.from(JSON.stringify(directory))
    }
    if (isOrder && passed.status === 201) {
      this.orders.push(order)
      if (order.replaces) body = Buffer.from(JSON.stringify({ ...JSON.parse(body.toString()), replaces: order.replaces }))
    }
    const headers = { ...passed.headers, 'content-length': String(body.length) }
    delete headers['transfer-encoding']
    answer.writeHead(passed.status, headers)
    answer.end(asked.method === 'HEAD' ? undefined : body)
  },
  pass(asked, sent) {
    return new Promise((done, fail) => {
      const to = httpsRequest({
        host: '127.0.0.1', port: ports.pebble, method: asked.method, path: asked.url,
        headers: asked.headers, rejectUnauthorized: false,
      }, async (got) => {
        const parts = []
        for await (const part of got) parts.push(part)
        done({ status: got.statusCode, headers: got.headers, body: Buffer.concat(parts) })
      })
      to.on('error', fail)
      to.end(sent)
    })
  },
}

/** A node: its ports, its folder, its admin socket. */
function node(name, { http, tls, acme, certificates, state = 'state', env = {} }) {
  const admin = join(folder, `${name}.sock`)
  const config = write(`${name}.toml`, `
[server]
workers = 2
[server.shutdown]
grace = "2s"
[admin]
bind = "unix:${admin}"
[acme.pebble]
directory = "https://localhost:${ports.front}/dir"
ca = "${join(folder, 'root.pem')}"
email = "ops@example.com"
terms_agreed = true
state = "${join(folder, state)}"
${acme}
[listener.public]
bind = ["127.0.0.1:${tls}"]
tls.certificates = [${certificates}]
${http ? `[listener.http]\nbind = ["127.0.0.1:${http}"]\nredirect_to_https = true` : ''}
[[route]]
upstream = "echo"
deny = ["127.0.0.9"]
[upstream.echo]
endpoints = ["127.0.0.1:${ports.echo}"]
`)
  const program = start(tidegate, ['run', '--config', config], { env: { PATH: process.env.PATH, RUST_BACKTRACE: '1', ...env } })
  const ask = (...args) => execFileSync(tidegate, [...args, '--admin', `unix:${admin}`], { encoding: 'utf8' })
  return {
    program, tls, config,
    ask,
    certificates: () => JSON.parse(ask('certificates', '--json')),
    listening: () => until(name, () => listens(tls)),
    end: async () => { program.child.kill('SIGTERM'); await program.ended },
  }
}

/** The environment of a program whose wall clock is off; other clocks are right. */
function clock(offset) {
  const libraries = execFileSync('dpkg', ['-L', 'libfaketime'], { encoding: 'utf8' }).split('\n')
  const library = libraries.find((path) => path.endsWith('/libfaketimeMT.so.1'))
  return { LD_PRELOAD: library, FAKETIME: offset, FAKETIME_DONT_FAKE_MONOTONIC: '1', DONT_FAKE_MONOTONIC: '1' }
}

/** The certificate that is served for a name; undefined if there is none. */
function served(port, servername, options = {}) {
  return new Promise((done) => {
    const socket = tlsConnect({ host: '127.0.0.1', port, servername, rejectUnauthorized: false, ...options })
    socket.on('secureConnect', () => {
      const certificate = socket.getPeerX509Certificate()
      socket.destroy()
      done(certificate)
    })
    socket.on('error', () => done(undefined))
  })
}

const issued = (of, name) => until(`a certificate for ${name}`, async () => {
  const certificate = await served(of.tls, name)
  return certificate?.issuer.includes('Pebble') ? certificate : undefined
}, 120_000)

const one = (names, more = '') => `{ names = [${names.map((name) => `"${name}"`).join(', ')}], acme = "pebble"${more} }`
const noLeftovers = (state) => {
  const challenges = join(folder, state, 'pebble', 'challenges')
  return !existsSync(challenges) || readdirSync(challenges).length === 0
}

const hook = () => write('hook', `#!/bin/sh
set -eu
env | sort > "${folder}/hook.env"
grep Cap /proc/self/status > "${folder}/hook.caps"
case "$1" in
present) path=set-txt body='{"host": "'"$2"'.", "value": "'"$3"'"}' ;;
cleanup) path=clear-txt body='{"host": "'"$2"'."}' ;;
esac
exec node -e 'fetch(process.argv[1], { method: "POST", body: process.argv[2] }).then((answer) => process.exit(answer.ok ? 0 : 1))' \
  "http://127.0.0.1:${ports.records}/$path" "$body"
`, 0o755)

async function smoke(check) {
  await check('http-01: answered before the redirect, also with bad nonces', async () => {
    const of = node('http', { http: ports.http, tls: ports.spare, acme: 'challenges = ["http-01"]', certificates: one(['a.example.com']), state: 'http' })
    await of.listening()
    const certificate = await issued(of, 'a.example.com')
    equal(certificate.subjectAltName, 'DNS:a.example.com', 'names')
    await until('no challenge left', () => noLeftovers('http'))
    await of.end()
  })
}

async function challenges(check) {
  await check('tls-alpn-01: on the listener of the names, several names, RSA', async () => {
    const of = node('alpn', { tls: ports.tls, acme: 'challenges = ["tls-alpn-01"]\nkey_type = "rsa-2048"', certificates: one(['b.example.com', 'c.example.com']), state: 'alpn' })
    await of.listening()
    const certificate = await issued(of, 'b.example.com')
    equal(certificate.publicKey.asymmetricKeyType, 'rsa', 'key')
    equal(certificate.checkHost('c.example.com'), 'c.example.com', 'the second name')
    equal(await served(ports.tls, 'b.example.com', { ALPNProtocols: ['acme-tls/1'] }), undefined, 'after the challenge')
    await of.end()
  })
  await check('dns-01: a wildcard and its parent, by a hook without our environment and capabilities', async () => {
    const of = node('dns', {
      tls: ports.spare, acme: `challenges = ["dns-01"]\ndns_hook = ["${hook()}"]\ndns_propagation = "1s"`,
      certificates: one(['*.d.example.com', 'd.example.com']), state: 'dns', env: { SECRET: 'visible' },
    })
    await of.listening()
    const certificate = await issued(of, 'x.d.example.com')
    equal(certificate.checkHost('d.example.com'), 'd.example.com', 'the parent')
    equal(readFileSync(join(folder, 'hook.env'), 'utf8').includes('SECRET'), false, 'the environment')
    for (const line of readFileSync(join(folder, 'hook.caps'), 'utf8').trim().split('\n')) {
      equal(/:\s*0+$/.test(line), true, `the capabilities: ${line}`)
    }
    await of.end()
  })
  await check('dns-01: by the HTTP convention of lego', async () => {
    const records = await recordsService()
    const of = node('httpreq', {
      tls: ports.spare, acme: `challenges = ["dns-01"]\ndns_url = "http://user:secret@127.0.0.1:${records.port}/api"\ndns_propagation = "1s"`,
      certificates: one(['*.e.example.com']), state: 'httpreq',
    })
    await of.listening()
    await issued(of, 'x.e.example.com')
    await until('the record to be removed', () => records.calls.includes('/api/cleanup'))
    equal(records.calls[0], '/api/present', 'the first call')
    equal(records.authorization, `Basic ${Buffer.from('user:secret').toString('base64')}`, 'the credentials')
    equal(of.program.said.includes('secret'), false, 'credentials in the log')
    await of.end()
    records.server.close()
  })
}

/** A service by lego's convention that publishes in the name server of the test. */
async function recordsService() {
  const { createServer: createPlain } = await import('node:http')
  const records = { calls: [], port: await freePort() }
  records.server = createPlain(async (asked, answer) => {
    const parts = []
    for await (const part of asked) parts.push(part)
    const { fqdn, value } = JSON.parse(Buffer.concat(parts).toString())
    records.calls.push(asked.url)
    records.authorization = asked.headers.authorization
    const [path, body] = asked.url.endsWith('present') ? ['set-txt', { host: fqdn, value }] : ['clear-txt', { host: fqdn }]
    await fetch(`http://127.0.0.1:${ports.records}/${path}`, { method: 'POST', body: JSON.stringify(body) })
    answer.end('{}')
  })
  await new Promise((done) => records.server.listen(records.port, '127.0.0.1', done))
  return records
}

async function renewals(check) {
  const settings = { tls: ports.tls, acme: 'challenges = ["tls-alpn-01"]\nprofile = "shortlived"', certificates: one(['r.example.com']), state: 'renew' }
  let of = node('renew', settings)
  await of.listening()
  const first = await issued(of, 'r.example.com')

  await check('a life of six days, with the profile that was asked for', async () => {
    equal(front.orders.at(-1).profile, 'shortlived', 'profile')
    const days = (new Date(first.validTo) - new Date(first.validFrom)) / 86400_000
    equal(Math.round(days), 6, 'days')
    equal(of.certificates().certificates[0].names[0], 'r.example.com', 'listed')
  })
  await check('200 tunnels stay open through a renewal on request, which has a new key', async () => {
    const sockets = []
    for (let count = 0; count < 200; count += 1) sockets.push(await opened(of.tls, 'r.example.com'))
    of.ask('certificates', '--renew', 'r.example.com')
    const second = await until('another certificate', async () => {
      const now = await served(of.tls, 'r.example.com')
      return now && now.serialNumber !== first.serialNumber ? now : undefined
    })
    equal(second.publicKey.export({ type: 'spki', format: 'pem' }) === first.publicKey.export({ type: 'spki', format: 'pem' }), false, 'the same key')
    for (const socket of sockets) equal(await echoed(socket, 'still here'), 'still here', 'a tunnel')
    for (const socket of sockets) socket.terminate()
    equal(Boolean(front.orders.at(-1).replaces), true, 'the order says what it replaces')
  })
  await check('renewal information: a window that has come is kept to, after a restart, but not within hours of an order', async () => {
    await of.end()
    const before = front.orders.length
    const early = front.window
    let asked
    front.window = (id) => {
      asked ??= id
      return id === asked ? [Date.now() - 2 * 3600_000, Date.now() - 3600_000] : early(id)
    }
    of = node('renew', settings)
    await of.listening()
    await new Promise((next) => setTimeout(next, 5000))
    equal(front.orders.length, before, 'orders')
    await of.end()
    of = node('renew', { ...settings, env: clock('+7h') })
    await of.listening()
    await until('one more order', () => front.orders.length === before + 1)
    await until('its certificate', async () => of.certificates().certificates[0].last_error === null && noLeftovers('renew'))
    await new Promise((next) => setTimeout(next, 5000))
    equal(front.orders.length, before + 1, 'orders')
    front.window = early
    await of.end()
  })
  for (const [sign, hours] of [['+', 1], ['-', 1]]) {
    await check(`a clock that is an hour ${sign === '+' ? 'fast' : 'slow'} orders nothing, and serves`, async () => {
      const before = front.orders.length
      of = node('renew', { ...settings, env: clock(`${sign}${hours}h`) })
      await of.listening()
      await issued(of, 'r.example.com')
      await new Promise((next) => setTimeout(next, 8000))
      equal(front.orders.length, before, 'orders')
      await of.end()
    })
  }
}

async function outage(check, state) {
  await check('an authority that is down for a while delays the first certificate, and is reported', async () => {
    state.pebble.child.kill('SIGKILL')
    await state.pebble.ended
    const of = node('down', { tls: ports.tls, acme: 'challenges = ["tls-alpn-01"]', certificates: one(['down.example.com']), state: 'down' })
    await of.listening()
    await until('the report', () => of.program.said.includes('certificate not issued'))
    equal(await served(of.tls, 'down.example.com'), undefined, 'a certificate')
    state.pebble = await startPebble({ life: 518400 })
    of.ask('certificates', '--renew', 'down.example.com')
    await issued(of, 'down.example.com')
    await of.end()
  })
}

function opened(port, servername) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(`wss://127.0.0.1:${port}/`, { rejectUnauthorized: false, servername, headers: { host: servername } })
    socket.on('open', () => done(socket))
    socket.on('error', fail)
  })
}

function echoed(socket, text) {
  return new Promise((done) => {
    socket.once('message', (data) => done(data.toString()))
    socket.once('close', () => done(undefined))
    socket.send(text)
  })
}

async function nodes(check) {
  const both = (name, tls, shared) => node(name, { tls, acme: 'challenges = ["tls-alpn-01"]', certificates: one([`${shared}.example.com`]), state: shared })
  await check('two nodes on one folder order once, whichever of them the authority asks', async () => {
    const before = front.orders.length
    // The authority asks the second one, which is not the one that orders: the first has begun.
    const first = both('first', ports.spare, 'shared')
    await first.listening()
    await until('the order', () => front.orders.length > before)
    const second = both('second', ports.tls, 'shared')
    await second.listening()
    const [one, other] = [await issued(first, 'shared.example.com'), await issued(second, 'shared.example.com')]
    equal(one.serialNumber, other.serialNumber, 'serial numbers')
    equal(front.orders.length, before + 1, 'orders')
    await first.end()
    await second.end()
  })
  await check('the other node goes on when the one that orders is killed', async () => {
    const before = front.orders.length
    const victim = both('victim', ports.spare, 'killed')
    await victim.listening()
    await until('its order', () => front.orders.length > before)
    victim.program.child.kill('SIGKILL')
    await victim.program.ended
    const heir = both('heir', ports.tls, 'killed')
    await heir.listening()
    await issued(heir, 'killed.example.com')
    equal(front.orders.length <= before + 2, true, 'orders')
    await heir.end()
  })
}

await main(async (check) => {
  makeAuthority()
  const echo = new WebSocketServer({ port: ports.echo, host: '127.0.0.1' })
  echo.on('connection', (socket) => socket.on('message', (data) => socket.send(data.toString())))
  mkdirSync(join(folder, 'state'))
  start('pebble-challtestsrv', ['-defaultIPv4', '127.0.0.1', '-defaultIPv6', '', '-dns01', `127.0.0.1:${ports.dns}`,
    '-management', `127.0.0.1:${ports.records}`, '-http01', '', '-https01', '', '-tlsalpn01', ''])
  await until('the name server', () => listens(ports.records))
  const state = { pebble: await startPebble({ life: 518400 }) }
  await front.start()
  await smoke(check)
  if (extent !== 'smoke') {
    await challenges(check)
    await renewals(check)
    await outage(check, state)
    await nodes(check)
  }
})
