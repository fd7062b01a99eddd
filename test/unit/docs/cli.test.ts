import t from 'tap'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'

const root = path.resolve(import.meta.dirname, '../../../..')
const text = readFileSync(path.join(root, 'docs/reference/cli.md'), 'utf8')

/** The chapter of each program, by its heading. */
const chapters = new Map(
  text
    .split(/^## /m)
    .slice(1)
    .map(chapter => [chapter.split('\n', 1)[0] ?? '', chapter]),
)
const COMMAND_LINES: [string, string[]][] = [
  ['ctr-remote', ['image', 'rpull']],
  ['containerd-nydus-grpc', []],
  ['nydusd', []],
  ['nydusd', ['fuse']],
  ['nydusd', ['singleton']],
  ['nydus-image', []],
  ['nydus-image', ['check']],
  ['nydus-image', ['create']],
  ['nydus-image', ['inspect']],
  ['nydus-image', ['stat']],
  ['nydus-image', ['unpack']],
  ['nydus-image', ['merge']],
  ['nydus-image', ['compact']],
  ['nydus-image', ['chunkdict', 'generate']],
  ['nydus-image', ['export']],
  ['nydusctl', []],
  ['nydusctl', ['metrics', 'backend']],
  ['nydusctl', ['mount']],
  ['nydusctl', ['upgrade']],
  ['nydusify', []],
  ['nydusify', ['convert']],
  ['nydusify', ['check']],
  ['nydusify', ['copy']],
  ['nydusify', ['optimize']],
  ['nydusify', ['mount']],
  ['nydusify', ['save']],
  ['nydusify', ['load']],
]

for (const [program, command] of COMMAND_LINES) {
  t.test(`${[program, ...command].join(' ')}: every option of its help is documented`, t => {
    const file = path.join(root, 'dist/src/bin', `${program}.js`)
    const help = execFileSync(process.execPath, [file, ...command, '--help'], { encoding: 'utf8' })
    const options = [...help.matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)/gm)].map(([, option]) => option ?? '')
    t.ok(options.length > 1, 'the help lists options')
    const chapter = chapters.get(program) ?? ''
    t.same(
      options.filter(option => option !== '--help' && !chapter.includes(`\`${option}\``)),
      [],
    )
    t.end()
  })
}

t.test('no option is documented that no help shows', t => {
  for (const [program, chapter] of chapters) {
    const lines = COMMAND_LINES.filter(([name]) => name === program)
    const help = lines
      .map(([name, command]) => {
        const file = path.join(root, 'dist/src/bin', `${name}.js`)
        return execFileSync(process.execPath, [file, ...command, '--help'], { encoding: 'utf8' })
      })
      .join('')
    const first = [...chapter.matchAll(/^\| `(--[a-z-]+)`/gm)].map(([, option]) => option ?? '')
    t.same(
      first.filter(option => !new RegExp(`${option}\\b`).test(help)),
      [],
      program,
    )
  }
  t.end()
})
