// A login at an OpenID provider, in Chromium, in front of a WebSocket: npm's oidc-provider as the provider, Apache with
// mod_auth_openidc as the service that tidegate asks. `sso.mjs TIDEGATE`.

import { mkdirSync, chmodSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import Provider from 'oidc-provider'
import WebSocket, { WebSocketServer } from 'ws'
import { openPage } from './chromium.mjs'
import { equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate] = process.argv.slice(2)
const folder = temporaryFolder('sso')
// Apache reads its pages as another user.
chmodSync(folder, 0o755)
const ports = {}
for (const name of ['provider', 'apache', 'echo', 'proxy']) ports[name] = await freePort()
// Two hosts, so that neither gets the cookies of the other.
const provider = `http://localhost:${ports.provider}`
const site = `http://127.0.0.1:${ports.proxy}`

function startProvider() {
  const configuration = {
    clients: [{
      client_id: 'apache', client_secret: 'a secret of the client of 127.0.0.1', redirect_uris: [`${site}/oidc/callback`],
      response_types: ['code'], grant_types: ['authorization_code'],
    }],
    cookies: { keys: ['a key of the provider'] },
    features: { devInteractions: { enabled: true } },
    ttl: { AccessToken: 600, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
  }
  const oidc = new Provider(provider, configuration)
  const server = createServer(oidc.callback()).unref()
  return new Promise((done) => server.listen(ports.provider, 'localhost', done))
}

async function startApache() {
  const modules = ['mpm_event', 'authn_core', 'authz_core', 'authz_user', 'alias', 'headers', 'auth_openidc']
  mkdirSync(join(folder, 'pages'), { recursive: true })
  for (const name of ['check', 'page', 'login']) writeFileSync(join(folder, 'pages', name), '')
  writeFileSync(join(folder, 'apache.conf'), `
${modules.map((name) => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so`).join('\n')}
ServerRoot ${folder}
ServerName 127.0.0.1
Listen 127.0.0.1:${ports.apache}
PidFile ${join(folder, 'apache.pid')}
DefaultRuntimeDir ${folder}
Mutex pthread
ErrorLog ${join(folder, 'apache.log')}
User www-data
Group www-data
DocumentRoot ${join(folder, 'pages')}
OIDCProviderMetadataURL ${provider}/.well-known/openid-configuration
OIDCClientID apache
OIDCClientSecret "a secret of the client of 127.0.0.1"
OIDCRedirectURI ${site}/oidc/callback
OIDCCryptoPassphrase "a key of the service"
OIDCRemoteUserClaim sub
OIDCXForwardedHeaders X-Forwarded-Host X-Forwarded-Proto
<Location />
  AuthType openid-connect
  Require valid-user
  Header set Remote-User "expr=%{REMOTE_USER}"
</Location>
# A WebSocket cannot follow a redirect.
<Location /check>
  OIDCUnAuthAction 401
</Location>
`)
  const apache = start('apache2', ['-D', 'FOREGROUND', '-f', join(folder, 'apache.conf')])
  await until('Apache', () => listens(ports.apache))
  return apache
}

/** An endpoint with a page, and with a WebSocket that says who its client is. */
function startEcho() {
  const server = createServer((request, response) => {
    response.setHeader('content-type', 'text/html')
    response.end(`<title>page of ${request.headers['remote-user']}</title>`)
  })
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket, request) => socket.send(request.headers['remote-user'] ?? ''))
  return new Promise((done) => server.unref().listen(ports.echo, '127.0.0.1', done))
}

async function startProxy() {
  const service = (path) => `service = { upstream = "apache", path = "${path}", request_headers = ["cookie", "user-agent", "accept"], response_headers = ["remote-user"], subject_header = "remote-user" }`
  const path = join(folder, 'tidegate.toml')
  writeFileSync(path, `
[listener.public]
bind = ["127.0.0.1:${ports.proxy}"]

[auth.sso]
recheck = "1s"
${service('/check')}

[auth.page]
${service('/page')}

[[route]]
path_prefix = "/chat"
upstream = "echo"
auth = "sso"

[[route]]
path = "/page"
upstream = "echo"
auth = "page"

[[route]]
path_prefix = "/oidc"
upstream = "apache"
only = "plain"

[upstream.apache]
endpoints = ["127.0.0.1:${ports.apache}"]

[upstream.echo]
endpoints = ["127.0.0.1:${ports.echo}"]
`)
  const program = start(tidegate, ['run', '--config', path])
  await until('tidegate', () => listens(ports.proxy))
  return program
}

/** How a handshake ends: with the name that the endpoint has got, or with a status and a reason. */
function handshake(cookie) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(`ws://127.0.0.1:${ports.proxy}/chat`, { headers: cookie ? { cookie } : {} })
    socket.on('message', (user) => { done(`101 ${user}`); socket.terminate() })
    socket.on('unexpected-response', (_, response) => {
      done(`${response.statusCode} ${response.headers['tidegate-reason'] ?? ''}`.trim())
      response.destroy()
    })
    socket.on('error', fail)
  })
}

