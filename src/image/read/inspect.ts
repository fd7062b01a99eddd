/** Questions about an image, one line each, as upstream's `inspect` knows them. */
import { fault } from '../../common/fault.js'
import type { DirectoryInode, ImageInode, RafsImage, RegularInode } from '../../erofs/image-tree.js'
import { walkTree } from './walk-tree.js'

export interface Answer {
  /** For a person; ends with a newline unless it is empty. */
  readonly text: string
  /** For a program, under upstream's names; null for what has only a text. */
  readonly json: unknown
}

const HELP = `stats            version, number of inodes, chunk size
ls               entries of the current directory
cd DIR           change the current directory
stat NAME        everything about an entry of it
blobs            the data blobs
prefetch         what is prefetched
chunk OFFSET     chunks that are stored at this offset of a blob
icheck INODE     paths of an inode number
help             this list
exit, q          end
`

const LETTERS: Record<ImageInode['type'], string> = {
  regular: '-',
  directory: 'd',
  symlink: 'l',
  charDevice: 'c',
  blockDevice: 'b',
  fifo: 'p',
  socket: 's',
}

/** Answers questions, and remembers the current directory. */
export class Inspector {
  readonly #image: RafsImage
  readonly #numbers: Map<ImageInode, number>
  /** From the root to the current directory. */
  #trail: readonly DirectoryInode[]

