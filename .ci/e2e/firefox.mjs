// A page in Firefox, steered through WebDriver BiDi.

import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import WebSocket from 'ws'
import { start, until } from './process.mjs'

/** Opens `url` in a browser of its own, whose profile is in `folder`. `evaluate` returns the value of an expression in the page. */
export async function openPage(url, folder) {
  mkdirSync(folder)
  const browser = start('firefox-esr', ['--headless', '--no-remote', '--profile', folder, '--remote-debugging-port=0', 'about:blank'],
    { env: { ...process.env, HOME: folder, MOZ_DISABLE_AUTO_SAFE_MODE: '1' } })
  const address = await until('the browser', () => /WebDriver BiDi listening on (ws:\S+)/.exec(browser.said)?.[1])
  const steering = new WebSocket(`${address}/session`, { maxPayload: 2 ** 26 })
  await once(steering, 'open')
  const waiting = new Map()
  steering.on('message', (data) => {
    const answer = JSON.parse(data)
    const { done, fail } = waiting.get(answer.id) ?? { done() {}, fail() {} }
    waiting.delete(answer.id)
    if (answer.type === 'error') fail(new Error(answer.message))
    else done(answer.result)
  })
  let count = 0
  const send = (method, params = {}) => new Promise((done, fail) => {
    count += 1
    waiting.set(count, { done, fail })
    steering.send(JSON.stringify({ id: count, method, params }))
  })
  await send('session.new', { capabilities: { alwaysMatch: { acceptInsecureCerts: true } } })
  const { contexts: [{ context }] } = await send('browsingContext.getTree')
  await send('browsingContext.navigate', { context, url, wait: 'complete' })
  const evaluate = async (expression) => {
    const asJson = `(async () => JSON.stringify(await (${expression})))()`
    const seen = await send('script.evaluate', { expression: asJson, target: { context }, awaitPromise: true })
    if (seen.type !== 'success') throw new Error(JSON.stringify(seen.exceptionDetails))
    return seen.result.value === undefined ? undefined : JSON.parse(seen.result.value)
  }
  const close = async () => {
    browser.child.kill('SIGTERM')
    await browser.ended
  }
  return { evaluate, close }
}