const title = (page) => page.evaluate('document.title').catch(() => '')

/** Fills in the forms of the provider until its pages are over. */
async function logIn(page) {
  await until('the login form', () => page.evaluate('!!document.querySelector("[name=login]")').catch(() => false))
  await page.evaluate(`document.querySelector('[name=login]').value = 'alice'
    document.querySelector('[name=password]').value = 'any'
    document.querySelector('form').submit()`)
  await until('the consent form', () => page.evaluate('document.querySelector("[name=prompt]")?.value === "consent"').catch(() => false))
  await page.evaluate(`document.querySelector('form').submit()`)
  await until('the page', async () => (await title(page)) === 'page of alice')
}

/** A WebSocket of the page: what it gets, and later how it ends. */
const openSocket = (page) => page.evaluate(`new Promise((done) => {
  window.socket = new WebSocket('ws://127.0.0.1:${ports.proxy}/chat')
  window.ended = new Promise((end) => { socket.onclose = ({ code, reason }) => end(code + ' ' + reason) })
  socket.onmessage = ({ data }) => done(data)
  socket.onerror = () => done('failed')
})`)

/** The session cookie of the service in the browser. */
async function sessionCookie(page) {
  const { cookies } = await page.send('Network.getCookies', { urls: [site] })
  const session = cookies.find((each) => each.name === 'mod_auth_openidc_session')
  return session && `${session.name}=${session.value}`
}

await main(async (check) => {
  await startProvider()
  await startEcho()
  const apache = await startApache()
  await startProxy()

  await check('without a cookie, a handshake gets the 401 of the service', async () => {
    equal(await handshake(), '401 auth-denied', 'no cookie')
    equal(await handshake('mod_auth_openidc_session=forged'), '401 auth-denied', 'a forged cookie')
  })
  await check('without a cookie, a page gets the redirect of the service, and the cookie with its state', async () => {
    const response = await fetch(`${site}/page`, { redirect: 'manual', headers: { accept: 'text/html' } })
    equal(response.status, 302, 'the status')
    equal(response.headers.get('location').startsWith(`${provider}/auth?`), true, 'the login page')
    equal(/^mod_auth_openidc_state_/.test(response.headers.get('set-cookie')), true, 'the cookie')
  })
  const page = await openPage('about:blank', join(folder, 'profile'))
  await page.send('Page.navigate', { url: `${site}/page` })
  let cookie
  await check('a user logs in, and the page opens a WebSocket', async () => {
    await logIn(page)
    equal(await openSocket(page), 'alice', 'what the endpoint knows')
    cookie = await sessionCookie(page)
    equal(await handshake(cookie), '101 alice', 'the cookie alone')
  })
  await check('after the logout, the tunnel ends and its cookie opens no other', async () => {
    const logout = await page.evaluate(`fetch('/oidc/callback?logout=' + encodeURIComponent('${site}/page'), { redirect: 'manual' }).then(({ type }) => type)`)
    equal(logout, 'opaqueredirect', 'the logout')
    equal(await page.evaluate('window.ended'), '1008 revoked', 'the tunnel')
    equal(await handshake(cookie), '401 auth-denied', 'the old cookie')
    equal(await openSocket(page), 'failed', 'the page')
  })
  await page.close()
  await check('while the service is down, handshakes get 503', async () => {
    apache.child.kill('SIGTERM')
    await apache.ended
    equal(await handshake(cookie), '503 auth-unavailable', 'the service is down')
    await startApache()
    await until('the service', async () => (await handshake()) === '401 auth-denied')
  })
})
