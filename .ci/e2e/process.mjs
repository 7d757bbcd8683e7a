// Programs under test: started, waited for, ended by pid.

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const deadline = 30_000
const running = new Set()

/** A folder of this script's own, which is removed when the script ends, whatever the end is. */
export function temporaryFolder(name) {
  const folder = mkdtempSync(join(tmpdir(), `${name}-`))
  process.on('exit', () => {
    try {
      // A browser that was ended a moment ago may still be writing.
      rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
    } catch (error) {
      console.error(`${folder} is left behind: ${error.message}`)
    }
  })
  return folder
}

/** Starts a program and collects what it says. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options })
  const program = { child, said: '', ended: new Promise((end) => child.on('exit', (code, signal) => end(code ?? signal))) }
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { program.said += data })
  running.add(program)
  program.ended.then(() => running.delete(program))
  return program
}

/** Ends everything that still runs; what it said helps when a check has failed. */
export async function endAll(failed) {
  for (const program of running) {
    if (failed) console.error(`--- ${program.child.spawnargs.join(' ')}\n${program.said}`)
    program.child.kill('SIGKILL')
    await program.ended
  }
}

/** Asks again and again until the answer is true, or it has taken too long. */
export async function until(what, ask, limit = deadline) {
  const end = Date.now() + limit
  for (;;) {
    const answer = await ask()
    if (answer) return answer
    if (Date.now() > end) throw new Error(`waited too long: ${what}`)
    await new Promise((next) => setTimeout(next, 50))
  }
}

export function listens(port) {
  return new Promise((answer) => {
    const socket = connect(port, '127.0.0.1')
    socket.on('connect', () => { socket.destroy(); answer(true) })
    socket.on('error', () => answer(false))
  })
}

const given = new Set()

/** Another port each time, below those of outgoing connections, of which other programs open many. */
export function freePort() {
  return new Promise((answer) => {
    const server = createServer()
    const attempt = () => {
      const port = 12_000 + Math.floor(Math.random() * 20_000)
      if (given.has(port)) attempt()
      else server.listen(port, '127.0.0.1')
    }
    server.on('error', attempt)
    server.on('listening', () => {
      const { port } = server.address()
      given.add(port)
      server.close(() => answer(port))
    })
    attempt()
  })
}

/** The configuration of an nginx in the foreground that writes only into this folder, with one server. */
export const nginxServer = (folder, directives) => `daemon off;
master_process off;
pid ${join(folder, 'nginx.pid')};
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path ${folder};
  proxy_temp_path ${folder};
  fastcgi_temp_path ${folder};
  uwsgi_temp_path ${folder};
  scgi_temp_path ${folder};
  server {${directives}  }
}
`

export function equal(seen, expected, what) {
  if (seen !== expected) throw new Error(`${what}: ${JSON.stringify(seen)} instead of ${JSON.stringify(expected)}`)
}

/** Runs the checks, prints what passed, leaves nothing behind, and ends the script. */
export async function main(checks) {
  let passed = 0
  let failed = 0
  try {
    await checks(async (what, check) => {
      await check()
      passed += 1
      console.log(`ok  ${what}`)
    })
  } catch (error) {
    failed = 1
    console.error(error)
  }
  await endAll(failed)
  console.log(`${passed} passed, ${failed} failed`)
  // A server that a failed check has left behind would keep this process, and CI, waiting.
  process.exit(failed)
}
