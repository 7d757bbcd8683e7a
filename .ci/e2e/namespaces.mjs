// A few machines in one: network namespaces on a bridge, in a namespace of their own that nothing leaves. Where the system
// does not permit them, addresses of the loopback network, whose links cannot be cut.

import { execFileSync } from 'node:child_process'

const ip = (...args) => execFileSync('ip', args, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' })

/** Whether this process is alone in its network namespace, as after `unshare --net`, and may create others. */
function isPermitted() {
  try {
    const links = JSON.parse(ip('-json', 'link')).map((link) => link.ifname)
    if (links.some((name) => name !== 'lo' && !/^(tunl|gre|gretap|erspan|ip_vti|ip6_vti|sit|ip6tnl|ip6gre)\d/.test(name))) return false
    ip('netns', 'add', `tidegate-${process.pid}`)
    ip('netns', 'del', `tidegate-${process.pid}`)
    return true
  } catch {
    return false
  }
}

/**
 * Machines with an address in each of two networks: `front`, where clients and endpoints are, and `back`, where nodes
 * talk to their store. This process has an address in both, too.
 */
export class Machines {
  constructor(count) {
    this.count = count
    this.separate = isPermitted()
    this.networks = { front: 1, back: 2 }
    if (this.separate) this.lay()
  }

  lay() {
    ip('link', 'set', 'lo', 'up')
    for (const [network, third] of Object.entries(this.networks)) {
      ip('link', 'add', `br-${network}`, 'type', 'bridge')
      ip('addr', 'add', `10.77.${third}.254/24`, 'dev', `br-${network}`)
      ip('link', 'set', `br-${network}`, 'up')
    }
    for (let at = 1; at <= this.count; at += 1) {
      ip('netns', 'add', this.name(at))
      ip('-n', this.name(at), 'link', 'set', 'lo', 'up')
      for (const [network, third] of Object.entries(this.networks)) {
        ip('link', 'add', `${network}${at}`, 'type', 'veth', 'peer', 'name', network, 'netns', this.name(at))
        ip('link', 'set', `${network}${at}`, 'master', `br-${network}`, 'up')
        ip('-n', this.name(at), 'addr', 'add', `10.77.${third}.${at}/24`, 'dev', network)
        ip('-n', this.name(at), 'link', 'set', network, 'up')
      }
    }
  }

  name(at) {
    return `tidegate-${process.pid}-${at}`
  }

  /** The address of a machine in a network; number 0 is this process. */
  address(network, at) {
    if (!this.separate) return `127.77.${this.networks[network]}.${at || 254}`
    return `10.77.${this.networks[network]}.${at || 254}`
  }

  /** A command on a machine, as `spawn` takes it. */
  command(at, command, args) {
    return this.separate ? ['ip', ['netns', 'exec', this.name(at), command, ...args]] : [command, args]
  }

  /** Cuts a machine off a network, without a word to anybody, or connects it again. */
  cut(network, at, isCut = true) {
    ip('link', 'set', `${network}${at}`, isCut ? 'down' : 'up')
  }

  remove() {
    if (!this.separate) return
    for (let at = 1; at <= this.count; at += 1) ip('netns', 'del', this.name(at))
  }
}
