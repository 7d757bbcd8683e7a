// `tidegate top` in tmux, at 80 × 24 and 200 × 50: each view is drawn, and the terminal is as before however it ends.
//
//   node top.mjs TIDEGATE             # the checks
//   node top.mjs TIDEGATE --screens   # and what was on the screens

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import WebSocket, { WebSocketServer } from 'ws'
import { equal, freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate, option] = process.argv.slice(2)
const folder = temporaryFolder('top')
const write = (name, text) => { writeFileSync(join(folder, name), text); return join(folder, name) }
const read = (name) => existsSync(join(folder, name)) ? readFileSync(join(folder, name), 'utf8') : ''
const sizes = [[80, 24], [200, 50]]

// A server of tmux that knows no other, without anyone's settings.
const tmux = (...args) => execFileSync('tmux', ['-S', join(folder, 'tmux'), '-f', '/dev/null', ...args], { encoding: 'utf8' })

/** GET or POST at the admin socket. */
function admin(path, body) {
  return new Promise((done, fail) => {
    const asked = request({ socketPath: join(folder, 'admin.sock'), path, method: body ? 'POST' : 'GET', headers: { host: 'localhost' } }, (answer) => {
      let text = ''
      answer.on('data', (data) => { text += data })
      answer.on('end', () => done(JSON.parse(text)))
    })
    asked.on('error', fail)
    asked.end(body && JSON.stringify(body))
  })
}

let number = 0

/** `tidegate top` in a terminal of this size. */
async function session([columns, rows], env = '') {
  number += 1
  const name = `s${number}`
  // The shell leaves its marks in files; the screen at the end is what the operator sees after it.
  write(`${name}.sh`, `stty -a >${name}.before
sh -c 'echo $$ >${name}.pid; ${env} exec ${tidegate} top --admin unix:${join(folder, 'admin.sock')}'
echo "code $?" >${name}.code
stty -a >${name}.after
exec sleep 60
`)
  tmux('new-session', '-d', '-s', name, '-x', columns, '-y', rows, '-c', folder, `sh ${name}.sh`)
  const screen = () => tmux('capture-pane', '-p', '-t', name)
  const flags = () => tmux('display-message', '-p', '-t', name, '#{alternate_on} #{cursor_flag}').trim()
  return {
    screen,
    press: (...keys) => tmux('send-keys', '-t', name, ...keys),
    shows: (text) => until(`"${text}" on the screen`, () => text.test(screen())),
    signal: (signal) => process.kill(Number(read(`${name}.pid`)), signal),
    pid: () => Number(read(`${name}.pid`)),
    before: () => read(`${name}.before`),
    modes: () => execFileSync('stty', ['-a', '-F', tmux('display-message', '-p', '-t', name, '#{pane_tty}').trim()], { encoding: 'utf8' }),
    close: () => tmux('kill-session', '-t', name),
    resize: (width, height) => tmux('resize-window', '-t', name, '-x', width, '-y', height),
    flags,
    /** The end: its code, and the terminal as before. */
    async ended(what) {
      await until(`the end ${what}`, () => read(`${name}.after`))
      equal(read(`${name}.code`).trim(), 'code 0', what)
      equal(read(`${name}.after`), read(`${name}.before`), what)
      await until(`the usual screen ${what}`, () => flags() === '0 1')
      tmux('kill-session', '-t', name)
    },
  }
}

