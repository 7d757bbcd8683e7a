// Certificates as OpenSSL makes them: revoked client certificates and lists that have expired, client certificates with
// names, and endpoints whose certificate is their own CA. `certificates.mjs TIDEGATE`

import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { join } from 'node:path'
import WebSocket, { WebSocketServer } from 'ws'
import { equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate] = process.argv.slice(2)
const folder = temporaryFolder('certificates')
const write = (name, text, mode = 0o644) => {
  writeFileSync(join(folder, name), text, { mode })
  return join(folder, name)
}
const openssl = (...args) => execFileSync('openssl', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

/** A CA as `openssl ca` keeps it, with a database of what was revoked. */
function authority() {
  mkdirSync(join(folder, 'ca'))
  for (const [name, text] of [['ca/index.txt', ''], ['ca/serial', '1000\n'], ['ca/crlnumber', '01\n']]) write(name, text)
  write('ca.cnf', `
[ca]
default_ca = own
[own]
dir = ${join(folder, 'ca')}
database = $dir/index.txt
serial = $dir/serial
crlnumber = $dir/crlnumber
new_certs_dir = $dir
certificate = ${join(folder, 'clients.pem')}
private_key = ${join(folder, 'clients.key')}
default_md = sha256
default_days = 2
default_crl_days = 2
x509_extensions = client
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[client]
extendedKeyUsage = clientAuth
`)
  openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=clients', '-keyout', 'clients.key', '-out', 'clients.pem')
}

/** A client certificate of that CA. */
function client(name, san) {
  const names = san ? ['-addext', `subjectAltName=${san}`] : []
  openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', `/CN=${name}`, ...names, '-keyout', `${name}.key`, '-out', `${name}.csr`)
  openssl('ca', '-batch', '-config', 'ca.cnf', '-in', `${name}.csr`, '-out', `${name}.pem`)
}

const revocations = (...more) => openssl('ca', '-config', 'ca.cnf', '-gencrl', '-out', 'revoked.pem', ...more)

/** Runs a program to its end. Not at once: the endpoint is in this process. */
function run(command, args, input = '') {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: folder, timeout: 10_000 })
    const ran = { out: '', said: '' }
    child.stdout.on('data', (data) => { ran.out += data })
    child.stderr.on('data', (data) => { ran.said += data })
    child.on('close', (code) => done({ ...ran, code }))
    child.stdin.on('error', () => {})
    child.stdin.write(input)
  })
}

/** The status that a client with this certificate gets, or what OpenSSL says instead. */
async function asked(port, name, path = '/') {
  const shown = name ? ['-cert', `${name}.pem`, '-key', `${name}.key`] : []
  const { out, said } = await run('openssl', ['s_client', '-quiet', '-connect', `127.0.0.1:${port}`, '-servername', 'chat.example.com', ...shown],
    `GET ${path} HTTP/1.1\r\nHost: chat.example.com\r\nConnection: close\r\n\r\n`)
  return { said, status: /^HTTP\/1\.1 (\d+)/.exec(out)?.[1], reason: /tidegate-reason: (\S+)/i.exec(out)?.[1] }
}

