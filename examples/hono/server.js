// The classic Hono app, made real: one route that is a WebSocket for those who ask for one, and
// the app's own text for everybody else.

import { serve } from '@hono/node-server'
import { createNodeWebSocket } from '@hono/node-ws'
import { Hono } from 'hono'

const name = process.env.NAME ?? 'hono'
const port = Number(process.env.PORT ?? 3001)

const app = new Hono()
const { injectWebSocket, upgradeWebSocket } = createNodeWebSocket({ app })
const sockets = new Set()

app.get('/', (c) => c.text(`Hello from ${name}\n`))

app.get(
  '/realtime',
  upgradeWebSocket(() => ({
    onOpen(_event, socket) {
      sockets.add(socket)
      socket.send(`hello from ${name}`)
    },
    onMessage(event, socket) {
      if (typeof event.data === 'string' && event.data.startsWith('all:')) {
        for (const each of sockets) each.send(event.data.slice(4))
      } else {
        socket.send(event.data)
      }
    },
    onClose(_event, socket) {
      sockets.delete(socket)
    },
  })),
  // Whoever did not ask for a WebSocket ends up here.
  (c) => c.text(`This is ${name}. Connect with a WebSocket to talk.\n`),
)

const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port }, (info) => {
  console.log(`${name} listens on 127.0.0.1:${info.port}`)
})
injectWebSocket(server)
