// `tidegate dashboard` in a browser, at three sizes, light and dark: against a live fleet with an endpoint down, a drain
// under way, an expiring certificate and thousands of tunnels.
//
//   node dashboard.mjs TIDEGATE                    # the checks, with 10,000 tunnels, or as many as the descriptors allow
//   node dashboard.mjs TIDEGATE --few              # the same with 2000
//   node dashboard.mjs TIDEGATE --pictures FOLDER  # and pictures of each view
//   node dashboard.mjs TIDEGATE --picture FILE     # the picture for the documents: five minutes of a busy fleet

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { connect } from 'node:net'
import { join } from 'node:path'
import { WebSocketServer } from 'ws'
import { openPage } from './chromium.mjs'
import { endAll, equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, option, pictures] = process.argv.slice(2)
const folder = temporaryFolder('dashboard')
const socket = join(folder, 'admin.sock')
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const wanted = option === '--few' ? 2000 : 10_000
/** Connections that the proxy has to admit besides. */
const spare = 250
/** Tunnels of a connection in HTTP/2: over HTTP/1.1, the proxy would need two descriptors for each tunnel. */
const streams = 100
const crowd = 500
const sizes = [['desk', 1280, 800], ['phone', 390, 844], ['wide', 1920, 1080]]

const write = (name, text, mode = 0o644) => {
  writeFileSync(join(folder, name), text, { mode })
  return join(folder, name)
}

/** GET or POST at the admin socket. */
function admin(path, body) {
  return new Promise((done, fail) => {
    const asked = request({ socketPath: socket, path, method: body ? 'POST' : 'GET', headers: { host: 'localhost' } }, (answer) => {
      let text = ''
      answer.on('data', (data) => { text += data })
      answer.on('end', () => done(JSON.parse(text)))
    })
    asked.on('error', fail)
    asked.end(body && JSON.stringify(body))
  })
}

/** A certificate of which 5 % are left. */
function expiring() {
  const openssl = (...args) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' })
  const day = (days) => `${new Date(Date.now() + days * 86_400_000).toISOString().replace(/[-:T]|\..*/g, '').slice(2)}Z`
  mkdirSync(join(folder, 'ca'))
  for (const [name, text] of [['ca/index.txt', ''], ['ca/serial', '1000\n']]) write(name, text)
  write('ca.cnf', `[ca]\ndefault_ca = own\n[own]\ndatabase = ca/index.txt\nserial = ca/serial\nnew_certs_dir = ca
default_md = sha256\npolicy = any\ncopy_extensions = copy\n[any]\ncommonName = supplied\n`)
  openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=chat.example.com', '-addext', 'subjectAltName=DNS:chat.example.com', '-keyout', 'chat.key', '-out', 'chat.csr')
  openssl('ca', '-batch', '-config', 'ca.cnf', '-selfsign', '-keyfile', 'chat.key', '-in', 'chat.csr', '-out', 'chat.pem', '-startdate', day(-85), '-enddate', day(4.5))
}

/** A handshake whose tunnel stays open; or the status of the response. */
function opened(port, path) {
  return new Promise((done, fail) => {
    const stream = connect(port, '127.0.0.1', () => {
      stream.write(`GET ${path} HTTP/1.1\r\nHost: chat.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`)
    })
    stream.once('data', (data) => done({ stream, status: Number(String(data).slice(9, 12)) }))
    stream.on('error', fail)
  })
}

/** Tunnels on one connection in HTTP/2. */
async function openedOverHttp2(port) {
  const session = connectHttp2(`https://127.0.0.1:${port}`, { servername: 'chat.example.com', rejectUnauthorized: false })
  session.on('error', () => {})
  await once(session, 'remoteSettings')
  return Promise.all(Array.from({ length: streams }, async (_, place) => {
    const stream = session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':authority': 'chat.example.com', ':path': `/chat/room-${place % 40}`, 'sec-websocket-version': '13' })
    const [head] = await once(stream, 'response')
    equal(head[':status'], 200, 'status')
    stream.on('error', () => {})
    stream.on('data', (data) => { if ((data[0] & 0x0f) === 8) stream.close() })
    return stream
  }))
}

/** An endpoint that echoes. */
async function echoing() {
  const echo = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false })
  echo.on('connection', (it) => { it.on('message', (data) => it.send(data)); it.on('error', () => {}) })
  await until('an echo', () => echo.address())
  return echo
}

