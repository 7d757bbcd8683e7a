// Tokens of others: npm's oidc-provider as the issuer, tokens by jose and by PyJWT, keys that are rotated while clients
// come in, an issuer that is down, and Chromium with a token as a subprotocol.
// `auth.mjs TIDEGATE PYTHON [smoke]`; `smoke` leaves out the issuer that is down.

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SignJWT, exportJWK, generateKeyPair, importJWK } from 'jose'
import Provider from 'oidc-provider'
import WebSocket, { WebSocketServer } from 'ws'
import { openPage } from './chromium.mjs'
import { equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, python, extent] = process.argv.slice(2)
const folder = temporaryFolder('auth')
const write = (name, text) => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}
const openssl = (...args) => execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' })
const ports = {}
for (const name of ['issuer', 'echo', 'proxy', 'keys', 'secret']) ports[name] = await freePort()
const issuer = `https://127.0.0.1:${ports.issuer}`
const secret = 'a secret of sixty-four characters'.padEnd(64, '.')

function makeCertificates() {
  openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-subj', '/CN=test root', '-keyout', 'root.key', '-out', 'root.pem')
  openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
    '-subj', '/CN=issuer', '-keyout', 'issuer.key', '-out', 'issuer.csr')
  write('issuer.ext', 'subjectAltName=IP:127.0.0.1\n')
  openssl('x509', '-req', '-in', 'issuer.csr', '-CA', 'root.pem', '-CAkey', 'root.key', '-CAcreateserial', '-days', '2',
    '-extfile', 'issuer.ext', '-out', 'issuer.pem')
}

/** A private key as a JSON Web Key. */
async function makeKey(algorithm, kid) {
  const { privateKey } = await generateKeyPair(algorithm, { extractable: true })
  return { ...(await exportJWK(privateKey)), kid, alg: algorithm, use: 'sig' }
}

/** The OpenID provider. Its keys may be replaced, and it may be down. */
const provider = {
  async use(...keys) {
    const resource = { scope: 'play', audience: 'chat', accessTokenFormat: 'jwt', accessTokenTTL: 120, jwt: { sign: { alg: keys[0].alg } } }
    const configuration = {
      clients: [{
        client_id: 'app', client_secret: 'app-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
      }],
      jwks: { keys },
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: false },
        resourceIndicators: { enabled: true, getResourceServerInfo: () => resource },
      },
      scopes: ['play'],
    }
    this.handle = new Provider(issuer, configuration).callback()
  },
  asked: 0,
  async begin() {
    const tls = { cert: readFileSync(join(folder, 'issuer.pem')), key: readFileSync(join(folder, 'issuer.key')) }
    this.server = createServer(tls, (request, response) => {
      if (request.url === '/jwks') this.asked += 1
      this.handle(request, response)
    })
    await new Promise((done) => this.server.listen(ports.issuer, '127.0.0.1', done))
  },
  end() {
    this.server.closeAllConnections()
    return new Promise((done) => this.server.close(done))
  },
  /** A token as a service gets it: by its own name and secret. */
  async token() {
    const response = await fetch(`${issuer}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${Buffer.from('app:app-secret').toString('base64')}` },
      body: new URLSearchParams({ grant_type: 'client_credentials', resource: 'urn:chat', scope: 'play' }),
    })
    const answer = await response.json()
    if (!answer.access_token) throw new Error(JSON.stringify(answer))
    return answer.access_token
  },
}

