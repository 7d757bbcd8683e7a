// An etcd cluster with TLS and users: one member on each machine.

import { execFile } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { start, until } from './process.mjs'

const run = promisify(execFile)

/** The space of a member: little, so that it can be filled. */
const QUOTA = 24 * 1024 * 1024

export class Cluster {
  /** `machines` as in namespaces.mjs; `ca` makes certificates: `(name, subjectAltName) => ({ cert, key })`. */
  constructor(machines, folder, root, makeCertificate) {
    Object.assign(this, { machines, folder, root, makeCertificate, members: new Map(), passwords: {} })
  }

  url = (at, port = 2379) => `https://${this.machines.address('back', at)}:${port}`

  endpoints = () => [...this.members.keys()].map((at) => this.url(at))

  async begin() {
    for (let at = 1; at <= this.machines.count; at += 1) this.members.set(at, undefined)
    for (const at of this.members.keys()) this.startMember(at)
    await until('the cluster', () => this.isHealthy())
    await this.ctl('user', 'add', 'root:root-password')
    await this.ctl('user', 'grant-role', 'root', 'root')
    for (const [user, kind] of [['tidegate', 'readwrite'], ['reader', 'read']]) {
      await this.ctl('role', 'add', user)
      await this.ctl('role', 'grant-permission', user, kind, '--prefix=true', '/tidegate/')
      await this.ctl('user', 'add', `${user}:${user}-password`)
      await this.ctl('user', 'grant-role', user, user)
    }
    await this.ctl('auth', 'enable')
    this.isGuarded = true
  }

  startMember(at, state = 'new') {
    const { cert, key } = this.makeCertificate(`etcd-${at}`, `IP:${this.machines.address('back', at)}`)
    const data = join(this.folder, `etcd-${at}`)
    mkdirSync(data, { recursive: true, mode: 0o700 })
    const peers = [...this.members.keys()].map((member) => `etcd-${member}=${this.url(member, 2380)}`)
    const program = start(...this.machines.command(at, 'etcd', [
      '--name', `etcd-${at}`, '--data-dir', data, '--logger', 'zap', '--log-level', 'error',
      '--listen-client-urls', this.url(at), '--advertise-client-urls', this.url(at),
      '--listen-peer-urls', this.url(at, 2380), '--initial-advertise-peer-urls', this.url(at, 2380),
      '--initial-cluster', peers.join(','), '--initial-cluster-state', state,
      '--quota-backend-bytes', String(QUOTA), '--heartbeat-interval', '200', '--election-timeout', '2000',
      '--cert-file', cert, '--key-file', key,
      '--peer-cert-file', cert, '--peer-key-file', key, '--peer-trusted-ca-file', this.root, '--peer-client-cert-auth',
    ]))
    this.members.set(at, program)
    return program
  }

  /** Runs etcdctl against all members that run, as root or another user. */
  ctl(...args) {
    return this.ctlAs('root', ...args)
  }

  async ctlAs(user, ...args) {
    const login = this.isGuarded ? ['--user', `${user}:${user}-password`] : []
    const { stdout } = await run('etcdctl', ['--endpoints', this.endpoints().join(','), '--cacert', this.root, ...login, ...args],
      { env: { PATH: process.env.PATH, ETCDCTL_API: '3' }, timeout: 30_000, maxBuffer: 64 * 1024 * 1024 })
    return stdout
  }

  /** Whether every member that is meant to run is healthy. */
  isHealthy() {
    return this.accepts('endpoint', 'health')
  }

  /** Whether a command succeeds. */
  async accepts(...args) {
    try {
      await this.ctl(...args)
      return true
    } catch {
      return false
    }
  }

  async status() {
    return JSON.parse(await this.ctl('endpoint', 'status', '--write-out=json'))
  }

  async leader() {
    const status = await this.status()
    const leader = status.find((member) => member.Status.header.member_id === member.Status.leader)
    return [...this.members.keys()].find((at) => this.url(at) === leader.Endpoint)
  }

  async kill(at) {
    this.members.get(at).child.kill('SIGKILL')
    await this.members.get(at).ended
  }

  /** Kills a member and all that it knows, and removes it from the cluster. */
  async lose(at) {
    // JSON has the number in decimal, and larger than JavaScript's are exact.
    const line = (await this.ctl('member', 'list')).split('\n').find((member) => member.includes(` etcd-${at},`))
    await this.kill(at)
    rmSync(join(this.folder, `etcd-${at}`), { recursive: true, force: true })
    this.members.delete(at)
    return line.split(',')[0]
  }

  /** Adds a member in the place of a lost one. */
  async replace(at, id) {
    await until('a leader', () => this.isHealthy())
    // etcd refuses changes until its members have been together for a few seconds.
    await until('the removal', () => this.accepts('member', 'remove', id))
    await until('the addition', () => this.accepts('member', 'add', `etcd-${at}`, `--peer-urls=${this.url(at, 2380)}`))
    this.members.set(at, undefined)
    this.startMember(at, 'existing')
    await until('the new member', () => this.isHealthy())
  }

  /** Writes until etcd accepts no more. */
  async fill() {
    const value = join(this.folder, 'filler')
    writeFileSync(value, 'x'.repeat(1_000_000))
    for (let at = 0; at < 200; at += 1) {
      try {
        await run('sh', ['-c', 'etcdctl --endpoints "$1" --cacert "$2" --user root:root-password put "/filler/$3" <"$4"', 'sh',
          this.endpoints().join(','), this.root, String(at), value],
        { env: { PATH: process.env.PATH, ETCDCTL_API: '3' }, timeout: 30_000 })
      } catch (error) {
        if (String(error.stderr).includes('space exceeded')) return
        throw error
      }
    }
    throw new Error('etcd is never full')
  }

  /** Makes room again. */
  async clear() {
    const revision = (await this.status())[0].Status.header.revision
    await this.ctl('del', '--prefix', '/filler/')
    await this.ctl('compact', String(revision))
    await this.ctl('defrag')
    await this.ctl('alarm', 'disarm')
  }
}
