/** The images of the storm: a busybox to run, files of known pages, and one that fio wrote with its own checks. */
import { execFileSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import path from 'node:path'
import { type Entry, writeImage } from '../../demo/image.js'
import { busyboxLayer } from '../../demo/layers.js'
import { ANNOTATION } from '../../src/oci/annotations.js'
import type { DockerRegistry } from '../helpers/docker-registry.js'
import { execNode } from '../helpers/lazy-node.js'
import { fileBytes, type ImagePlan, planImage } from './content.js'

/** Small, so that a read costs little of the image and most of it stays cold. */
const CHUNK = '0x10000'
export const FIO_FILE = 'data/fio'

export interface StormImage {
  readonly plan: ImagePlan
  /** Repository and tag, without the registry. */
  readonly name: string
  readonly fioBytes: number
  /** Of its data, which no other image has. */
  readonly blobId: string
}

export interface ImageSize {
  readonly files: number
  readonly pagesAFile: number
  readonly fioBytes: number
}

/** Builds one and puts it into the registry. */
export async function pushStormImage(
  registry: DockerRegistry,
  directory: string,
  image: number,
  { files, pagesAFile, fioBytes }: ImageSize,
): Promise<StormImage> {
  const plan = planImage(image, files, pagesAFile)
  const entries: Entry[] = [{ path: 'data', mode: 0o755, type: 'directory' }]
  for (const file of plan.files) {
    const bytes = fileBytes(image, file)
    entries.push({ path: file.path, mode: 0o644, type: 'file', sizeBytes: bytes.length, source: { bytes } })
  }
  const written = path.join(directory, `fio-${image}`)
  if (hasFio()) {
    writeWithFio(written, fioBytes)
    entries.push({
      path: FIO_FILE,
      mode: 0o644,
      type: 'file',
      sizeBytes: fioBytes,
      source: { file: written },
    })
  }
  const layout = path.join(directory, `layout-${image}`)
  await writeImage(layout, 'storm', [busyboxLayer(), entries], { Cmd: ['/bin/busybox', 'true'] })
  registry.pushLayout(layout, 'storm', `storm${image}:oci`)
  const name = `storm${image}:nydus`
  const from = ['--source', `${registry.host}/storm${image}:oci`, '--target', `${registry.host}/${name}`]
  const how = ['--compressor', 'none', '--chunk-size', CHUNK, '--work-dir', directory]
  const { code, stderr } = await execNode('nydusify', ['convert', ...from, ...how])
  if (code !== 0) throw new Error(`nydusify convert: ${stderr}`)
  for (const used of [layout, written]) rmSync(used, { recursive: true, force: true })
  return { plan, name, fioBytes: hasFio() ? fioBytes : 0, blobId: dataBlobOf(`${registry.host}/${name}`) }
}

/** The upper of two layers of data: the lower is busybox's. */
function dataBlobOf(reference: string): string {
  const inspect = ['inspect', '--raw', '--tls-verify=false', `docker://${reference}`]
  const { layers } = JSON.parse(execFileSync('skopeo', inspect, { encoding: 'utf8' })) as {
    layers: { digest: string; annotations?: Record<string, string> }[]
  }
  const data = layers.filter(({ annotations }) => annotations?.[ANNOTATION.nydusBlob] === 'true')
  return data.at(-1)?.digest.slice('sha256:'.length) ?? ''
}

export function hasFio(): boolean {
  return existsSync('/usr/bin/fio')
}

function writeWithFio(file: string, bytes: number): void {
  const job = ['--name=write', `--filename=${file}`, `--size=${bytes}`, '--rw=write', '--bs=4k']
  execFileSync('fio', [
    ...job,
    '--verify=crc32c',
    '--do_verify=0',
    '--verify_state_save=0',
    '--output=/dev/null',
  ])
}
