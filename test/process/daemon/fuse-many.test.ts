/** One nydusd and very many images: one after the other, and all at the same time. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { CompressPool } from '../../../src/image/build/compress-pool.js'
import { buildForm, buildForms, type BuiltForm } from '../../helpers/built-forms.js'
import { mountCommand, runReader, startFuseDaemon, sumTree, writeForm } from '../../helpers/fuse-daemon.js'
import { fuseMissing } from '../../helpers/fuse-serving.js'
import { digestOf } from '../../helpers/registry.js'
import { scratch } from '../../helpers/scratch.js'

const skip = fuseMissing
const CYCLES = 300
const IMAGES = 1000

/** VmRSS of a process. */
function residentMib(pid: number): number {
  const line = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return Number(line?.[1]) / 1024
}

t.test(`${CYCLES} images come and go`, { skip }, async t => {
  const directory = scratch(t)
  const daemon = await startFuseDaemon(t, directory)
  const forms = (await buildForms({ files: 3 })).filter(({ name }) => /^v6 zstd$|^v5 lz4$/.test(name))
  const written = forms.map((form, i) => writeForm(join(directory, String(i)), form))
  const sums: Map<string, string>[] = []
  const wrong: string[] = []
  let warmMib = 0
  for (let i = 0; i < CYCLES; i++) {
    const which = i % 2
    const { bootstrap, blobs } = written[which]!
    const path = `/deep/${i % 7}/${i}`
    await daemon.client.mount(path, mountCommand(bootstrap, { blobs, cache: join(directory, 'cache') }))
    const seen = await sumTree(daemon.mountpoint + path)
    sums[which] ??= seen
    if (JSON.stringify([...seen].sort()) !== JSON.stringify([...sums[which]].sort())) wrong.push(path)
    await daemon.client.umount(path)
    if (i === 50) warmMib = residentMib(daemon.pid)
  }
  t.same(wrong, [])
  t.equal(sums[0]?.size, sums[1]?.size)
  t.equal((await runReader('find', daemon.mountpoint)).trim(), daemon.mountpoint, 'nothing is left')
  const grownMib = residentMib(daemon.pid) - warmMib
  t.ok(grownMib < 60, `grew by ${grownMib.toFixed(1)} MiB from cycle 50 to ${CYCLES}`)
})

t.test(`${IMAGES} images at the same time`, { skip }, async t => {
  const directory = scratch(t)
  const daemon = await startFuseDaemon(t, directory)
  const emptyMib = residentMib(daemon.pid)
  const pool = new CompressPool()
  const blobs = join(directory, 'blobs')
  const boots = join(directory, 'boots')
  mkdirSync(blobs)
  mkdirSync(boots)
  const expected = new Map<string, string>()
  let mountingMs = 0
  try {
    for (let i = 0; i < IMAGES; i++) {
      const body = Buffer.from(`the content of image ${i}\n`.repeat(1 + (i % 400)))
      const items = [
        { name: 'd/', type: '5', mode: 0o755 },
        { name: 'd/file', mode: 0o644, body },
        { name: 'same', mode: 0o644, body: Buffer.from('the same in all') },
      ] as const
      const version = i % 2 === 0 ? 6 : 5
      const form: BuiltForm = await buildForm(`image ${i}`, [...items], { version }, pool)
      for (const [id, bytes] of form.blobs) writeFileSync(join(blobs, id), bytes)
      const bootstrap = join(boots, `${i}.boot`)
      writeFileSync(bootstrap, form.bootstrap)
      const command = mountCommand(bootstrap, { blobs, cache: join(directory, 'cache') })
      const began = performance.now()
      await daemon.client.mount(`/image-${i}`, command)
      mountingMs += performance.now() - began
      expected.set(`image-${i}/d/file`, digestOf(body).slice(7))
      expected.set(`image-${i}/same`, digestOf(Buffer.from('the same in all')).slice(7))
    }
  } finally {
    await pool.close()
  }
  t.comment(`${(mountingMs / IMAGES).toFixed(1)} ms a mount`)
  const began = performance.now()
  const seen = await sumTree(daemon.mountpoint)
  t.comment(`${((performance.now() - began) / 1000).toFixed(0)} s to read all`)
  const sorted = (sums: Map<string, string>): [string, string][] => [...sums].sort()
  t.strictSame(sorted(seen), sorted(expected))
  const lines = await runReader('find', daemon.mountpoint, '-printf', '%i\\n')
  const inodes = lines.trim().split('\n')
  t.equal(new Set(inodes).size, 1 + IMAGES * 4, 'each name has an inode of its own')
  const usedMib = residentMib(daemon.pid)
  t.comment(`${emptyMib.toFixed(0)} MiB without an image, ${usedMib.toFixed(0)} MiB with ${IMAGES}`)
  t.ok(usedMib - emptyMib < 400, `${((usedMib - emptyMib) * 1024) / IMAGES} KiB an image`)
})
