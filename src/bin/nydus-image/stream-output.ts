import { asFault } from '../../common/fault.js'
import { FileOutput } from '../../common/file-output.js'

/** Where a command streams its result to. */
export type StreamOutput = Pick<FileOutput, 'write' | 'flush' | 'finish' | 'abort'>

/**
 * A file, which is written beside its place and replaces what stands there; `-` is the standard output, and a pipe or a
 * device is written to as it comes. @throws FILE_UNREADABLE
 */
export async function openStreamOutput(target: string): Promise<StreamOutput> {
  return target === '-' ? standardOutput() : FileOutput.open(target)
}

/** As a stream, for it may be a socket, which has no name to open it by. */
function standardOutput(): StreamOutput {
  const done = (): Promise<void> => Promise.resolve()
  const write = (bytes: Uint8Array): Promise<void> =>
    new Promise((resolve, reject) => {
      process.stdout.write(bytes, err => {
        if (err) reject(asFault(err, 'FILE_UNREADABLE', 'the standard output cannot be written'))
        else resolve()
      })
    })
  return { write, flush: done, finish: done, abort: done }
}
