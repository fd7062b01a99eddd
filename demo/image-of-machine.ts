import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { type ImageSummary, writeImage } from './image.js'
import { applicationLayer, busyboxLayer, nodeLayer, toolsLayer } from './layers.js'
import { mebibytes, say } from './say.js'

const SUMMARY = 'summary.json'

/** Builds the demo's image into the OCI layout `directory`. */
export async function buildImage(directory: string): Promise<ImageSummary> {
  say('building the image: busybox, Node with its libraries, npm, a web application')
  const layers = [busyboxLayer(), nodeLayer(), toolsLayer(), applicationLayer()].filter(one => one.length > 0)
  const config = {
    Cmd: ['/usr/bin/node', '/app/server.mjs'],
    Env: ['PATH=/usr/bin:/bin'],
    WorkingDir: '/app',
  }
  const image = await writeImage(directory, 'app', layers, config)
  writeFileSync(path.join(directory, SUMMARY), JSON.stringify(image))
  const sizes = `${mebibytes(image.fileBytes)}, ${mebibytes(image.layerBytes)} compressed`
  say(`image: ${layers.length} layers, ${image.files} files, ${sizes}`)
  return image
}

/** What was told of an image that was built before. */
export function readSummary(directory: string): ImageSummary {
  return JSON.parse(readFileSync(path.join(directory, SUMMARY), 'utf8')) as ImageSummary
}
