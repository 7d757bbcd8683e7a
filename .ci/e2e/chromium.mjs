// A page in Chromium, steered through its debugging port.

import { once } from 'node:events'
import WebSocket from 'ws'
import { start, until } from './process.mjs'

/**
 * Opens `url` in a browser of its own, whose profile is in `folder`. `evaluate` returns the value of an expression
 * in the page, `send` a result of the DevTools protocol, whose events are in `heard`.
 */
export async function openPage(url, folder) {
  const browser = start('chromium', [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--ignore-certificate-errors',
    '--hide-scrollbars', '--remote-debugging-port=0', `--user-data-dir=${folder}`, url,
  ])
  const port = await until('the browser', () => /DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)/.exec(browser.said)?.[1])
  const page = await until('the page', async () => {
    const pages = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()
    return pages.find((each) => each.type === 'page' && each.url === url)
  })
  const steering = new WebSocket(page.webSocketDebuggerUrl, { maxPayload: 2 ** 26 })
  await once(steering, 'open')
  const waiting = new Map()
  const heard = []
  steering.on('message', (data) => {
    const { id, result, error, method, params } = JSON.parse(data)
    if (method) heard.push({ method, params })
    const { done, fail } = waiting.get(id) ?? { done() {}, fail() {} }
    waiting.delete(id)
    if (error) fail(new Error(error.message))
    else done(result)
  })
  let count = 0
  const send = (method, params = {}) => new Promise((done, fail) => {
    count += 1
    waiting.set(count, { done, fail })
    steering.send(JSON.stringify({ id: count, method, params }))
  })
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails))
    return result.value
  }
  const close = async () => {
    browser.child.kill('SIGTERM')
    await browser.ended
  }
  return { send, evaluate, close, heard }
}
