// A registry proxy that can hold answers back: node hold-proxy.js PORT REGISTRY_PORT HOLD_FILE
//
// While HOLD_FILE exists, answers to GETs of blobs wait; each one that waits is told on standard output as a line
// "held PATH RANGE". They go on as soon as the file is removed.
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'

const [port, registryPort, holdFile] = process.argv.slice(2)
const waiting = new Set()

fs.watch(path.dirname(holdFile), () => {
  if (fs.existsSync(holdFile)) return
  for (const release of waiting) release()
  waiting.clear()
})

const server = http.createServer((request, response) => {
  const forward = () => {
    const { method, url, headers } = request
    const upstream = http.request(
      { host: '127.0.0.1', port: registryPort, method, path: url, headers },
      answer => {
        response.writeHead(answer.statusCode, answer.headers)
        answer.pipe(response)
      },
    )
    upstream.on('error', err => response.destroy(err))
    request.pipe(upstream)
  }
  if (request.method !== 'GET' || !request.url.includes('/blobs/') || !fs.existsSync(holdFile))
    return forward()
  console.log(`held ${request.url} ${request.headers.range ?? '-'}`)
  waiting.add(forward)
  // Whoever asked may be killed meanwhile.
  response.on('close', () => waiting.delete(forward))
})
server.listen(Number(port), '127.0.0.1', () => console.log('listening'))
