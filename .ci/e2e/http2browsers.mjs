// Pages in Chromium and Firefox with WebSockets over HTTP/2: what a user of them notices of stalls, reloads, upgrades
// and stops.

import { join } from 'node:path'
import { openPage as openInChromium } from './chromium.mjs'
import { openPage as openInFirefox } from './firefox.mjs'
import { clientsOf, folder, startEndpoint, startProxy } from './http2peers.mjs'
import { equal, until } from './process.mjs'

/** The page. It asks for things all the time, and opens a WebSocket again that was closed. */
const page = () => {
  const address = (path) => `${location.origin.replace('http', 'ws')}${path}`
  const opened = (path) => new Promise((done, fail) => {
    const socket = new WebSocket(address(path))
    socket.binaryType = 'arraybuffer'
    socket.onopen = () => done(socket)
    socket.onerror = () => fail(new Error(`${path} does not open`))
  })
  const echo = (socket, message) => new Promise((done, fail) => {
    socket.onmessage = ({ data }) => {
      const same = typeof message === 'string' ? data === message
        : data.byteLength === message.byteLength && new Uint8Array(data).every((byte, at) => byte === message[at])
      if (same) done()
      else fail(new Error(`another message than the one of ${message.length}`))
    }
    socket.onclose = ({ code }) => fail(new Error(`closed with ${code}`))
    socket.send(message)
  })
  const bytes = (length) => Uint8Array.from({ length }, () => Math.random() * 256)
  const messages = () => ['', 'short', 'deflates well '.repeat(2000), bytes(1000), bytes(100_000)]

  /** Many WebSockets at once, with messages both ways. Returns the extensions of the first. */
  window.talk = async (path, count, rounds = 1) => {
    const sockets = await Promise.all(Array.from({ length: count }, () => opened(path)))
    await Promise.all(sockets.map(async (socket) => {
      for (let round = 0; round < rounds; round += 1) for (const message of messages()) await echo(socket, message)
    }))
    for (const socket of sockets) socket.onclose = null
    for (const socket of sockets) socket.close()
    return sockets[0].extensions
  }
  /** Fills a WebSocket whose endpoint reads nothing, until nothing moves any more. */
  window.fill = async (path) => {
    window.stalled = await opened(path)
    window.sent = 0
    while (window.stalled.bufferedAmount < 2 ** 17) {
      for (let batch = 0; batch < 1000; batch += 1) window.stalled.send(bytes(64))
      window.sent += 1000
      await (await fetch(`/page?filled-${window.sent}`)).text()
      if (window.sent > 1_000_000) throw new Error('the endpoint does not stall')
    }
  }
  window.drained = async () => {
    await (await fetch('/resume')).text()
    const answer = new Promise((done) => { window.stalled.onmessage = ({ data }) => done(data) })
    window.stalled.send('how many?')
    const [count, length] = JSON.parse(await answer)
    return count === window.sent && length === 64 * count
  }

  const state = { begun: 0, requests: 0, last: 0, failed: [], versions: [], closes: [], opened: 0, notOpened: 0, over: false }
  window.state = state
  /** Asks for pages one after the other, three at a time, until the last tunnel has ended for good. */
  window.busy = () => {
    const ask = async () => {
      while (!state.over) {
        state.begun += 1
        const number = state.begun
        try {
          const response = await fetch(`/page?${number}`, { cache: 'no-store' })
          await response.text()
          const version = response.headers.get('x-version')
          if (!state.versions.includes(version)) state.versions.push(version)
          if (response.status !== 200) throw new Error(response.status)
          state.requests += 1
          state.last = Math.max(state.last, number)
        } catch (error) {
          state.failed.push([number, String(error)])
          await new Promise((done) => setTimeout(done, 10))
        }
      }
    }
    for (let count = 0; count < 3; count += 1) ask()
  }
  /** Keeps a WebSocket open, if need be by another one, and uses it. */
  window.keep = async (path, again) => {
    const socket = new WebSocket(address(path))
    let wasOpen = false
    socket.onopen = () => {
      wasOpen = true
      state.opened += 1
      socket.send('first')
    }
    socket.onmessage = () => setTimeout(() => socket.readyState === WebSocket.OPEN && socket.send('next'), 20)
    socket.onclose = ({ code }) => {
      if (wasOpen) state.closes.push(code)
      else state.notOpened += 1
      if (again && wasOpen) window.keep(path, again)
      else state.over = true
    }
  }
}