/** How a handshake ends: with a subprotocol, or with a status and a reason. */
function handshake(port, { protocols = [], headers = {}, query = '' }) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/chat${query}`, protocols, { headers })
    socket.on('open', () => {
      socket.on('message', (seen) => {
        done({ status: 101, protocol: socket.protocol, ...JSON.parse(seen) })
        socket.terminate()
      })
    })
    socket.on('unexpected-response', (_, response) => {
      done({ status: response.statusCode, reason: response.headers['tidegate-reason'] })
      response.destroy()
    })
    socket.on('error', fail)
  })
}

const bearing = (token) => ({ headers: { authorization: `Bearer ${token}` } })

/** An endpoint that says what it has got. It selects the subprotocol `chat`, or none. */
function startEcho() {
  const handleProtocols = (protocols) => (protocols.has('chat') ? 'chat' : false)
  const echo = new WebSocketServer({ port: ports.echo, host: '127.0.0.1', handleProtocols })
  echo.on('connection', (socket, request) => {
    const offered = request.headers['sec-websocket-protocol'] ?? ''
    socket.send(JSON.stringify({ url: request.url, user: request.headers['x-user'] ?? '', offered }))
  })
  return echo
}

const listener = (name) => `
[listener.${name}]
bind = ["127.0.0.1:${ports[name]}"]
[auth.${name}]
jwt = { issuer = "${issuer}", audience = ["chat"], ${{
    proxy: `jwks_url = "${issuer}/jwks", ca = "root.pem"`, keys: 'jwks_file = "keys.json"', secret: 'secret_file = "secret.key"',
  }[name]}, from = [{ header = "authorization" }, { query = "token" }, { subprotocol_after = "bearer" }, { subprotocol_prefix = "token." }] }
[[route]]
name = "${name}"
listeners = ["${name}"]
upstream = "echo"
auth = "${name}"
request_headers.set.x-user = "\${claim_sub}"
`

async function startProxy() {
  const path = write('tidegate.toml', `${['proxy', 'keys', 'secret'].map(listener).join('')}
