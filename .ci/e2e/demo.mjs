// `tidegate demo`: its page in a browser, its sockets, and every control.
//
//   node demo.mjs TIDEGATE                          # the checks
//   node demo.mjs TIDEGATE --picture demo.webp      # the picture of the page for the README

import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import WebSocket from 'ws'
import { openPage } from './chromium.mjs'
import { equal, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, option, picture] = process.argv.slice(2)
const folder = temporaryFolder('demo')
const own = { 'x-tidegate-demo': '1' }
const clients = 24

function ask(url, options = {}) {
  return new Promise((done, fail) => {
    const asked = request(url, { rejectUnauthorized: false, ...options }, (answer) => {
      let body = ''
      answer.on('data', (data) => { body += data })
      answer.on('end', () => done({ status: answer.statusCode, headers: answer.headers, body }))
    })
    asked.on('error', fail)
    asked.end()
  })
}

function messages(url) {
  const socket = new WebSocket(url, { rejectUnauthorized: false })
  const queue = []
  let wake = () => {}
  socket.on('message', (data) => { queue.push(JSON.parse(data)); wake() })
  socket.on('error', () => {})
  const next = async () => {
    while (queue.length === 0) await new Promise((done) => { wake = done })
    return queue.shift()
  }
  return { socket, next }
}

