/** Builds the demo's image into the OCI layout that is named: for the VM, where the same takes twenty times as long. */
import { buildImage } from './image-of-machine.js'

const directory = process.argv[2] ?? ''
buildImage(directory).catch((err: unknown) => {
  process.stderr.write(`demo: ${err instanceof Error ? err.message : String(err)}\n`)
  process.exitCode = 1
})
