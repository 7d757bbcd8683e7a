// A real Prometheus scrapes a running tidegate: metrics arrive, alerts and every panel of the dashboard can be evaluated.

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import WebSocket, { WebSocketServer } from 'ws'
import { equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, docs, unitTests] = process.argv.slice(2)
const folder = temporaryFolder('prometheus')
const write = (name, text) => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}
const alerts = join(docs, 'alerts.yml')
const promtool = (...args) => execFileSync('promtool', args, { encoding: 'utf8' })
const formats = [
  'text/plain;version=0.0.4',
  'application/openmetrics-text;version=1.0.0'
]

function opened(port) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/chat`)
    socket.on('message', () => done(socket))
    socket.on('error', fail)
    socket.on('open', () => socket.send('hello'))
  })
}

await main(async (check) => {
  const echo = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  echo.on('connection', (socket) => socket.on('message', (data) => socket.send(data.toString())))
  await until('the echo', () => echo.address())
  const [port, metrics, own] = [await freePort(), await freePort(), await freePort()]
  start(tidegate, ['run', '--config', write('tidegate.toml', `
[admin]
metrics_bind = "127.0.0.1:${metrics}"
[listener.main]
bind = ["127.0.0.1:${port}"]
[[route]]
name = "chat"
upstream = "chat"
[upstream.chat]
endpoints = ["127.0.0.1:${echo.address().port}"]
`)])
  await until('tidegate', async () => await listens(port) && await listens(metrics))
  const sockets = await Promise.all([1, 2, 3].map(() => opened(port)))

  await check('promtool finds nothing wrong with the metrics', async () => {
    const said = await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text()
    execFileSync('promtool', ['check', 'metrics'], { input: said, encoding: 'utf8' })
  })
  await check('promtool finds nothing wrong with the alerts', () => promtool('check', 'rules', alerts))
  await check('alerts fire when they should, and only then', () => {
    const tests = readFileSync(unitTests, 'utf8').replace('alerts.yml', alerts)
    promtool('test', 'rules', write('alerts.test.yml', tests))
  })

  const prometheus = `http://127.0.0.1:${own}`
  start('prometheus', [
    `--config.file=${write('prometheus.yml', `
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [${alerts}]
scrape_configs:
  - job_name: tidegate
    static_configs: [{ targets: ["127.0.0.1:${metrics}"] }]
`)}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=127.0.0.1:${own}`
  ])
  // It listens before it answers.
  await until('Prometheus', async () => await listens(own) && (await fetch(`${prometheus}/-/ready`)).ok)
  const query = async (expression) => {
    const answer = await fetch(`${prometheus}/api/v1/query?query=${encodeURIComponent(expression)}`)
    const { status, data, error } = await answer.json()
    equal(status, 'success', `${expression}: ${error}`)
    return data.result
  }
  await check('what it has scraped is what there is', async () => {
    await until('three tunnels', async () => (await query('sum(tidegate_tunnels_open{route="chat"})'))[0]?.value[1] === '3')
    equal((await query('up{job="tidegate"}'))[0].value[1], '1', 'up')
    const carried = 'sum by (direction) (tidegate_tunnel_messages_total)'
    for (const { metric, value } of await query(carried)) equal(value[1], '3', metric.direction)
    equal((await query('sum(tidegate_handshake_seconds_bucket{le="+Inf"})'))[0].value[1], '3', 'a histogram')
  })
  await check('it takes both formats', async () => {
    for (const accept of formats) {
      const answer = await fetch(`http://127.0.0.1:${metrics}/metrics`, { headers: { accept } })
      equal(answer.headers.get('content-type').split(';')[0], accept.split(';')[0], accept)
    }
    const targets = await (await fetch(`${prometheus}/api/v1/targets`)).json()
    const [target] = targets.data.activeTargets
    equal(target.health, 'up', target.lastError)
  })
  await check('every alert can be evaluated', async () => {
    const rules = await until('evaluations', async () => {
      const { data } = await (await fetch(`${prometheus}/api/v1/rules`)).json()
      const all = data.groups.flatMap((group) => group.rules)
      return all.length > 0 && all.every((rule) => rule.health !== 'unknown') && all
    })
    for (const rule of rules) equal(rule.health, 'ok', `${rule.name}: ${rule.lastError}`)
  })
  await check('every panel of the dashboard can be drawn', async () => {
    const { panels } = JSON.parse(readFileSync(join(docs, 'grafana.json'), 'utf8'))
    const expressions = panels.flatMap((panel) => (panel.targets ?? []).map((target) => target.expr))
    for (const expression of expressions) {
      await query(expression.replaceAll('$__rate_interval', '1m').replaceAll(/\$(job|instance|route)/g, '.*'))
    }
    const [{ value }] = await query(expressions[0].replaceAll(/\$(job|instance|route)/g, '.*'))
    equal(value[1], '3', expressions[0])
  })
  for (const socket of sockets) socket.terminate()
  echo.close()
})
