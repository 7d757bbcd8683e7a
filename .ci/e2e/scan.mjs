// What scanners say of TLS as it is without any configuration, and of a listener that answers certificate authorities:
// sslscan and testssl.sh find nothing of medium severity or worse, and OpenSSL resumes its sessions.

import { readFileSync, writeFileSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { freePort, listens, main, start, temporaryFolder, until } from './process.mjs'

const [tidegate] = process.argv.slice(2)
const folder = temporaryFolder('scan')
const run = (command, ...args) => execFileSync(command, args, { cwd: folder, encoding: 'utf8', stdio: ['pipe', 'pipe', 'ignore'] })
const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

/** As a public authority would issue it: where to ask whether it is revoked stands in it, too. */
function certify() {
  writeFileSync(join(folder, 'extensions'), `subjectAltName=DNS:localhost
extendedKeyUsage=serverAuth
keyUsage=digitalSignature
basicConstraints=CA:FALSE
crlDistributionPoints=URI:http://localhost/none
`)
  run('openssl', 'req', '-x509', ...key, '-days', '80', '-subj', '/CN=authority', '-keyout', 'ca.key', '-out', 'ca.pem')
  run('openssl', 'req', ...key, '-subj', '/CN=localhost', '-keyout', 'key.pem', '-out', 'request')
  run('openssl', 'x509', '-req', '-in', 'request', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '80',
    '-extfile', 'extensions', '-out', 'cert.pem')
}

await main(async (check) => {
  certify()
  const ports = { main: await freePort(), acme: await freePort() }
  writeFileSync(join(folder, 'tidegate.toml'), `
[acme.away]
directory = "https://127.0.0.1:1/directory"
terms_agreed = true
state = "state"
[listener.main]
bind = ["127.0.0.1:${ports.main}"]
tls.certificates = [{ cert = "cert.pem", key = "key.pem" }]
# It answers challenges, and so knows acme-tls/1.
[listener.acme]
bind = ["127.0.0.1:${ports.acme}"]
tls.certificates = [{ cert = "cert.pem", key = "key.pem" }, { names = ["other.example"], acme = "away" }]
[[route]]
upstream = "main"
[upstream.main]
endpoints = ["127.0.0.1:1"]
`)
  start(tidegate, ['run', '--config', join(folder, 'tidegate.toml')])
  for (const port of Object.values(ports)) await until('tidegate to listen', () => listens(port))

  for (const [listener, port] of Object.entries(ports)) await scan(check, listener, port)
})

async function scan(check, listener, port) {
  await check(`${listener}: sslscan: TLS 1.2 and 1.3, with ciphers that are good`, async () => {
    const found = run('sslscan', '--no-colour', `localhost:${port}`)
    for (const version of ['SSLv2', 'SSLv3', 'TLSv1.0', 'TLSv1.1']) {
      if (!new RegExp(`^${version} +disabled`, 'm').test(found)) throw new Error(`${version} is spoken:\n${found}`)
    }
    const ciphers = found.split('\n').filter((line) => /^(Preferred|Accepted) /.test(line))
    const weak = ciphers.filter((line) => !/GCM|CHACHA20/.test(line) || !/DHE/.test(line))
    if (ciphers.length < 6 || weak.length > 0 || /^TLS.*(?<!not )vulnerable/m.test(found)) throw new Error(found)
  })

  await check(`${listener}: testssl.sh: nothing of medium severity or worse`, async () => {
    try {
      // Protocols, ciphers, forward secrecy, preferences, certificate, known attacks.
      run('testssl', '--quiet', '--warnings', 'off', '--color', '0', '--severity', 'MEDIUM', '--add-ca', 'ca.pem',
        '--ip', '127.0.0.1', '--jsonfile', `${listener}.json`, '-p', '-s', '-f', '-P', '-S', '-U', `localhost:${port}`)
    } catch (error) {
      // Its exit code counts what it would rather have; what counts here is in the file.
      if (error.status === null || error.status > 200) throw error
    }
    const found = JSON.parse(readFileSync(join(folder, `${listener}.json`), 'utf8'))
    const bad = found.filter(({ severity }) => ['MEDIUM', 'HIGH', 'CRITICAL', 'FATAL'].includes(severity))
    if (bad.length > 0) throw new Error(JSON.stringify(bad, null, 2))
  })

  await check(`${listener}: OpenSSL resumes its sessions, of either version`, async () => {
    const talk = (...args) => execFileSync('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', 'localhost', '-ign_eof', ...args], {
      cwd: folder,
      encoding: 'utf8',
      input: 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    for (const version of ['-tls1_2', '-tls1_3']) {
      const first = talk(version, '-sess_out', 'session')
      const second = talk(version, '-sess_in', 'session')
      if (!first.includes('New, TLS') || !second.includes('Reused, TLS')) throw new Error(`${version}:\n${first}\n${second}`)
    }
  })
}
