// A Hono app with one route, which is a WebSocket for clients that ask for one, and plain text for all
// others.

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
        for (const other of sockets) other.send(event.data.slice(4))
      } else {
        socket.send(event.data)
      }
    },
    onClose(_event, socket) {
      sockets.delete(socket)
    },
  })),
  // Requests without an upgrade arrive here.
  (c) => c.text(`This is ${name}. Connect with a WebSocket to talk.\n`),
)

const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port }, (info) => {
  console.log(`${name} listens on 127.0.0.1:${info.port}`)
})
injectWebSocket(server)