await main(async (check) => {
  authority()
  client('alice')
  client('bob')
  client('service', 'URI:spiffe://prod/chat')
  revocations()
  for (const name of ['server', 'endpoint', 'other']) {
    openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
      '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,DNS:chat.example.com', '-keyout', `${name}.key`, '-out', `${name}.pem`)
  }
  const ports = {}
  for (const name of ['tls', 'plain', 'endpoint']) ports[name] = await freePort()
  const read = (name) => readFileSync(join(folder, name))
  const server = createServer({ cert: read('endpoint.pem'), key: read('endpoint.key') }, (_, answer) => answer.end('hello'))
  new WebSocketServer({ server }).on('connection', (socket) => socket.on('message', (data) => socket.send(data.toString())))
  await new Promise((done) => server.listen(ports.endpoint, '127.0.0.1', done))
  const fingerprint = (name) => openssl('x509', '-noout', '-fingerprint', '-sha256', '-in', `${name}.pem`).trim().split('=')[1]
  const config = (more) => `
[admin]
bind = "unix:${join(folder, 'admin.sock')}"
[listener.tls]
bind = ["127.0.0.1:${ports.tls}"]
tls.certificates = [{ cert = "server.pem", key = "server.key" }]
tls.client_auth = { ca = "clients.pem", mode = "optional", crl = "revoked.pem"${more} }
[listener.plain]
bind = ["127.0.0.1:${ports.plain}"]
[[route]]
path_prefix = "/services"
client_certificate = { san = ["spiffe://prod/*"] }
upstream = "listed"
[[route]]
path_prefix = "/pinned"
upstream = "pinned"
[[route]]
path_prefix = "/wrong"
upstream = "wrong"
[[route]]
upstream = "listed"
[upstream.listed]
endpoints = ["localhost:${ports.endpoint}"]
tls.ca = "endpoint.pem"
[upstream.pinned]
endpoints = ["127.0.0.1:${ports.endpoint}"]
tls.fingerprint = "${fingerprint('endpoint')}"
[upstream.wrong]
endpoints = ["localhost:${ports.endpoint}"]
tls.ca = "other.pem"
`
  const proxy = start(tidegate, ['run', '--config', write('tidegate.toml', config(''))], { cwd: folder })
  for (const name of ['tls', 'plain']) await until(name, () => listens(ports[name]))
  const loaded = async (times) => until('the certificates to be loaded', () => proxy.said.split('certificates reloaded').length > times)

  await check('an endpoint whose certificate is its own CA is trusted if it is listed or pinned', async () => {
    equal((await fetch(`http://127.0.0.1:${ports.plain}/`)).status, 200, 'listed')
    equal((await fetch(`http://127.0.0.1:${ports.plain}/pinned`)).status, 200, 'pinned')
    equal((await fetch(`http://127.0.0.1:${ports.plain}/wrong`)).status, 503, 'another one')
    await until('the reason', () => proxy.said.includes('CA:TRUE') || proxy.said.includes('another key'))
    const socket = new WebSocket(`ws://127.0.0.1:${ports.plain}/`)
    await new Promise((done, fail) => { socket.on('open', done); socket.on('error', fail) })
    socket.terminate()
  })
  await check('`probe --ca` trusts what is listed', async () => {
    const probe = async (ca) => (await run(tidegate, ['probe', `wss://localhost:${ports.endpoint}/`, '--ca', join(folder, ca)])).code
    equal(await probe('endpoint.pem'), 0, 'listed')
    equal(await probe('other.pem') === 0, false, 'another one')
  })
  await check('a client certificate is refused from its revocation on', async () => {
    equal((await asked(ports.tls, 'alice')).status, '200', 'alice')
    equal((await asked(ports.tls, 'bob')).status, '200', 'bob')
    openssl('ca', '-config', 'ca.cnf', '-revoke', 'alice.pem')
    revocations()
    await loaded(1)
    const alice = await asked(ports.tls, 'alice')
    equal(alice.status, undefined, 'alice')
    equal(/revoked/i.test(alice.said), true, alice.said)
    equal((await asked(ports.tls, 'bob')).status, '200', 'bob')
    equal((await asked(ports.tls)).status, '200', 'nobody')
  })
  await check('an expired list refuses everybody that it covers, unless it may only warn', async () => {
    revocations('-crlsec', '1')
    await loaded(2)
    await new Promise((next) => setTimeout(next, 2100))
    equal((await asked(ports.tls, 'bob')).status, undefined, 'bob')
    writeFileSync(join(folder, 'tidegate.toml'), config(', expired_crl = "warn"'))
    proxy.child.kill('SIGHUP')
    await until('the configuration to be loaded', () => proxy.said.includes('configuration reloaded'))
    equal((await asked(ports.tls, 'bob')).status, '200', 'bob')
    equal((await asked(ports.tls, 'alice')).status, undefined, 'alice')
    equal(proxy.said.includes('has expired'), true, 'a warning')
  })
  await check('a route admits client certificates by their names', async () => {
    equal((await asked(ports.tls, 'service', '/services')).status, '200', 'service')
    equal((await asked(ports.tls, 'bob', '/services')).reason, 'certificate-denied', 'bob')
    equal((await asked(ports.tls, undefined, '/services')).reason, 'client-certificate', 'nobody')
  })
  server.close()
})
