// `tidegate demo`: its page, its sockets, and what happens when a backend is stopped.

import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import WebSocket from 'ws'
import { equal, main, start, until } from './process.mjs'

const [tidegate] = process.argv.slice(2)

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
  socket.on('close', () => { queue.push(null); wake() })
  socket.on('error', () => {})
  const next = async () => {
    while (queue.length === 0) await new Promise((done) => { wake = done })
    return queue.shift()
  }
  return { socket, next }
}

/** A page in a real browser, steered through its debugging port. */
async function open(url, folder) {
  const browser = start('chromium', [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--ignore-certificate-errors',
    '--remote-debugging-port=0', `--user-data-dir=${folder}`, url,
  ])
  const port = await until('the browser', () => /DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)/.exec(browser.said)?.[1])
  const page = await until('the page', async () => {
    const pages = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()
    return pages.find((each) => each.type === 'page' && each.url.startsWith('https:'))
  })
  const steering = new WebSocket(page.webSocketDebuggerUrl)
  await new Promise((done, fail) => { steering.on('open', done); steering.on('error', fail) })
  const answers = new Map()
  steering.on('message', (data) => {
    const { id, result } = JSON.parse(data)
    answers.get(id)?.(result)
  })
  let count = 0
  const evaluate = (expression) => new Promise((done) => {
    count += 1
    answers.set(count, (result) => done(result.result.value))
    steering.send(JSON.stringify({ id: count, method: 'Runtime.evaluate', params: { expression, returnByValue: true } }))
  })
  return { browser, evaluate }
}

const folder = mkdtempSync(join(tmpdir(), 'browser-'))
await main(async (check) => {
  const demo = start(tidegate, ['demo', '--port', '0'])
  const port = await until('the demo', () => /https:\/\/localhost:(\d+)\//.exec(demo.said)?.[1])
  const site = `https://localhost:${port}`
  const wss = `wss://localhost:${port}`
  const steer = (number, action) => ask(`${site}/control/backends/${number}/${action}`, { method: 'POST', headers: { 'x-tidegate-demo': '1' } })

  await check('the page comes from a backend, with its policy', async () => {
    const { status, headers, body } = await ask(`${site}/`)
    equal(status, 200, 'status')
    equal(headers['content-security-policy'].startsWith("default-src 'none'"), true, 'policy')
    equal(body.includes('<title>tidegate demo</title>'), true, 'title')
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

  await check('when a backend is stopped its sockets end and the others take over', async () => {
    const before = messages(`${wss}/echo`)
    const { backend } = await before.next()
    equal((await steer(backend, 'stop')).status, 204, 'stop')
    while (await before.next() !== null);
    for (let round = 0; round < 6; round += 1) {
      const after = messages(`${wss}/echo`)
      equal((await after.next()).backend === backend, false, 'another backend')
      after.socket.terminate()
    }
    equal((await steer(backend, 'start')).status, 204, 'start')
    equal((await ask(`${site}/control/backends/1/stop`, { method: 'POST' })).status, 403, 'from another site')
  })

  await check('the page works in a browser', async () => {
    const { browser, evaluate } = await open(`${site}/`, folder)
    const text = (id) => evaluate(`document.getElementById('${id}').textContent`)
    for (const name of ['dashboard', 'echo', 'chat']) {
      await until(`${name} is served`, async () => /^by backend \d$/.test(await text(`${name}-via`)))
    }
    await until('round trips', async () => Number(await text('median')) > 0)
    await until('three backends', async () => await evaluate("document.querySelectorAll('#fleet li').length") === 3)
    const before = await text('echo-via')
    await evaluate(`document.querySelector('#backend-${before.at(-1)} button').click()`)
    await until('another backend takes over', async () => {
      const now = await text('echo-via')
      return /^by backend \d$/.test(now) && now !== before
    })
    await evaluate("document.getElementById('text').value = 'from the browser'; document.querySelector('#say button').click()")
    await until('the message', async () => (await text('lines')).includes('from the browser'))
    browser.child.kill('SIGTERM')
    await browser.ended
  })

  await check('SIGINT ends it in order', async () => {
    demo.child.kill('SIGINT')
    equal(await demo.ended, 0, 'exit code')
  })
})
rmSync(folder, { recursive: true, force: true })
process.exit()
