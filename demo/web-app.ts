/** A small web application of some hundred files: what the demo's container serves. */
export interface AppFile {
  path: string
  content: string
}

const PAGES = 60
const MODULES = 180
const ASSETS = 100

/** Every file below `/app`: a server, a page module each with two helpers, views, and assets nobody asks for. */
export function webAppFiles(): AppFile[] {
  const files: AppFile[] = [{ path: 'server.mjs', content: SERVER }]
  for (let i = 0; i < MODULES; i++) files.push({ path: `lib/module-${i}.mjs`, content: moduleText(i) })
  for (let i = 0; i < PAGES; i++) {
    files.push({ path: `pages/page-${i}.mjs`, content: pageText(i) })
    files.push({ path: `views/page-${i}.html`, content: viewText(i) })
  }
  for (let i = 0; i < ASSETS; i++) files.push({ path: `public/asset-${i}.json`, content: assetText(i) })
  return files
}

const SERVER = `import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'

const pages = await Promise.all(
  Array.from({ length: ${PAGES} }, (_, i) => import(\`./pages/page-\${i}.mjs\`)),
)
const server = createServer(async (request, response) => {
  const page = pages[Number(/^\\/page\\/(\\d+)$/.exec(request.url)?.[1] ?? 0)]
  const view = await readFile(new URL(\`./views/\${page.view}\`, import.meta.url), 'utf8')
  response.setHeader('content-type', 'text/html')
  response.end(view.replace('{{title}}', page.title()))
})
server.listen(Number(process.env.PORT), '127.0.0.1')
`

function moduleText(i: number): string {
  return `/** Helper ${i} of the demo application. */
export function decorate${i}(text) {
  return text + ' [' + ${i} + ']'
}
${comment(`module ${i}`, 30)}`
}

function pageText(i: number): string {
  const [first, second] = [(i * 3) % MODULES, (i * 3 + 1) % MODULES]
  return `import { decorate${first} } from '../lib/module-${first}.mjs'
import { decorate${second} } from '../lib/module-${second}.mjs'

export const view = 'page-${i}.html'
export function title() {
  return decorate${second}(decorate${first}('Page ${i}'))
}
`
}

function viewText(i: number): string {
  const rows = Array.from({ length: 40 }, (_, row) => `      <li>Row ${row} of page ${i}</li>`)
  return `<!doctype html>
<html>
  <head><title>{{title}}</title></head>
  <body>
    <h1>{{title}}</h1>
    <ul>
${rows.join('\n')}
    </ul>
  </body>
</html>
`
}

function assetText(i: number): string {
  return JSON.stringify(
    Array.from({ length: 200 }, (_, n) => ({ id: i * 1000 + n, label: `asset ${i} item ${n}` })),
  )
}

function comment(what: string, lines: number): string {
  return Array.from(
    { length: lines },
    (_, n) => `// ${what}, note ${n}: text that makes the file as long as files are.\n`,
  ).join('')
}