/** A running demo whose files are below `name`. */
async function startDemo(name) {
  const temporary = join(folder, name)
  mkdirSync(temporary)
  const demo = start(tidegate, ['demo', '--port', '0'], { env: { ...process.env, TMPDIR: temporary } })
  const port = await until('the demo', () => /https:\/\/localhost:(\d+)\//.exec(demo.said)?.[1])
  const site = `https://localhost:${port}`
  const overview = async () => JSON.parse((await ask(`${site}/control/overview`, { headers: own })).body)
  await until('the simulated clients', async () => (await overview()).tunnels?.length === clients)
  return { child: demo.child, ended: demo.ended, said: () => demo.said, port, site, overview, files: () => readdirSync(temporary) }
}

/** The page of a demo in a browser, with what a person sees and does there. */
async function openDemo(demo, name) {
  const page = await openPage(`${demo.site}/`, join(folder, name))
  const { evaluate } = page
  const text = (id) => evaluate(`document.getElementById(${JSON.stringify(id)})?.textContent`)
  const press = (selector) => evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`)
  const pressFor = (number, action) => press(`#backend-${number} button[data-action=${action}]`)
  const backend = async (number) => JSON.parse(await evaluate(`JSON.stringify({ ...document.querySelector('#backend-${number}')?.dataset })`))
  const happened = (what) => until(what, async () => (await text('events')).includes(what))
  const via = async (name) => /^by backend (\d)$/.exec(await text(`${name}-via`))?.[1]
  const served = () => until('the sockets of the page', async () => await via('echo') && await via('chat'))
  const tunnels = (number) => until(`${number} tunnels`, async () => await text('total') === `${number} tunnels`)
  const say = (words) => evaluate(`document.getElementById('text').value = ${JSON.stringify(words)}; document.querySelector('#say button').click()`)
  return { ...page, text, press, pressFor, backend, happened, via, served, tunnels, say }
}

async function takePicture(file) {
  const demo = await startDemo('picture')
  const page = await openDemo(demo, 'picture-browser')
  await page.send('Emulation.setDeviceMetricsOverride', { width: 1060, height: 900, deviceScaleFactor: 2, mobile: false })
  await page.send('Emulation.setEmulatedMedia', { features: [
    { name: 'prefers-color-scheme', value: 'light' },
    { name: 'prefers-reduced-motion', value: 'reduce' },
  ] })
  await page.served()
  await page.tunnels(clients + 2)
  await page.evaluate("document.getElementById('name').value = 'Ada'")
  await page.say('Which backend are you on?')
  const other = messages(`${demo.site.replace('https', 'wss')}/chat/grace`)
  const { backend } = await other.next()
  other.socket.send(JSON.stringify({ name: 'Grace', text: `Number ${backend}. You can see it by the colour of my name.` }))
  await until('the answer', async () => (await page.text('lines')).includes('colour'))
  await page.press('#reload')
  await page.happened('configuration 2')
  await page.press('#upgrade')
  await page.happened('has taken over')
  await until('some moved', async () => (await demo.overview()).generations[0].tunnels > 8)
  const drained = (await page.via('echo')) === '2' ? 3 : 2
  await page.pressFor(drained, 'drain')
  await until('some closed', async () => (await page.backend(drained)).tunnels <= 5)
  await page.evaluate('refresh()')
  const height = await page.evaluate('document.documentElement.offsetHeight')
  const clip = { x: 0, y: 0, width: 1060, height, scale: 1 }
  const { data } = await page.send('Page.captureScreenshot', { format: 'webp', quality: 75, clip, captureBeyondViewport: true })
  writeFileSync(file, Buffer.from(data, 'base64'))
  other.socket.terminate()
  await page.close()
  demo.child.kill('SIGINT')
  await demo.ended
}

/** What needs no browser. */
async function checkSockets(check, demo) {
  const wss = demo.site.replace('https', 'wss')

  await check('the page has its policy, and its controls are for no other site', async () => {
    const { status, headers, body } = await ask(`${demo.site}/`)
    equal(status, 200, 'status')
    equal(headers['content-security-policy'].startsWith("default-src 'none'"), true, 'policy')
    equal(body.includes('<title>tidegate demo</title>'), true, 'title')
    equal((await ask(`${demo.site}/control/backends/1/stop`, { method: 'POST' })).status, 403, 'from another site')
  })

  await check('the terminal shows the address, and nothing of the start', async () => {
    equal(/(INFO|WARN|ERROR) /.exec(demo.said()), null, demo.said())
  })

  await check('a message crosses the chat room between backends', async () => {
    const rooms = [messages(`${wss}/chat`), messages(`${wss}/chat`)]
    const backends = []
    for (const room of rooms) backends.push((await room.next()).backend)
    equal(backends[0] === backends[1], false, 'two backends')
    rooms[0].socket.send(JSON.stringify({ name: 'a', text: '<b>hi</b>' }))
    equal((await rooms[1].next()).text, '<b>hi</b>', 'text')
    for (const room of rooms) room.socket.terminate()
  })
}

async function checkPage(check, demo) {
  const page = await openDemo(demo, 'browser')
  await check('the page shows the backends, echoes and chats', async () => {
    await page.served()
    await page.tunnels(clients + 2)
    await until('round trips', async () => Number(await page.text('median')) > 0)
    await page.say('from the browser')
    await until('the message', async () => (await page.text('lines')).includes('from the browser'))
  })

  const home = await page.via('echo')
  await check('Drain closes with 1012 and its reason, and the tab goes to another backend', async () => {
    await page.pressFor(home, 'drain')
    await page.happened('echo: closed with 1012 “drain”')
    await page.happened(`of backend ${home}: closed with 1012 “drain”`)
    await until('no tunnel is left', async () => (await page.backend(home)).tunnels === '0')
    equal((await page.backend(home)).state, 'drained', 'state')
    await page.served()
    equal(await page.via('echo') === home, false, 'the same backend')
    equal(await page.text('closed'), '1012 “drain”', 'last closed')
  })

  await check('Undrain brings clients back by rebalancing', async () => {
    await page.pressFor(home, 'undrain')
    await page.happened('1012 “rebalance”')
    await until('tunnels again', async () => (await page.backend(home)).tunnels >= 4)
  })

  await check('Reload applies another configuration and keeps the sockets', async () => {
    await page.served()
    await page.press('#reload')
    await page.happened('reload: configuration 2 with power_of_two; the sockets of this tab stayed open')
    await until('the number', async () => await page.text('configuration') === '2')
    equal(await page.text('balance'), 'power_of_two', 'balance')
  })

  await check('Upgrade hands over to another process, and every client follows', async () => {
    const [before] = (await demo.overview()).generations
    await page.press('#upgrade')
    await page.happened('upgrade: generation 2')
    await page.happened('echo: closed with 1012 “shutdown”')
    await until('the old process has exited', async () => {
      const shown = await page.text('generations')
      return shown.includes('Generation 2 serves') && !shown.includes('Generation 1')
    })
    const [now] = (await demo.overview()).generations
    equal(now.pid === before.pid, false, 'the same process')
    await page.served()
    await page.tunnels(clients + 2)
  })

  await check('without any backend the page loads and says so, and Start brings everything back', async () => {
    for (const number of [1, 2, 3]) await page.pressFor(number, 'stop')
    await until('the notice', () => page.evaluate("!document.getElementById('outage').hidden"))
    await page.happened('closed with 1006')
    await page.send('Page.reload')
    await until('the notice again', () => page.evaluate("document.querySelectorAll('#fleet li').length === 3 && !document.getElementById('outage').hidden && !performance.getEntriesByType('navigation').some((it) => it.type !== 'reload')"))
    for (const number of [1, 2, 3]) await page.pressFor(number, 'start')
    await page.served()
    await page.tunnels(clients + 2)
    equal(await page.evaluate("document.getElementById('outage').hidden"), true, 'hidden')
  })

  await check('the page fits a phone', async () => {
    await page.send('Emulation.setDeviceMetricsOverride', { width: 360, height: 740, deviceScaleFactor: 2, mobile: true })
    equal(await page.evaluate('document.documentElement.scrollWidth'), 360, 'width')
  })
  await page.close()
}

async function checkEnd(check, demo) {
  await check('the terminal shows what happened to backends, and nothing about single sessions', async () => {
    const said = demo.said()
    equal(said.includes('endpoint drained by an operator'), true, 'drain')
    equal(said.includes('demo: backend 1'), true, 'stop')
    equal(said.includes('session='), false, 'lines about sessions')
  })

  await check('SIGINT ends it in order, with every process and file', async () => {
    demo.child.kill('SIGINT')
    equal(await demo.ended, 0, 'exit code')
    equal(await listens(demo.port), false, 'it listens')
    equal(demo.files().join(), '', 'files')
  })

  await check('a demo that is killed leaves nothing behind either', async () => {
    const killed = await startDemo('killed')
    equal((await ask(`${killed.site}/control/upgrade`, { method: 'POST', headers: own })).status, 200, 'upgrade')
    killed.child.kill('SIGKILL')
    await killed.ended
    await until('the end', async () => !await listens(killed.port) && killed.files().length === 0)
  })
}

await main(async (check) => {
  if (option === '--picture') {
    await takePicture(picture)
    return check(`${picture} is there`, async () => equal(existsSync(picture), true, picture))
  }
  const demo = await startDemo('demo')
  await checkSockets(check, demo)
  await checkPage(check, demo)
  await checkEnd(check, demo)
})
