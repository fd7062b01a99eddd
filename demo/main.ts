/**
 * The demo: one image from this machine, pulled and started twice, lazily and in full.
 * scripts/demo.sh runs it in namespaces of its own, whose end takes every process and mount of it along.
 */
import path from 'node:path'
import { startContainerd } from '../test/helpers/containerd.js'
import { DockerRegistry } from '../test/helpers/docker-registry.js'
import type { ImageSummary } from './image.js'
import { buildImage, readSummary } from './image-of-machine.js'
import { type Result, measure, seconds } from './measure.js'
import { program, runProgram } from './programs.js'
import { pushLayout } from './push.js'
import { mebibytes, say, table } from './say.js'
import { mountedDriver, startSnapshotter } from './snapshotter.js'

const directory = process.argv[2] ?? ''
/** Also the name of its cgroups: scripts/demo.sh removes them by it. */
const namespace = path.basename(directory)
const at = (name: string): string => path.join(directory, name)
/** How images are mounted: the snapshotter's --daemon-backend. */
const backend = process.argv[3] ?? 'fscache'
/** An OCI layout that demo/build.ts has written; without one the image is built here. */
const built = process.argv[4]
const layout = built ?? at('layout')

async function main(): Promise<void> {
  const image = built === undefined ? await buildImage(layout) : readSummary(layout)
  say('starting a registry on loopback and pushing the image')
  const registry = new DockerRegistry({})
  await registry.start()
  const [plain, lazy] = [`${registry.host}/demo:oci`, `${registry.host}/demo:nydus`]
  await pushLayout(layout, plain)

  say('converting it with nydusify')
  const convert = ['convert', '--source', plain, '--target', lazy, '--work-dir', at('nydusify')]
  await runProgram(process.execPath, [program('nydusify'), ...convert], at('nydusify.log'))

  say('starting containerd-nydus-grpc and containerd')
  const stopSnapshotter = await startSnapshotter(directory, at('nydus.sock'), backend)
  const containerd = await startContainerd({ directory, proxySnapshotters: { nydus: at('nydus.sock') } })

  say('nydus: pulling with ctr-remote image rpull')
  const flags = ['--address', containerd.address, '--namespace', namespace]
  const rpull = ['image', 'rpull', '--snapshotter', 'nydus', lazy]
  const pullLazily = (): Promise<void> =>
    runProgram(process.execPath, [program('ctr-remote'), ...flags, ...rpull], at('rpull.log'))
  const lazyRun = { name: 'nydus', snapshotter: 'nydus', reference: lazy, pull: pullLazily }
  const driver = (): string => mountedDriver(directory)
  const first = await measure(lazyRun, containerd, registry, namespace, driver)

  say('overlayfs: pulling in full with ctr')
  const pull = ['images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', plain]
  const pullInFull = (): Promise<void> => runProgram('ctr', [...flags, ...pull], at('pull.log'))
  const fullRun = { name: 'overlayfs', snapshotter: 'overlayfs', reference: plain, pull: pullInFull }
  const second = await measure(fullRun, containerd, registry, namespace, () => 'overlayfs, full pull')

  process.stdout.write(`\n${comparison(image, [first, second])}\n\n`)
  await containerd.stop()
  await stopSnapshotter()
  await registry.remove()
}

function comparison(image: ImageSummary, results: Result[]): string {
  const heads = ['driver', 'image', 'fetched', 'requests', 'pull', 'pull to first HTTP 200']
  const rows = results.map(one => [
    one.driver,
    mebibytes(image.layerBytes),
    mebibytes(one.fetchedBytes),
    String(one.requests),
    seconds(one.pullMs),
    seconds(one.firstAnswerMs),
  ])
  return table([heads, ...rows])
}

main().catch((err: unknown) => {
  process.stderr.write(`demo: ${err instanceof Error ? err.message : String(err)}\n`)
  process.exitCode = 1
})
