import path from 'node:path'
import { FileOutput } from '../../common/file-output.js'

/** Where a blob is written to: a stream, for it may be a pipe. */
export interface BlobOutput {
  write(bytes: Uint8Array): Promise<void>
  /** Nothing stands at the target before this. Returns the blob's path. */
  finish(blobId: string): Promise<string>
  /** Leaves nothing behind; does nothing after `finish`. */
  abort(): Promise<void>
}

/** The file `target`, which is replaced; a pipe or a device is written to as it comes. @throws FILE_UNREADABLE */
export async function openBlobFile(target: string): Promise<BlobOutput> {
  const file = await FileOutput.open(target, `the blob cannot be written to ${target}`)
  return blobOutput(file, () => target)
}

/** A file in `directory` with the name of the blob's id. @throws FILE_UNREADABLE */
export async function openBlobDirectory(directory: string): Promise<BlobOutput> {
  const unnamed = path.join(directory, '.blob')
  const file = await FileOutput.open(unnamed, `the blob cannot be written to ${directory}`)
  return blobOutput(file, blobId => path.join(directory, blobId))
}

function blobOutput(file: FileOutput, targetOf: (blobId: string) => string): BlobOutput {
  return {
    write: bytes => file.write(bytes),
    finish: async blobId => {
      const target = targetOf(blobId)
      await file.finish(target)
      return target
    },
    abort: () => file.abort(),
  }
}
