import { type TarEntry, readTar } from '../../src/image/tar/tar-reader.js'
import { pieces } from './tar-bytes.js'

export interface ReadEntry {
  entry: TarEntry
  body: Buffer
}

/** The entries of an archive that arrives in pieces of `pieceSize`, with the contents of files. */
export async function readAll(archive: Uint8Array, pieceSize?: number): Promise<ReadEntry[]> {
  const entries: ReadEntry[] = []
  for await (const entry of readTar(pieces(archive, pieceSize))) {
    const body: Uint8Array[] = []
    if (entry.type === 'regular') for await (const piece of entry.body) body.push(piece)
    entries.push({ entry, body: Buffer.concat(body) })
  }
  return entries
}