  /** @param numbers - the image's inodes by number */
  constructor(image: RafsImage, numbers: ReadonlyMap<number, ImageInode>) {
    this.#image = image
    this.#numbers = new Map()
    for (const [number, inode] of numbers) if (!this.#numbers.has(inode)) this.#numbers.set(inode, number)
    this.#trail = [image.root]
  }

  /** Undefined where the line asks to end. @throws REQUEST_INVALID */
  answer(line: string): Answer | undefined {
    const [, command = '', operand = ''] = /^\s*(\S*)\s*(.*?)\s*$/.exec(line) ?? []
    switch (command) {
      case 'stats':
        return this.#stats()
      case 'ls':
        return told(this.#list())
      case 'cd':
        this.#changeDirectory(operand)
        return told('')
      case 'stat':
        return told(this.#describe(operand))
      case 'blobs':
        return this.#blobs()
      case 'prefetch':
        return this.#prefetch()
      case 'chunk':
        return told(this.#chunksAt(wholeNumber(operand)))
      case 'icheck':
        return told(this.#pathsOf(wholeNumber(operand)))
      case 'help':
        return told(HELP)
      case 'exit':
      case 'q':
        return undefined
    }
    throw fault('REQUEST_INVALID', `there is no command ${JSON.stringify(command)}: help lists them`)
  }

  #stats(): Answer {
    const { version, chunkSize, compressor, digester } = this.#image
    const inodes = this.#numbers.size
    const text =
      `version       RAFS v${version}\ninodes        ${inodes}\nchunk size    ${chunkSize}\n` +
      `compressor    ${compressor}\ndigester      ${digester}\nroot inode    ${this.#number(this.#image.root)}\n`
    return { text, json: { inodes_count: inodes } }
  }

  #list(): string {
    return [...this.#here.children]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, inode]) => `${LETTERS[inode.type]} ${this.#number(inode).padEnd(10)} ${shown(name)}\n`)
      .join('')
  }

  #changeDirectory(path: string): void {
    if (path === '') throw fault('REQUEST_INVALID', 'cd takes a directory: cd DIR')
    let trail = path.startsWith('/') ? [this.#image.root] : [...this.#trail]
    for (const name of path.split('/').filter(part => part !== '' && part !== '.')) {
      const next = name === '..' ? undefined : trail.at(-1)?.children.get(bytesOf(name))
      if (name === '..') trail = trail.slice(0, Math.max(1, trail.length - 1))
      else if (next?.type === 'directory') trail.push(next)
      else throw fault('REQUEST_INVALID', `there is no directory ${path}: ls shows what there is`)
    }
    this.#trail = trail
  }

  #describe(name: string): string {
    const inode = name === '.' ? this.#here : this.#here.children.get(bytesOf(name))
    if (inode === undefined)
      throw fault('REQUEST_INVALID', `there is no ${JSON.stringify(name)} here: ls shows what there is`)
    const lines = [
      ['inode', this.#number(inode)],
      ['type', inode.type],
      ['mode', (inode.mode & 0o7777).toString(8).padStart(4, '0')],
      ['uid, gid', `${inode.uid}, ${inode.gid}`],
      ['mtime', `${inode.mtimeSec}.${String(inode.mtimeNsec).padStart(9, '0')}`],
      ...contentOf(inode),
    ]
    for (const [key, value] of inode.xattrs ?? [])
      lines.push(['xattr', `${shown(key)}=${JSON.stringify(Buffer.from(value).toString())}`])
    return lines.map(([key = '', value = '']) => `${key.padEnd(10)} ${value}\n`).join('')
  }

  #blobs(): Answer {
    const { blobs } = this.#image
    const text = blobs
      .map(
        ({ id, compressedSize, uncompressedSize, chunkCount }) =>
          `${id} ${compressedSize} bytes compressed, ${uncompressedSize} uncompressed, ${chunkCount} chunks\n`,
      )
      .join('')
    const json = blobs.map(({ id, compressedSize, uncompressedSize }) => ({
      blob_id: id,
      readahead_offset: 0,
      readahead_size: 0,
      decompressed_size: uncompressedSize,
      compressed_size: compressedSize,
    }))
    return { text, json }
  }

  #prefetch(): Answer {
    const wanted = new Set(this.#image.prefetch)
    const paths = new Map<ImageInode, string>()
    for (const { path, inode } of wanted.size === 0 ? [] : walkTree(this.#image.root))
      if (wanted.has(inode) && !paths.has(inode))
        paths.set(inode, `/${Buffer.from(path, 'latin1').toString()}`)
    const json = this.#image.prefetch.map(inode => ({
      inode: this.#numbers.get(inode) ?? 0,
      path: paths.get(inode) ?? '',
    }))
    return { text: json.map(({ inode, path }) => `${inode} ${path}\n`).join(''), json }
  }

  #chunksAt(offset: number): string {
    let text = ''
    for (const { path, inode } of walkTree(this.#image.root)) {
      if (inode.type !== 'regular') continue
      for (const chunk of inode.chunks)
        // Of members of a batch only the blob knows where they are stored.
        if (chunk.compressedOffset === offset && chunk.compressedSize > 0)
          text += `/${shown(path)}\n${chunkLine(inode, chunk)}`
    }
    return text
  }

  #pathsOf(number: number): string {
    let text = ''
    for (const { path, inode } of walkTree(this.#image.root))
      if (this.#numbers.get(inode) === number) text += `/${shown(path)}\n`
    return text
  }

  get #here(): DirectoryInode {
    return this.#trail.at(-1) ?? this.#image.root
  }

  #number(inode: ImageInode): string {
    return String(this.#numbers.get(inode) ?? '-')
  }
}

function contentOf(inode: ImageInode): string[][] {
  switch (inode.type) {
    case 'regular':
      return [
        ['size', String(inode.sizeBytes)],
        ...inode.chunks.map(chunk => ['chunk', chunkLine(inode, chunk).trim()]),
      ]
    case 'symlink':
      return [['target', Buffer.from(inode.target).toString()]]
    case 'charDevice':
    case 'blockDevice':
      return [['device', `${inode.major}:${inode.minor}`]]
    case 'directory':
      return [['entries', String(inode.children.size)]]
    case 'fifo':
    case 'socket':
      return []
  }
}

function chunkLine(inode: RegularInode, chunk: RegularInode['chunks'][number]): string {
  const { blob, index, digest, compressedOffset, compressedSize, uncompressedOffset, uncompressedSize } =
    chunk
  return (
    `  piece ${inode.chunks.indexOf(chunk)}: chunk ${index} of blob ${blob.id}, ${compressedSize} bytes at ` +
    `${compressedOffset} stored, ${uncompressedSize} at ${uncompressedOffset} uncompressed, digest ${digest}\n`
  )
}

function told(text: string): Answer {
  return { text, json: null }
}

/** @throws REQUEST_INVALID */
function wholeNumber(text: string): number {
  const number = Number(text)
  if (/^(?:\d+|0x[0-9a-f]+)$/i.test(text) && Number.isSafeInteger(number)) return number
  throw fault(
    'REQUEST_INVALID',
    `${JSON.stringify(text)} is no whole number: give one in decimal, or with 0x`,
  )
}

function bytesOf(name: string): string {
  return Buffer.from(name).toString('latin1')
}

/** A byte string for a terminal: without control characters. */
function shown(name: string): string {
  return JSON.stringify(Buffer.from(name, 'latin1').toString()).slice(1, -1)
}
