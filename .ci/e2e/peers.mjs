// PROXY headers as others write and read them: HAProxy in front of tidegate, HAProxy and nginx behind.

import { writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { request as secureRequest } from 'node:https'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import WebSocket, { WebSocketServer } from 'ws'
import { deadline, equal, freePort, listens, main, nginxServer, start, temporaryFolder, until } from './process.mjs'

const [tidegate] = process.argv.slice(2)
const folder = temporaryFolder('peers')
const write = (name, text) => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}

// Who is who: the client, HAProxy towards tidegate, and everything else at 127.0.0.1.
const clientAddress = '127.0.0.5'
const haproxyAddress = '127.0.0.9'

/** An endpoint that tells what it was told, in a plain reply or as the first message. */
async function endpoint() {
  const told = ({ headers }) => ['x-forwarded-for', 'x-forwarded-proto'].map((name) => headers[name]).join(' ')
  const server = createServer((asked, answer) => answer.end(told(asked)))
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket, asked) => {
    socket.send(told(asked))
    socket.on('message', (data) => socket.send(data.toString()))
  })
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  return server.address().port
}

function get(url, headers = {}) {
  const by = url.startsWith('https') ? secureRequest : request
  return new Promise((done, fail) => {
    const options = { headers, localAddress: clientAddress, rejectUnauthorized: false, agent: false }
    const asked = by(url, options, (answer) => {
      let body = ''
      answer.on('data', (data) => { body += data })
      answer.on('end', () => done(body))
    })
    asked.on('error', fail)
    asked.end()
  })
}

/** The first message, and the answer to one of ours. */
function talk(url, headers = {}) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(url, { headers, localAddress: clientAddress, rejectUnauthorized: false, handshakeTimeout: deadline })
    const heard = []
    socket.on('error', fail)
    socket.on('message', (data) => {
      heard.push(data.toString())
      if (heard.length === 1) socket.send('echo')
      if (heard.length === 2) {
        socket.close()
        done(heard.join(', '))
      }
    })
  })
}

const defaults = 'defaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n'

await main(async (check) => {
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' })
  execFileSync('sh', ['-c', 'cat cert.pem key.pem > both.pem'], { cwd: folder })
  const ports = {}
  for (const name of ['v1', 'v2', 'tls', 'inner', 'sendV1', 'sendV2', 'haproxyV1', 'haproxyV2', 'nginx']) ports[name] = await freePort()
  const behind = await endpoint()

  write('tidegate.toml', `
[listener.inner]
bind = ["127.0.0.1:${ports.inner}"]
proxy_protocol = "required"
trusted_proxies = ["${haproxyAddress}"]
[listener.v1]
bind = ["127.0.0.1:${ports.sendV1}"]
trusted_proxies = ["${clientAddress}"]
[listener.v2]
bind = ["127.0.0.1:${ports.sendV2}"]
trusted_proxies = ["${clientAddress}"]
[[route]]
listeners = ["inner"]
upstream = "endpoint"
[[route]]
listeners = ["v1"]
path_prefix = "/haproxy"
upstream = "haproxy-v1"
[[route]]
listeners = ["v2"]
path_prefix = "/haproxy"
upstream = "haproxy-v2"
[[route]]
listeners = ["v1"]
path_prefix = "/nginx"
upstream = "nginx-v1"
[[route]]
listeners = ["v2"]
path_prefix = "/nginx"
upstream = "nginx-v2"
[upstream.endpoint]
endpoints = ["127.0.0.1:${behind}"]
[upstream.haproxy-v1]
endpoints = ["127.0.0.1:${ports.haproxyV1}"]
send_proxy = "v1"
[upstream.haproxy-v2]
endpoints = ["127.0.0.1:${ports.haproxyV2}"]
send_proxy = "v2"
[upstream.nginx-v1]
endpoints = ["127.0.0.1:${ports.nginx}"]
send_proxy = "v1"
[upstream.nginx-v2]
endpoints = ["127.0.0.1:${ports.nginx}"]
send_proxy = "v2"
`)
  const inFront = (name, bind, server) => `
frontend ${name}
  mode tcp
  bind 127.0.0.1:${ports[name]} ${bind}
  default_backend to-${name}
backend to-${name}
  mode tcp
  source ${haproxyAddress}
  server tidegate 127.0.0.1:${ports.inner} ${server}
`
  const inBack = (name) => `
frontend back-${name}
  mode http
  bind 127.0.0.1:${ports[name]} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[dst_port]" if { path /haproxy/plain }
  default_backend back
`
  write('haproxy.cfg', `global\n  maxconn 100\n${defaults}`
    + inFront('v1', '', 'send-proxy') + inFront('v2', '', 'send-proxy-v2')
    + inFront('tls', `ssl crt ${join(folder, 'both.pem')}`, 'send-proxy-v2-ssl')
    + inBack('haproxyV1') + inBack('haproxyV2')
    + `backend back\n  mode http\n  timeout tunnel 30s\n  server node 127.0.0.1:${behind}\n`)
  write('nginx.conf', nginxServer(folder, `
  listen 127.0.0.1:${ports.nginx} proxy_protocol;
  location / { return 200 "$proxy_protocol_addr $proxy_protocol_server_port"; }
`))
  const proxy = start(tidegate, ['run', '--config', join(folder, 'tidegate.toml')])
  start('haproxy', ['-db', '-f', join(folder, 'haproxy.cfg')])
  start('nginx', ['-c', join(folder, 'nginx.conf'), '-e', 'stderr'])
  for (const [name, port] of Object.entries(ports)) await until(name, () => listens(port))

  for (const [name, scheme, proto] of [['v1', '', 'http'], ['v2', '', 'http'], ['tls', 's', 'https']]) {
    await check(`a header of HAProxy's says who the client is (${name})`, async () => {
      const spoof = { 'X-Forwarded-For': '6.6.6.6', Forwarded: 'for=6.6.6.6' }
      equal(await get(`http${scheme}://127.0.0.1:${ports[name]}/`, spoof), `${clientAddress} ${proto}`, 'plain')
      equal(await talk(`ws${scheme}://127.0.0.1:${ports[name]}/`, spoof), `${clientAddress} ${proto}, echo`, 'tunnel')
    })
  }

  await check('whoever comes without HAProxy is not let in', async () => {
    let refused = false
    await get(`http://127.0.0.1:${ports.inner}/`).catch(() => { refused = true })
    equal(refused, true, 'refused')
  })

  for (const version of ['V1', 'V2']) {
    const url = `127.0.0.1:${ports[`send${version}`]}`
    await check(`HAProxy and nginx read our header (${version})`, async () => {
      for (const peer of ['haproxy/plain', 'nginx']) {
        equal(await get(`http://${url}/${peer}`), `${clientAddress} ${ports[`send${version}`]}`, peer)
        const six = await get(`http://${url}/${peer}`, { 'X-Forwarded-For': '2001:db8::1' })
        equal(six, `2001:db8::1 ${ports[`send${version}`]}`, `${peer}, IPv6`)
      }
    })
    await check(`a tunnel through HAProxy begins behind our header (${version})`, async () => {
      equal(await talk(`ws://${url}/haproxy/ws`), `${clientAddress} http, echo`, 'tunnel')
    })
  }

  await check('SIGTERM ends it in order', async () => {
    proxy.child.kill('SIGTERM')
    equal(await proxy.ended, 0, 'exit code')
  })
})