/** Starts a tidegate in front of two upstreams with these settings, and with an expiring certificate; its ports. */
async function startProxy({ chat, games }) {
  expiring()
  const [port, tls] = [await freePort(), await freePort()]
  start(tidegate, ['run', '--config', write('tidegate.toml', `
[server]
log.level = "warn"
upgrade = { drain = "off", settle = "1s" }
access_log.to = "off"
[admin]
bind = "unix:${socket}"
[listener.public]
bind = ["127.0.0.1:${port}"]
[listener.secure]
bind = ["127.0.0.1:${tls}"]
tls.certificates = [{ cert = "chat.pem", key = "chat.key" }]
http2 = { streams = 128 }
[[route]]
name = "chat"
path_prefix = "/chat"
upstream = "chat"
[[route]]
name = "games"
path_prefix = "/games"
upstream = "games"
[upstream.chat]
${chat}
[upstream.games]
${games}
`)])
  await until('tidegate', () => listens(port))
  return { port, tls }
}

async function startFleet() {
  const echoes = [await echoing(), await echoing(), await echoing()]
  const dead = await freePort()
  const chat = [...echoes.map((it) => it.address().port), dead].map((it) => `"127.0.0.1:${it}"`)
  const many = Array.from({ length: crowd }, (_, place) => `"127.1.${Math.floor(place / 250)}.${1 + place % 250}:9"`)
  const { port, tls } = await startProxy({
    chat: `endpoints = [${chat.join(', ')}]\nhealth = { tcp = {}, interval = "200ms", fall = 1 }`,
    games: `endpoints = [${many.join(', ')}]`,
  })
  const open = []
  const begin = Date.now()
  const { max_connections: most } = await admin('/v1/status')
  const tunnels = Math.min(wanted, Math.floor((most - spare) / streams) * streams)
  while (open.length < tunnels) open.push(...await openedOverHttp2(tls))
  console.log(`    ${tunnels} tunnels are open after ${((Date.now() - begin) / 1000).toFixed(1)} s`)
  equal((await opened(port, '/elsewhere')).status, 404, 'a rejection')
  const drained = `127.0.0.1:${echoes[0].address().port}`
  await admin('/v1/endpoints/drain', { endpoint: drained })
  await admin('/v1/tunnels/close', { filter: { endpoint: drained }, over: '5h' })
  // A masked message of three bytes.
  const message = Buffer.from('8183000000003c623e', 'hex')
  setInterval(() => { for (const stream of open.slice(0, 50)) if (stream.writable) stream.write(message) }, 200)
  await until('the endpoint is down', async () => (await admin('/v1/upstreams'))[0].endpoints.some((it) => it.state === 'down'))
  return { port, open, tunnels, drained, dead: `127.0.0.1:${dead}` }
}