[upstream.echo]
endpoints = ["127.0.0.1:${ports.echo}"]
`)
  const program = start(tidegate, ['run', '--config', path])
  await until('tidegate', () => listens(ports.proxy))
  return program
}

/** Tokens by PyJWT. */
function pyjwt(asked) {
  const input = asked.map((each) => `${JSON.stringify(each)}\n`).join('')
  const script = join(dirname(fileURLToPath(import.meta.url)), 'tokens.py')
  return execFileSync(python, [script], { input, encoding: 'utf8' }).trim().split('\n')
}

const claims = (changes = {}) => ({ iss: issuer, aud: 'chat', sub: 'me', exp: Math.floor(Date.now() / 1000) + 120, ...changes })

async function tokensByOthers(keys) {
  const hour = 3600
  const now = Math.floor(Date.now() / 1000)
  for (const key of keys) {
    const header = { alg: key.alg, kid: key.kid }
    const byJose = await new SignJWT(claims()).setProtectedHeader(header).sign(await importJWK(key, key.alg))
    const ask = (changes) => ({ algorithm: key.alg, key, header: { kid: key.kid }, claims: claims(changes) })
    const [byPython, late, early, others] = pyjwt([{}, { exp: now - hour }, { nbf: now + hour }, { aud: ['other'] }].map(ask))
    for (const [token, maker] of [[byJose, 'jose'], [byPython, 'PyJWT']]) {
      const seen = await handshake(ports.keys, bearing(token))
      equal(JSON.stringify([seen.status, seen.user]), '[101,"me"]', `${key.alg} by ${maker}`)
    }
    for (const [token, reason] of [[late, 'credential-expired'], [early, 'credential-invalid'], [others, 'credential-invalid']]) {
      equal((await handshake(ports.keys, bearing(token))).reason, reason, `${key.alg}: ${reason}`)
    }
  }
  for (const algorithm of ['HS256', 'HS384', 'HS512']) {
    const [token, forged] = pyjwt([secret, `${secret}!`].map((key) => ({ algorithm, key, header: {}, claims: claims() })))
    equal((await handshake(ports.secret, bearing(token))).status, 101, algorithm)
    equal((await handshake(ports.secret, bearing(forged))).reason, 'credential-invalid', `${algorithm}, forged`)
  }
}

/** The keys are replaced while clients come in: whatever they bring is accepted from the first one on. */
async function rotation(old, next) {
  await provider.use(old)
  const first = await provider.token()
  equal((await handshake(ports.proxy, bearing(first))).user, 'app', 'the first key')
  const before = provider.asked
  await provider.use(next, old)
  const second = await provider.token()
  const all = await Promise.all(Array.from({ length: 40 }, (_, number) =>
    handshake(ports.proxy, bearing(number % 2 ? first : second))))
  equal(all.filter((each) => each.status === 101).length, 40, 'handshakes while the keys are rotated')
  const asked = provider.asked - before
  if (asked < 1 || asked > 2) throw new Error(`the issuer was asked ${asked} times`)
}

async function issuerDown(program) {
  const token = await provider.token()
  await provider.end()
  equal((await handshake(ports.proxy, bearing(token))).status, 101, 'the issuer is down, its keys are known')
  program.child.kill('SIGHUP')
  await until('the reload', () => program.said.includes('configuration reloaded'))
  equal((await handshake(ports.proxy, bearing(token))).status, 101, 'the same after a reload')
  program.child.kill('SIGKILL')
  await program.ended
  const restarted = await startProxy()
  equal((await handshake(ports.proxy, bearing(token))).reason, 'auth-unavailable', 'a start without the issuer')
  equal((await handshake(ports.proxy, {})).reason, 'credential-missing', 'a request without a token')
  await provider.begin()
  await until('the keys', async () => (await handshake(ports.proxy, bearing(token))).status === 101)
  return restarted
}

/** What a page in Chromium gets for its offers: the subprotocol, or `failed`. */
async function browser() {
  const page = await openPage('about:blank', join(folder, 'profile'))
  const token = await provider.token()
  const open = (protocols) => page.evaluate(`new Promise((done) => {
    const socket = new WebSocket('ws://127.0.0.1:${ports.proxy}/chat', ${JSON.stringify(protocols)})
    socket.onmessage = ({ data }) => { done(JSON.stringify([socket.protocol, JSON.parse(data).offered])); socket.close() }
    socket.onerror = () => done('failed')
  })`)
  equal(await open(['bearer', token]), '["bearer",""]', 'Chromium: the mark is the answer')
  equal(await open(['chat', 'bearer', token]), '["chat","chat"]', 'Chromium: what the endpoint selects is the answer')
  equal(await open(['chat', `token.${token}`]), '["chat","chat"]', 'Chromium: a token with a prefix')
  // Nothing that it has offered is selected.
  equal(await open([`token.${token}`]), 'failed', 'Chromium: a token with a prefix alone')
  equal(await open(['bearer', `${token}x`]), 'failed', 'Chromium: a forged token')
  await page.close()
}

await main(async (check) => {
  makeCertificates()
  // The clients of this file ask the issuer as well, which only tidegate has to verify.
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
  const [old, next] = [await makeKey('RS256', 'old'), await makeKey('ES256', 'next')]
  const keys = [await makeKey('RS256', 'r'), await makeKey('PS384', 'p'), await makeKey('ES384', 'e'), await makeKey('EdDSA', 'd')]
  const published = keys.map(({ d, p, q, dp, dq, qi, ...key }) => key)
  write('keys.json', JSON.stringify({ keys: published }))
  write('secret.key', secret)
  const echo = startEcho()
  await provider.use(old)
  await provider.begin()
  let program = await startProxy()
  await check('tokens by jose and by PyJWT, clocks that are an hour off', () => tokensByOthers(keys))
  await check('keys are rotated while clients come in', () => rotation(old, next))
  const token = await provider.token()
  await check('a token in the query does not reach the endpoint', async () => {
    const seen = await handshake(ports.proxy, { query: `?a=1&token=${token}` })
    equal(seen.url, '/chat?a=1', 'the query at the endpoint')
  })
  await check('a page in Chromium, with its token as a subprotocol', browser)
  if (extent !== 'smoke') {
    await check('the issuer is down', async () => { program = await issuerDown(program) })
  }
  await check('no token is in the log', async () => {
    equal(program.said.includes(token.split('.')[2]), false, 'a token in the log')
  })
  await provider.end()
  echo.close()
})
