/**
 * The demo: one image from this machine, pulled and started twice, lazily and in full.
 * scripts/demo.sh runs it in namespaces of its own, whose end takes every process and mount of it along.
 */
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { startContainerd } from '../test/helpers/containerd.js'
import { DockerRegistry } from '../test/helpers/docker-registry.js'
import { writeImage } from './image.js'
import { applicationLayer, busyboxLayer, nodeLayer, toolsLayer } from './layers.js'
import { type Result, measure, seconds } from './measure.js'
import { mebibytes, say, table } from './say.js'

const directory = process.argv[2] ?? ''
const namespace = path.basename(directory)
const at = (name: string): string => path.join(directory, name)

async function main(): Promise<void> {
  mkdirSync(at('tmp'))
  say('building the image: busybox, Node with its libraries, npm, a web application')
  const layers = [busyboxLayer(), nodeLayer(), toolsLayer(), applicationLayer()].filter(
    layer => layer.length > 0,
  )
  const config = {
    Cmd: ['/usr/bin/node', '/app/server.mjs'],
    Env: ['PATH=/usr/bin:/bin'],
    WorkingDir: '/app',
  }
  const image = await writeImage(at('layout'), 'app', layers, config)
  const sizes = `${mebibytes(image.fileBytes)}, ${mebibytes(image.layerBytes)} compressed`
  say(`image: ${layers.length} layers, ${image.files} files, ${sizes}`)

  say('starting a registry on loopback and pushing the image')
  const registry = new DockerRegistry({})
  await registry.start()
  registry.pushLayout(at('layout'), 'app', 'demo:oci')
  const plain = `${registry.host}/demo:oci`

  say('starting containerd')
  const containerd = await startContainerd({ directory })
  const results: Result[] = []

  say('overlayfs: pulling in full with ctr')
  const pullPlain = async (): Promise<void> => {
    const args = [
      '--namespace',
      namespace,
      'images',
      'pull',
      '--plain-http',
      '--snapshotter',
      'overlayfs',
      plain,
    ]
    const pulled = await containerd.ctr(...args)
    if (pulled.code !== 0) throw new Error(`ctr images pull failed: ${pulled.stderr}`)
  }
  const full = { driver: 'overlayfs, full pull', snapshotter: 'overlayfs', reference: plain, pull: pullPlain }
  results.push(await measure(full, containerd, registry, namespace))

  const heads = ['driver', 'image', 'fetched', 'requests', 'pull', 'pull to first HTTP 200']
  const rows = results.map(one => [
    one.driver,
    mebibytes(image.layerBytes),
    mebibytes(one.fetchedBytes),
    String(one.requests),
    seconds(one.pullMs),
    seconds(one.firstAnswerMs),
  ])
  process.stdout.write(`\n${table([heads, ...rows])}\n\n`)
  await containerd.stop()
  await registry.remove()
}

main().catch((err: unknown) => {
  process.stderr.write(`demo: ${err instanceof Error ? err.message : String(err)}\n`)
  process.exitCode = 1
})