/** A dashboard, and its page in a browser. */
async function openDashboard(name, options = []) {
  const program = start(tidegate, ['dashboard', '--json', '--admin', `unix:${socket}`, ...options])
  const { url } = JSON.parse(await until('the address', () => /\{.*\}/.exec(program.said)?.[0]))
  const page = await openPage('about:blank', join(folder, name))
  for (const domain of ['Runtime', 'Log', 'Network', 'Page']) await page.send(`${domain}.enable`)
  await page.send('Page.navigate', { url })
  const { evaluate } = page
  const text = (selector) => evaluate(`document.querySelector(${JSON.stringify(selector)})?.textContent`)
  const press = (selector) => evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`)
  const show = async (view) => {
    await evaluate(`location.hash = ${JSON.stringify(view)}`)
    await until(`the view ${view}`, () => evaluate(`!document.querySelector('[data-view=${view}]').hidden`))
  }
  const fill = (selector, value) => evaluate(`document.querySelector(${JSON.stringify(selector)}).value = ${JSON.stringify(value)}`)
  const picture = async (file) => {
    if (option !== '--pictures') return
    const { data } = await page.send('Page.captureScreenshot', { format: 'png' })
    mkdirSync(pictures, { recursive: true })
    writeFileSync(join(pictures, `${file}.png`), Buffer.from(data, 'base64'))
  }
  const size = async (width, height, scheme = 'light') => {
    await page.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 })
    await page.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
  }
  // Rates need a second reading.
  await until('figures', async () => /\d/.test(await text('#now-tunnels')) && /\d/.test(await text('#now-messages')))
  return { ...page, program, text, press, show, fill, picture, size, url }
}

/** Errors that the page or the browser has reported. */
function complaints({ heard }) {
  const bad = heard.filter(({ method, params }) => method === 'Runtime.exceptionThrown'
    || (method === 'Runtime.consoleAPICalled' && ['error', 'warning', 'assert'].includes(params.type))
    || (method === 'Log.entryAdded' && ['error', 'warning'].includes(params.entry.level)))
  return bad.map(({ params }) => params.exceptionDetails?.exception?.description ?? params.entry?.text ?? JSON.stringify(params.args))
}

async function accessible(page, what) {
  if (!await page.evaluate("typeof axe === 'object'")) await page.evaluate(axe)
  // Rows of a table are alike.
  const found = JSON.parse(await page.evaluate(`axe.run({ exclude: [['tbody tr:nth-child(n+20)']] }, { resultTypes: ['violations'] }).then(({ violations }) =>
    JSON.stringify(violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.slice(0, 3).map((it) => it.html + ' ' + it.failureSummary) }))))`))
  const serious = found.filter(({ impact }) => ['serious', 'critical'].includes(impact))
  equal(JSON.stringify(serious, null, 1), '[]', `axe: ${what}`)
}

/** What the first screen says, as numbers. */
const shown = (page) => page.evaluate(`({
  tunnels: Number(document.getElementById('now-tunnels').dataset.value),
  endpoints: Object.fromEntries([...document.querySelectorAll('[data-endpoint]')].map((it) => [it.dataset.endpoint, [it.dataset.state, Number(it.dataset.tunnels)]])),
  rejections: Object.fromEntries([...document.querySelectorAll('#rejections [data-reason]')].map((it) => [it.dataset.reason, Number(it.dataset.count)])),
  ended: Object.fromEntries([...document.querySelectorAll('#ended [data-reason]')].map((it) => [it.dataset.reason, Number(it.dataset.count)])),
  shares: [...document.querySelectorAll('#certificates [data-share]')].map((it) => Number(it.dataset.share)),
})`)

async function said() {
  const [status, listeners, upstreams, traffic, certificates] = await Promise.all(['status', 'listeners', 'upstreams', 'traffic', 'certificates'].map((it) => admin(`/v1/${it}`)))
  const rejections = {}
  for (const it of listeners) for (const [reason, count] of Object.entries(it.rejections)) rejections[reason] = (rejections[reason] ?? 0) + count
  return {
    tunnels: status.tunnels,
    endpoints: Object.fromEntries(upstreams.flatMap((it) => it.endpoints.map((each) => [each.endpoint, [each.state, each.tunnels]]))),
    rejections,
    ended: traffic.ended,
    shares: certificates.certificates.map((it) => it.share_left),
  }
}

/** The same with sorted keys, for a comparison. */
const sorted = (value) => JSON.stringify(value, (_, it) => (it && typeof it === 'object' && !Array.isArray(it) ? Object.fromEntries(Object.entries(it).sort()) : it))

/** A frame of this text, as a client sends it. */
const masked = (text, opcode = 1) => Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text, 'latin1')])

/** Clients that come, talk and leave for five minutes, while an endpoint is drained and another one fails. */
async function takePicture(file) {
  const names = ['chat-1', 'chat-2', 'chat-3', 'chat-4', 'game-1', 'game-2', 'game-3']
  const echoes = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await echoing()])))
  const of = (kind) => names.filter((name) => name.startsWith(kind)).map((name) => `{ address = "127.0.0.1:${echoes[name].address().port}", name = "${name}" }`).join(', ')
  const health = 'health = { tcp = {}, interval = "1s", timeout = "900ms", fall = 2 }'
  const { port } = await startProxy({
    chat: `endpoints = [${of('chat')}]\nslow_start = "2m"\n${health}`,
    games: `endpoints = [${of('game')}]\n${health}`,
  })
  const page = await openDashboard('picture')
  await page.size(1280, 800)
  const begin = Date.now()
  const elapsed = () => (Date.now() - begin) / 1000
  const open = new Set()
  const later = setInterval(async () => {
    const wave = 1 + Math.sin(elapsed() / 25) / 2
    for (let place = 0; place < 3 * wave && open.size < 900; place += 1) {
      const client = await opened(port, `/${Math.random() < 0.7 ? 'chat/room' : 'games/match'}-${Math.floor(Math.random() * 40)}`).catch(() => null)
      if (client?.status !== 101) continue
      open.add(client.stream)
      client.stream.on('data', (data) => { if ((data[0] & 0x0f) === 8) client.stream.destroy() })
      client.stream.on('close', () => open.delete(client.stream))
    }
    if (Math.random() < 0.02) (await opened(port, '/elsewhere').catch(() => null))?.stream.destroy()
    for (const stream of open) {
      const chance = Math.random()
      if (chance < 0.08 * wave) stream.write(masked('x'.repeat(20 + Math.floor(Math.random() * 90))))
      else if (chance > 0.9993) stream.write(masked('\u0003\u00e8', 8))
      else if (chance > 0.9991) stream.destroy()
    }
  }, 100)
  const at = (seconds) => until(`${seconds} s`, () => elapsed() > seconds, 400_000)
  await at(170)
  const drained = `127.0.0.1:${echoes['chat-2'].address().port}`
  await admin('/v1/endpoints/drain', { endpoint: drained })
  await at(180)
  await admin('/v1/tunnels/close', { filter: { endpoint: drained }, over: '4m' })
  await at(230)
  echoes['game-3'].close()
  for (const client of echoes['game-3'].clients) client._socket.resetAndDestroy()
  await at(260)
  await admin('/v1/endpoints/drain', { endpoint: `127.0.0.1:${echoes['chat-4'].address().port}` })
  await at(262)
  await admin('/v1/endpoints/undrain', { endpoint: `127.0.0.1:${echoes['chat-4'].address().port}` })
  await at(300)
  await page.send('Emulation.setDeviceMetricsOverride', { width: 1280, height: 800, deviceScaleFactor: 1.5, mobile: false })
  const { data } = await page.send('Page.captureScreenshot', { format: 'webp', quality: 70 })
  writeFileSync(file, Buffer.from(data, 'base64'))
  clearInterval(later)
  await page.close()
}

/** A site with a service worker and files that the browser may keep for a year was at the port before. */
async function afterAnotherSite() {
  const port = await freePort()
  const earlier = createServer((asked, answer) => {
    const script = asked.url.endsWith('.js')
    answer.writeHead(200, { 'content-type': script ? 'text/javascript' : 'text/html', 'cache-control': 'max-age=31536000, immutable' })
    if (asked.url === '/worker.js') return answer.end("addEventListener('install', (event) => event.waitUntil(caches.open('all').then((all) => all.addAll(['/', '/page.js'])).then(() => skipWaiting()))); addEventListener('activate', (event) => event.waitUntil(clients.claim())); addEventListener('fetch', (event) => event.respondWith(caches.match(event.request).then((it) => it ?? fetch(event.request))))")
    answer.end(script ? 'globalThis.stale = true' : '<title>earlier</title><script src="/page.js"></script>')
  })
  earlier.listen(port, '127.0.0.1')
  await once(earlier, 'listening')
  const page = await openPage('about:blank', join(folder, 'earlier'))
  for (const domain of ['Runtime', 'Page']) await page.send(`${domain}.enable`)
  await page.send('Page.navigate', { url: `http://127.0.0.1:${port}/` })
  await until('the earlier page', () => page.evaluate("document.title === 'earlier'"))
  await page.evaluate("navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready).then(() => true)")
  await until('its worker', () => page.evaluate('navigator.serviceWorker.controller !== null'))
  earlier.closeAllConnections()
  await new Promise((done) => earlier.close(done))
  const program = start(tidegate, ['dashboard', '--json', '--port', String(port), '--admin', `unix:${socket}`])
  const { url } = JSON.parse(await until('the address', () => /\{.*\}/.exec(program.said)?.[0]))
  await page.send('Page.navigate', { url })
  await until('the page', () => page.evaluate("typeof globalThis.stale === 'undefined' && /\\d/.test(document.getElementById('now-tunnels')?.textContent ?? '')")).catch(async (error) => {
    throw new Error(`${error.message}: ${await page.evaluate('document.title + document.body.textContent + globalThis.stale')}`)
  })
  equal(await page.evaluate('navigator.serviceWorker.getRegistrations().then((all) => all.length)'), 0, 'service workers')
  equal(await page.evaluate('caches.keys().then((all) => all.length)'), 0, 'caches')
  await page.close()
}

