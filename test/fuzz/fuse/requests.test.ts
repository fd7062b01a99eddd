/** Whatever is read from the device, a worker answers or passes over it. */
import fc from 'fast-check'
import t from 'tap'
import { buildForms } from '../../helpers/built-forms.js'
import { ResponderBench, readBody, request } from '../../helpers/fuse-responder.js'
import { fuzzRuns, mutate, mutations } from '../../helpers/fuzz.js'
import { scratch } from '../../helpers/scratch.js'

const form = (await buildForms({ files: 20 })).find(({ name }) => name === 'v6 zstd')

t.test('changed requests and garbage', async t => {
  const bench = new ResponderBench(form!, scratch(t))
  t.teardown(() => bench.close())
  const nodes = [
    1,
    ...['dir', 'same', 'link', 'chr', 'many', 'attributes'].map(name => bench.lookup(1, name)),
  ]
  const bodies = [readBody(0, 4096), Buffer.from('several-chunks\0'), Buffer.alloc(64)]
  const whole = fc
    .tuple(fc.nat({ max: 54 }), fc.constantFrom(...nodes), fc.constantFrom(...bodies))
    .map(([opcode, node, body]) => request(opcode, node, body))
  const changed = whole.chain(message =>
    mutations(message.length, [0, 4, 16, 20, 40, 44, 48]).map(mutation => {
      const bytes = mutate(message, mutation)
      // The kernel tells the length right; what else it tells is not believed.
      if (bytes.length >= 4) bytes.writeUInt32LE(bytes.length, 0)
      return bytes
    }),
  )
  const garbage = fc.uint8Array({ maxLength: 300 }).map(bytes => Buffer.from(bytes))
  fuzzRuns(
    t,
    fc.oneof({ weight: 4, arbitrary: changed }, garbage),
    message => {
      const answer = bench.send(message)
      if (answer && (answer.errno < 0 || answer.errno > 200)) throw new Error(`errno ${answer.errno}`)
    },
    { runs: 20_000, maxBytes: 4 * 2 ** 20 },
  )
})
