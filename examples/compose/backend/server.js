// An echo that says who answers. NAME and PORT come from the environment.
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

const { NAME = 'one', PORT = '9000' } = process.env
const server = createServer((request, response) => response.end(`${NAME} answers ${request.url}\n`))
const sockets = new WebSocketServer({ server })
sockets.on('connection', (socket) => {
  socket.send(`connected to ${NAME}`)
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
  socket.on('error', () => {})
})
server.listen(Number(PORT))
process.on('SIGTERM', () => {
  for (const socket of sockets.clients) socket.close(1012, 'restart')
  server.close(() => process.exit())
})