/** All connections that a browser has made, by what it has asked for. */
const clients = (proxy) => new Set(proxy.logged().filter((line) => line.client).map((line) => line.client))

/**
 * Requires that no request has failed. Chromium fails those that it is about to send in the moment in which a GOAWAY
 * comes, whatever that says (ERR_FAILED for a stream without a number yet): there are three requests at a time.
 */
function noneFailed(name, failed) {
  const numbers = failed.map(([number]) => number)
  const isOneMoment = Math.max(...numbers) - Math.min(...numbers) <= 2
  if (failed.length > 0 && !(name === 'Chromium' && isOneMoment)) throw new Error(`failed: ${JSON.stringify(failed)}`)
}

async function checkBrowser(check, name, openPage, { tidegate, isSmoke }) {
  const endpoint = await startEndpoint({ '/': `<!DOCTYPE html><title>page</title><script>(${page})()</script>` })
  const proxy = await startProxy(tidegate, endpoint)
  const open = async ({ port }) => {
    const opened = await openPage(`https://localhost:${port}/`, join(folder, `${name}-${port}`))
    await until('the script of the page', () => opened.evaluate(`typeof window.keep === 'function'`))
    return opened
  }
  let browser = await open(proxy)
  const state = () => browser.evaluate('state')
  await check(`${name}: WebSockets with permessage-deflate on the connection of the page`, async () => {
    equal(await browser.evaluate(`performance.getEntriesByType('navigation')[0].nextHopProtocol`), 'h2', 'the protocol of the page')
    equal(await browser.evaluate(`talk('/echo', 30)`), 'permessage-deflate', 'extensions')
    equal(clientsOf(proxy, '/echo').size, 1, 'connections of the tunnels')
    equal(clients(proxy).size, 1, 'connections of the browser')
  })
  if (!isSmoke) {
    await check(`${name}: a stalled endpoint, its neighbours and pages`, async () => {
      await browser.evaluate(`fill('/stall')`)
      await browser.evaluate(`talk('/echo', 10, 5)`)
      equal(await browser.evaluate('drained()'), true, 'what the stalled endpoint got')
      equal(clients(proxy).size, 1, 'connections of the browser')
    })
  }
  await browser.evaluate(`(busy(), keep('/echo', true), keep('/echo', true), keep('/echo', true), 0)`)
  await until('three tunnels', async () => (await state()).opened === 3)
  await check(`${name}: a reload meanwhile, nothing fails`, async () => {
    await proxy.reload('2')
    await until('the new version', async () => (await state()).versions.includes('2'))
    const seen = await state()
    equal(JSON.stringify([seen.failed, seen.closes, seen.notOpened]), '[[],[],0]', 'failed requests and tunnels')
  })
  await check(`${name}: an upgrade meanwhile, nothing fails, and each tunnel is opened again at once`, async () => {
    await proxy.upgrade()
    await until('three further tunnels', async () => {
      const seen = await state()
      return seen.opened + seen.notOpened >= 6
    })
    await proxy.program.ended
    const before = (await state()).requests
    await until('further requests', async () => (await state()).requests > before + 100)
    const seen = await state()
    noneFailed(name, seen.failed)
    equal(JSON.stringify([seen.closes, seen.notOpened]), '[[1012,1012,1012],0]', 'tunnels')
  })
  await browser.close()
  const stopped = await startProxy(tidegate, endpoint)
  browser = await open(stopped)
  await browser.evaluate(`(busy(), keep('/echo', false), 0)`)
  await until('a tunnel', async () => (await state()).opened === 1)
  await check(`${name}: a stop meanwhile, nothing fails until the turn of the connection`, async () => {
    stopped.program.child.kill('SIGTERM')
    await until('the end', async () => (await state()).over)
    const seen = await state()
    equal(JSON.stringify(seen.closes), '[1012]', 'tunnels')
    // What comes after the GOAWAY finds no listener. There were three requests at a time.
    for (const [number, error] of seen.failed) {
      if (number < seen.last - 2) throw new Error(`request ${number} before ${seen.last}: ${error}`)
    }
    equal(await stopped.program.ended, 0, 'the exit code')
  })
  await browser.close()
  endpoint.close()
}

export async function browsers(check, options) {
  await checkBrowser(check, 'Chromium', openInChromium, options)
  if (!options.isSmoke) await checkBrowser(check, 'Firefox', openInFirefox, options)
}