// How to get into each state, and how it is recognised.
const states = [
  ['upstreams', [], /\[1 Upstreams\]/],
  ['tunnels', ['Tab'], /\[2 Tunnels\][^]*chat\.example/],
  ['problems', ['3'], /\[3 Problems/],
  ['help', ['?'], /Keys[^]*close the tunnel/],
  ['a filter', ['/', 'a', 'b'], /filter: ab/],
  ['a question', ['d'], /Confirm[^]*Drain endpoint/],
]

async function checks(check) {
  const backend = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  await new Promise((done) => backend.on('listening', done))
  backend.on('connection', (socket) => socket.on('message', (data) => socket.send(data)))
  const [port, closed] = [await freePort(), await freePort()]
  const config = write('tidegate.toml', `
[server]
upgrade = { drain = "off", settle = "200ms" }
[admin]
bind = "unix:${join(folder, 'admin.sock')}"
[listener.public]
bind = ["127.0.0.1:${port}"]
[[route]]
name = "chat"
upstream = "chat"
[upstream.chat]
endpoints = ["127.0.0.1:${backend.address().port}", "127.0.0.1:${closed}"]
health = { tcp = {}, interval = "100ms", fall = 1 }
`)
  const proxy = start(tidegate, ['run', '--config', config])
  await until('the proxy', () => listens(port))
  const clients = []
  for (let index = 0; index < 3; index++) {
    const client = new WebSocket(`ws://127.0.0.1:${port}/room/${index}`, { headers: { host: 'chat.example' } })
    await new Promise((done, fail) => { client.on('open', done); client.on('error', fail) })
    clients.push(client)
  }
  const talk = setInterval(() => clients[1].readyState === WebSocket.OPEN && clients[1].send('hello'), 20)

  // The server of tmux ends with its last session; this one stays.
  tmux('new-session', '-d', '-s', 'keeper', 'sleep 600')
  for (const size of sizes) {
    for (const [state, keys, looks] of states) {
      await check(`${state} at ${size.join(' × ')}, ended by SIGTERM`, async () => {
        const top = await session(size)
        await top.shows(/\[1 Upstreams\][^]* down /)
        if (keys.length > 0) top.press(...keys)
        await top.shows(looks)
        equal(top.flags().split(' ')[0], '1', 'the alternate screen')
        if (option === '--screens') console.log(top.screen())
        top.signal('SIGTERM')
        await top.ended(state)
      })
    }
  }

  await check('SIGINT, SIGHUP, q, Esc and Ctrl-C', async () => {
    for (const end of ['SIGINT', 'SIGHUP', 'q', 'Escape', 'C-c']) {
      const top = await session(sizes[0])
      await top.shows(/\[1 Upstreams\]/)
      if (end.startsWith('SIG')) top.signal(end)
      else top.press(end)
      await top.ended(end)
    }
  })

  await check('suspended and continued, and when its terminal goes away', async () => {
    const top = await session(sizes[0])
    await top.shows(/\[1 Upstreams\]/)
    for (const suspend of [() => top.press('C-z'), () => top.signal('SIGTSTP')]) {
      suspend()
      await until('the usual screen', () => top.flags() === '0 1')
      equal(top.modes(), top.before(), 'suspended')
      top.signal('SIGCONT')
      await top.shows(/\[1 Upstreams\][^]*q quit/)
      equal(top.modes() === top.before(), false, 'raw mode again')
    }
    const pid = top.pid()
    top.close()
    const lives = () => { try { return process.kill(pid, 0) } catch { return false } }
    await until('the end after a hangup', () => !lives())
  })

  await check('the busiest tunnel is the first one, and x closes it', async () => {
    const top = await session(sizes[1])
    await top.shows(/\[1 Upstreams\]/)
    top.press('2')
    await top.shows(/> \w{16}.*\/room\/1/)
    const code = new Promise((done) => clients[1].on('close', done))
    top.press('x')
    await top.shows(/Close tunnel/)
    top.press('y')
    await top.shows(/was closed/)
    equal(await code, 1008, 'the code')
    top.press('q')
    await top.ended('q')
  })

  await check('it follows the size, without colours if those are not wanted', async () => {
    const top = await session(sizes[0], 'NO_COLOR=1')
    await top.shows(/\[1 Upstreams\][^]* down /)
    const coloured = tmux('capture-pane', '-p', '-e', '-t', `s${number}`)
    equal(/\x1b\[[0-9;]*3[0-7]m/.test(coloured), false, 'a colour')
    top.resize(200, 50)
    await top.shows(/ WHY/)
    top.resize(30, 8)
    await top.shows(/^tidegate/)
    top.resize(...sizes[0])
    await top.shows(/q quit/)
    top.press('q')
    await top.ended('q')
  })

  await check('rates that somebody else measures are waited for', async () => {
    const top = await session(sizes[1])
    await top.shows(/\[1 Upstreams\]/)
    // The first list would be refused while this goes on.
    const measured = admin('/v1/tunnels?sort=age&rate_window=2s')
    await until('the other measurement', async () => (await admin('/v1/tunnels?sort=age&rate_window=1ms')).error?.includes('measuring'))
    top.press('2')
    const seen = new Set()
    await until('tunnels', () => { seen.add(/measuring/.exec(top.screen())?.[0]); return /> \w{16}/.test(top.screen()) })
    equal([...seen].join(), '', 'errors on the screen')
    equal(typeof (await measured).tunnels[0].rates, 'object', 'the other list')
    top.press('q')
    await top.ended('q')
  })

  let serving = proxy.child.pid
  await check('after an upgrade, the tunnels of the previous process are shown, and closed there', async () => {
    const top = await session(sizes[0])
    await top.shows(/tunnels 2 /)
    serving = (await admin('/v1/upgrade', {})).pid
    // It is not our child, and main() ends only those.
    process.on('exit', () => { try { process.kill(serving, 'SIGKILL') } catch {} })
    await top.shows(new RegExp(`tunnels 2 [^]*of these, 2 in process ${proxy.child.pid} \\(generation 1\\), until the last one has ended`))
    top.press('2')
    await top.shows(/> \w{16}[^]*in generation 1/)
    top.press('x')
    await top.shows(/Close tunnel/)
    top.press('y')
    await top.shows(/was closed/)
    await top.shows(/of these, 1 in process/)
    top.press('q')
    await top.ended('q')
  })

  await check('an endpoint is drained and put back; without tidegate it stays', async () => {
    const top = await session(sizes[0])
    await top.shows(/\[1 Upstreams\]/)
    top.press('G', 'd')
    await top.shows(/Drain endpoint/)
    top.press('y')
    await top.shows(/> .* drained /)
    top.press('d')
    await top.shows(/back into service/)
    top.press('y')
    await top.shows(/is back in service/)
    process.kill(serving, 'SIGKILL')
    await top.shows(/CRITICAL/)
    top.signal('SIGTERM')
    await top.ended('without tidegate')
  })

  clearInterval(talk)
  for (const client of clients) client.terminate()
  backend.close()
}

await main(async (check) => {
  try {
    await checks(check)
  } finally {
    // Also after a failed check: the sessions would go on.
    try { tmux('kill-server') } catch {}
  }
})
