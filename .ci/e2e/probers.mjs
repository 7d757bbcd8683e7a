// Health checks of others, in front of tidegate: HAProxy's default HTTP check, its TCP check, also of a listener that
// requires a PROXY header, and nginx, which speaks HTTP/1.0 to upstreams by default.

import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { equal, freePort, listens, main, nginxServer, start, temporaryFolder, until } from './process.mjs'

const [tidegate] = process.argv.slice(2)
const folder = temporaryFolder('probers')
const write = (name, text) => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}

await main(async (check) => {
  const backend = createServer((_, answer) => answer.end('ok'))
  await new Promise((done) => backend.listen(0, '127.0.0.1', done))
  const ports = {}
  for (const name of ['plain', 'proxied', 'metrics', 'stats', 'nginx']) ports[name] = await freePort()
  write('tidegate.toml', `
[admin]
metrics_bind = "127.0.0.1:${ports.metrics}"
[listener.plain]
bind = ["127.0.0.1:${ports.plain}"]
[listener.proxied]
bind = ["127.0.0.1:${ports.proxied}"]
proxy_protocol = "required"
trusted_proxies = ["127.0.0.9"]
[[route]]
upstream = "backend"
[upstream.backend]
endpoints = ["127.0.0.1:${backend.address().port}"]
`)
  write('haproxy.cfg', `
global
  maxconn 100
defaults
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout check 5s
  default-server inter 200ms fastinter 200ms
frontend stats
  mode http
  bind 127.0.0.1:${ports.stats}
  stats enable
  stats uri /
backend http
  mode http
  option httpchk
  server tidegate 127.0.0.1:${ports.plain} check
backend tcp
  mode tcp
  server tidegate 127.0.0.1:${ports.plain} check
backend proxied
  mode tcp
  source 127.0.0.9
  server tidegate 127.0.0.1:${ports.proxied} send-proxy-v2 check
backend probed
  mode tcp
  server tidegate 127.0.0.1:${ports.proxied} check
`)
  write('nginx.conf', nginxServer(folder, `
  listen 127.0.0.1:${ports.nginx};
  location / { proxy_pass http://127.0.0.1:${ports.plain}; }
  location /no-host { proxy_set_header Host ""; proxy_pass http://127.0.0.1:${ports.plain}; }
`))
  const proxy = start(tidegate, ['run', '--config', join(folder, 'tidegate.toml')])
  for (const name of ['plain', 'proxied', 'metrics']) await until(name, () => listens(ports[name]))
  start('haproxy', ['-db', '-f', join(folder, 'haproxy.cfg')])
  start('nginx', ['-c', join(folder, 'nginx.conf'), '-e', 'stderr'])
  for (const name of ['stats', 'nginx']) await until(name, () => listens(ports[name]))

  await check('HAProxy sees it up, by each of its checks', async () => {
    const wanted = { http: 'L7OK', tcp: 'L4OK', proxied: 'L4OK', probed: 'L4OK' }
    await until('all checks to have passed', async () => {
      const lines = (await (await fetch(`http://127.0.0.1:${ports.stats}/;csv`)).text()).trim().split('\n')
      const names = lines[0].replace('# ', '').split(',')
      const servers = lines.slice(1).map((line) => Object.fromEntries(line.split(',').map((value, at) => [names[at], value])))
      return Object.entries(wanted).every(([name, status]) => {
        const server = servers.find((each) => each.pxname === name && each.svname === 'tidegate')
        return server.status === 'UP' && server.check_status === status
      })
    })
  })

  await check('nginx reaches it over HTTP/1.0, with and without a Host', async () => {
    for (const path of ['/', '/no-host']) {
      const answer = await fetch(`http://127.0.0.1:${ports.nginx}${path}`)
      equal(answer.status, 200, path)
    }
  })

  // HAProxy resets its own before they are established, so the kernel keeps most of them to itself.
  await check('checks that only connect are counted, and not logged', async () => {
    for (let time = 0; time < 3; time += 1) equal(await listens(ports.proxied), true, 'connected')
    await until('them to be counted', async () => {
      const metrics = await (await fetch(`http://127.0.0.1:${ports.metrics}/metrics`)).text()
      const counted = /tidegate_connections_refused_total\{listener="proxied",reason="empty"\} (\d+)/.exec(metrics)
      return Number(counted?.[1]) > 2
    })
    equal(/connection refused|rejected/.test(proxy.said), false, 'logged')
  })
})