if (option === '--picture') {
  await takePicture(pictures)
  await endAll(false)
  process.exit()
}

await main(async (check) => {
  const fleet = await startFleet()
  const page = await openDashboard('browser')

  await check('the first screen fits at 1280 x 800, and every number is that of the admin interface', async () => {
    await page.size(1280, 800)
    const overflow = await page.evaluate('[document.documentElement.scrollHeight, document.documentElement.scrollWidth, document.querySelectorAll("[data-endpoint]").length].join()')
    equal(overflow, `800,1280,${crowd + 4}`, 'height, width, endpoints')
    // A tunnel of the drain may end between two looks.
    await until('the same numbers', async () => sorted(await shown(page)) === sorted(await said())).catch(async () => equal(sorted(await shown(page)), sorted(await said()), 'numbers'))
    const { tunnels: live } = await shown(page)
    equal(live > fleet.tunnels - 100 && live <= fleet.tunnels, true, `${live} tunnels`)
  })

  await check('health says what is wrong, since when, and what to do', async () => {
    equal(await page.evaluate("document.getElementById('health').dataset.health"), 'warning', 'health')
    const line = await page.text('#health')
    for (const part of [fleet.dead, 'out of rotation', 'since', 'Look at that backend; the others serve its clients', 'chat.pem expires soon']) equal(line.includes(part), true, `${part} in: ${line}`)
    equal((await page.text('#progress')).includes('left'), true, 'a drain under way')
    equal((await page.text('#certificates')).includes('5 % left'), true, await page.text('#certificates'))
  })

  await check('history and events survive a reload of the page', async () => {
    const points = () => page.evaluate("typeof points === 'undefined' ? 0 : points.length")
    const before = await points()
    await page.send('Page.reload')
    await until('the points', async () => await points() >= before)
    equal(await page.evaluate('location.href'), new URL('/', page.url).href, 'address')
  })

  await check('a screen reader hears of another state, not of numbers that move', async () => {
    const labels = await page.evaluate(`(() => {
      const seen = new Set()
      for (let second = 0; second < 300; second += 1) {
        const last = points.at(-1)
        points.push({ ...last, running: last.running + 1000, tunnels: second })
        showTiles()
        seen.add(at('spark-tunnels').getAttribute('aria-label'))
      }
      return seen.size
    })()`)
    equal(labels > 1 && labels <= 6, true, `${labels} labels in five minutes`)
    const announced = await page.evaluate(`(() => {
      const heard = []
      const tell = (change) => { Object.assign(state.problems[0], change); showHealth(); heard.push(at('health-news').textContent) }
      for (let count = 0; count < 3; count += 1) tell({ what: \`\${count} of 3\` })
      tell({ what: 'another', subject: 'another' })
      return [new Set(heard.slice(0, 3)).size, heard.at(-1)].join()
    })()`)
    equal(announced, '1,Warning: another', 'announcements')
    await page.send('Page.reload')
    await until('figures', async () => /\d/.test(await page.text('#now-messages')))
  })

  for (const scheme of ['light', 'dark']) {
    for (const [name, width, height] of sizes) {
      await check(`axe finds nothing serious: ${name}, ${scheme}`, async () => {
        await page.size(width, height, scheme)
        for (const view of ['overview', 'tunnels', 'map', 'explain', 'reload']) {
          await page.show(view)
          if (view === 'tunnels') await until('the list', () => page.evaluate("document.querySelectorAll('#list tbody tr').length === 100"))
          if (view === 'explain') {
            await page.fill('#question [name=url]', `ws://chat.example.com:${fleet.port}/chat/room-1`)
            await page.press('#question button')
            await until('an explanation', async () => (await page.text('#answer'))?.includes('chat'))
          }
          if (view === 'reload') {
            await page.press('#plan')
            await until('a plan', async () => (await page.text('#planned'))?.includes('Nothing would change'))
          }
          if (view === 'map') await until('the map', async () => (await page.text('#map-tree')).includes('tunnels'))
          const wide = await page.evaluate('document.documentElement.scrollWidth')
          equal(wide <= width, true, `${view}: ${wide} wide`)
          await page.picture(`${name}-${scheme}-${view}`)
          // Every size in light, and the colours of dark once.
          const isNew = scheme === 'light' ? name !== 'wide' || view === 'overview' : name === 'desk'
          if (isNew) await accessible(page, `${view}, ${name}, ${scheme}`)
        }
      })
    }
  }

  await check('it does not stutter with thousands of tunnels and hundreds of endpoints', async () => {
    await page.size(1280, 800)
    await page.show('overview')
    const longest = await page.evaluate(`new Promise((done) => {
      let most = 0
      const seen = new PerformanceObserver((list) => { for (const it of list.getEntries()) most = Math.max(most, it.duration) })
      seen.observe({ entryTypes: ['longtask'] })
      setTimeout(() => done(most), 4000)
    })`)
    const drawing = await page.evaluate('Math.max(...Array.from({ length: 20 }, () => { const begin = performance.now(); draw(); return performance.now() - begin }))')
    console.log(`    longest task over 50 ms: ${Math.round(longest)} ms; drawing: ${drawing.toFixed(1)} ms`)
    equal(longest < 300 && drawing < 100, true, `${longest} ms, ${drawing} ms`)
  })

  await check('without --steer there is nothing to change', async () => {
    equal(await page.evaluate("document.querySelectorAll('.row-button').length"), 0, 'buttons')
    equal(await page.evaluate("document.getElementById('close-all').hidden"), true, 'close')
    equal(await page.evaluate("request('/v1/endpoints/drain', { method: 'POST', body: '{}' }).then(() => '', (error) => error.message)").then((it) => it.includes('--steer')), true, 'refused')
  })

  await check('another browser cannot open the same address', async () => {
    equal((await fetch(page.url)).status, 403, 'status')
    equal((await fetch(new URL('/', page.url))).status, 401, 'status')
  })
  // The refusal above is one that the browser reports.
  const expected = (it) => it.includes('403')
  equal(complaints(page).filter((it) => !expected(it)).join('\n'), '', 'complaints')
  await page.close()
  page.program.child.kill('SIGTERM')
  equal(await page.program.ended, 0, 'its end')

  const steering = await openDashboard('steering', ['--steer'])
  await steering.size(1280, 800)
  const answer = async (button) => {
    await until('the question', () => steering.evaluate("document.getElementById('dialog').open"))
    await steering.press(button)
  }

  await check('a row keeps the focus when it moves', async () => {
    const kept = await steering.evaluate(`(() => {
      const rows = () => [...document.querySelectorAll('[data-upstream=chat] tbody tr')].map((it) => it.dataset.endpoint)
      const seen = []
      for (let place = 0; place < 4; place += 1) {
        const button = document.querySelectorAll('[data-upstream=chat] .row-button')[place]
        let left = 0
        button.focus()
        button.onblur = () => { left += 1 }
        const before = rows()
        for (const it of state.upstreams[0].endpoints) it.state = 'up'
        state.upstreams[0].endpoints.reverse()
        draw()
        seen.push(document.activeElement === button && left === 0 && rows().join() !== before.join() && rows().join() === state.upstreams[0].endpoints.map((it) => it.endpoint).join())
        button.blur()
        button.onblur = null
      }
      return seen.join()
    })()`)
    equal(kept, 'true,true,true,true', 'focus')
    await until('the real states', async () => (await shown(steering)).endpoints[fleet.drained][0] === 'drained')
  })

  await check('Undrain asks, and does it', async () => {
    const button = `[data-endpoint="${fleet.drained}"] .row-button`
    await steering.press(button)
    await answer('#dialog-no')
    await steering.press(button)
    await answer('#dialog-yes')
    await until('the endpoint', async () => (await shown(steering)).endpoints[fleet.drained][0] === 'up')
    equal((await admin('/v1/upstreams'))[0].endpoints[0].state, 'up', 'state')
  })

  await check('tunnels are filtered, paged, and closed after a question', async () => {
    await steering.show('tunnels')
    const matched = () => steering.evaluate("Number(document.getElementById('page-of').dataset.matched)")
    // A tunnel of the drain may end after the list was read.
    await until('all', async () => {
      await steering.press('#filter [type=submit]')
      return await matched() === (await admin('/v1/status')).tunnels
    })
    equal(await steering.evaluate("document.querySelectorAll('#list tbody tr').length"), 100, 'rows')
    const first = await steering.evaluate("document.querySelector('#list tbody tr').dataset.id")
    await steering.press('#later')
    await until('the second page', async () => (await steering.text('#page-of')).startsWith('101 to 200'))
    equal(await steering.evaluate(`document.querySelector('[data-id="${first}"]') === null`), true, 'other rows')
    const other = fleet.drained
    await steering.fill('#filter [name=endpoint]', other)
    await steering.press('#filter [type=submit]')
    const [{ endpoints }] = await admin('/v1/upstreams')
    const of = endpoints.find((it) => it.endpoint === other).tunnels
    await until('those of an endpoint', async () => Math.abs(await matched() - of) < 5)
    await steering.press('#list tbody .open')
    await until('its details', async () => (await steering.text('#dialog-body'))?.includes('chat.example.com'))
    await accessible(steering, 'details')
    await answer('#dialog-yes')
    await until('the second question', async () => (await steering.text('#dialog-title')) === 'Close this one?' && steering.evaluate("document.getElementById('dialog').open"))
    await steering.press('#dialog-yes')
    await until('the end of one', async () => (await admin('/v1/traffic')).ended.killed >= 1)
    await steering.press('#close-all')
    await until('the question', async () => /^Close \d/.test(await steering.text('#dialog-yes')) && steering.evaluate("document.getElementById('dialog').open"))
    await steering.fill('#dialog [name=over]', '')
    await steering.press('#dialog-yes')
    await until('the end of all', async () => (await admin('/v1/upstreams'))[0].endpoints[0].tunnels === 0)
  })

  await check('after an upgrade, the tunnels of the previous process stay on the page, and can be closed there', async () => {
    const total = (await admin('/v1/status')).tunnels
    const { pid } = await admin('/v1/upgrade', {})
    // It is not our child, and main() ends only those.
    process.on('exit', () => process.kill(pid, 'SIGKILL'))
    equal((await opened(fleet.port, '/chat/new')).status, 101, 'a new one')
    await steering.show('overview')
    const text = () => steering.text('#older')
    await until('the previous process', async () => (await text()).includes('until the last one has ended'))
    const sums = async () => {
      const [own, older] = [await admin('/v1/upstreams'), await admin('/v1/upstreams?generation=1')]
      return own[0].endpoints.map((it, place) => it.tunnels + older[0].endpoints[place].tunnels).join()
    }
    const rows = async () => { const { endpoints } = await shown(steering); return (await admin('/v1/upstreams'))[0].endpoints.map((it) => endpoints[it.endpoint][1]).join() }
    await until('the tunnels of both', async () => await rows() === await sums()).catch(async () => equal(await rows(), await sums(), 'tunnels'))
    equal((await shown(steering)).tunnels, total + 1, 'all tunnels')
    equal((await text()).startsWith(`${total.toLocaleString('en-US')} tunnels are in a previous process`), true, await text())
    await accessible(steering, 'after an upgrade')
    await steering.picture('upgraded')
    const overflow = await steering.evaluate('[document.documentElement.scrollHeight, document.documentElement.scrollWidth].join()')
    equal(overflow, '1280,800'.split(',').reverse().join(), 'height, width')
    await steering.show('tunnels')
    await steering.fill('#filter [name=endpoint]', '')
    await steering.press('#filter [type=submit]')
    await until('all of them', async () => await steering.evaluate("Number(document.getElementById('page-of').dataset.matched)") === total + 1)
    equal((await steering.text('#list tbody tr')).includes('in generation 1'), true, 'its process')
    await steering.press('#list tbody .open')
    await answer('#dialog-yes')
    await until('the question', async () => (await steering.text('#dialog-yes')) === 'Close 1' && steering.evaluate("document.getElementById('dialog').open"))
    await steering.press('#dialog-yes')
    await until('its end', async () => (await admin('/v1/status?generation=1')).tunnels === total - 1)
  })

  await check('rates that somebody else measures are waited for', async () => {
    const measuring = admin('/v1/tunnels?limit=1&sort=age&rate_window=2s')
    await until('the other measurement', async () => (await admin('/v1/tunnels?sort=age&rate_window=1ms')).error?.includes('measuring'))
    await steering.evaluate("document.querySelector('#filter [name=rates]').checked = true")
    await steering.press('#filter [type=submit]')
    await until('rates', async () => (await steering.text('#list tbody tr')).includes('/s'))
    equal(/measuring/.test(await steering.text('#page-of')), false, 'an error')
    equal((await measuring).tunnels.length, 1, 'the other list')
  })
  // The browser reports that, too.
  equal(complaints(steering).filter((it) => !it.includes('503')).join('\n'), '', 'complaints')
  await steering.close()
  steering.program.child.kill('SIGTERM')
  for (const stream of fleet.open) stream.destroy()

  await check('what another site has left at the port is gone', () => afterAnotherSite())
})
