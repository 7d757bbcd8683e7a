// Follows "With nothing but the binary" of the README, command by command, in a file system that has nothing else:
// `bare.mjs ROOT README`. The binary is ROOT/tidegate, and ROOT has folders
// for /proc, /dev, /run and /tmp. Only the ports are others.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { WebSocketServer } from 'ws'
import { equal, freePort, listens, main, start, until } from './process.mjs'

const [root, readme] = process.argv.slice(2)

/** The commands of a section, in the order of the page. */
function commands() {
  const section = readFileSync(readme, 'utf8').split('## With nothing but the binary\n')[1].split('\n## ')[0]
  const blocks = section.split('```sh\n').slice(1).map((rest) => rest.split('```')[0])
  return blocks.flatMap((block) => block.trim().split('\n'))
}

/** Runs one in the file system, as root of nothing else: there is no shell in it. */
const run = (line) => start('unshare', ['--mount', '--propagation', 'private', 'sh', '-c',
  'mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot "$0" "$@"', root, ...line.replace(/^\.\//, '/').split(' ')])

async function ends(line, code = 0) {
  const program = run(line)
  equal(await program.ended, code, `${line}\n${program.said}`)
  return program.said
}

await main(async (check) => {
  const [unpack, demo, init, serve, probe, status, ...more] = commands()
  equal(more.length, 0, 'commands that are not tried')
  equal(/^tar -xzf tidegate-\d+\.\d+\.\d+-x86_64-linux\.tar\.gz --strip-components=1$/.test(unpack), true, unpack)
  const backend = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  await new Promise((next) => backend.on('listening', next))
  const port = await freePort()
  const here = (line) => line.replaceAll('8443', port).replaceAll('9000', backend.address().port)

  await check(demo, async () => {
    const program = run(demo)
    const page = await until('the demo', () => /https:\/\/localhost:(\d+)\//.exec(program.said)?.[1])
    equal(await listens(Number(page)), true, 'the page')
    program.child.kill('SIGINT')
    equal(await program.ended, 0, program.said)
  })
  await check(init, async () => {
    await ends(here(init))
    equal(existsSync(join(root, 'config.toml')), true, 'config.toml')
  })
  await check(serve, async () => {
    run(here(serve))
    await until('tidegate', () => listens(port))
  })
  await check(probe, async () => { await ends(here(probe)) })
  await check(status, async () => {
    const said = await ends(status)
    if (!said.includes('chat.example.com') && !said.includes('backends')) throw new Error(said)
  })
  backend.close()
})
