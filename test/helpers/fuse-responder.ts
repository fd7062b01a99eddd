import { closeSync, openSync, writeSync } from 'node:fs'
import path from 'node:path'
import { MemorySource } from '../../src/common/byte-source.js'
import { createReadyBlocks, markRangeReady } from '../../src/cache/ready-blocks.js'
import { openInodeReader } from '../../src/erofs/open-inode-reader.js'
import type { Access } from '../../src/fuse/access-log.js'
import { createCounters } from '../../src/fuse/counters.js'
import type { Session } from '../../src/fuse/init.js'
import type { FailureText, Miss, WorkerImage } from '../../src/fuse/messages.js'
import { REQUEST_BYTES } from '../../src/fuse/protocol.js'
import { Reply, REPLY_BYTES } from '../../src/fuse/reply.js'
import { Responder } from '../../src/fuse/responder.js'
import { VirtualTree } from '../../src/fuse/virtual-tree.js'
import type { BuiltForm } from './built-forms.js'

export interface Answer {
  readonly errno: number
  readonly payload: Buffer
}

/** A responder that serves one image at /, without a kernel; nothing of its data is local until `fill`. */
export class ResponderBench {
  readonly responder: Responder
  readonly image: WorkerImage
  readonly misses: Miss[] = []
  readonly interrupts: [number, number][] = []
  readonly failures: FailureText[] = []
  readonly accesses: Access[] = []
  readonly tree = new VirtualTree<WorkerImage>()
  readonly #reply = new Reply(Buffer.alloc(REPLY_BYTES))
  readonly #fd: number

  constructor(form: BuiltForm, directory: string, flags: Session['flags'] = new Set()) {
    const reader = openInodeReader(new MemorySource(form.bootstrap))
    this.#fd = openSync(path.join(directory, 'cache'), 'w+')
    const sizeBytes = 1 << 20
    this.image = {
      sequence: 0,
      rootIno: reader.rootIno,
      bootstrapFd: -1,
      blobs: [{ fillFd: this.#fd, sizeBytes, readyBlocks: createReadyBlocks(sizeBytes) }],
      counters: createCounters(1),
      accounted: true,
    }
    this.tree.addImage(this.image, 1)
    this.responder = new Responder({
      tree: this.tree,
      readers: { get: () => reader, drop: () => undefined },
      session: { minor: 41, flags },
      reply: this.#reply,
      request: Buffer.from(new ArrayBuffer(REQUEST_BYTES)),
      createdSec: 77,
      worker: 0,
      hooks: {
        miss: miss => this.misses.push(miss),
        interrupt: (low, high) => this.interrupts.push([low, high]),
        failed: (_sequence, _ino, failure) => this.failures.push(failure),
        accessed: access => this.accesses.push(access),
      },
    })
  }

  /** The bytes are local from here on. */
  fill(offset: number, bytes: Uint8Array): void {
    writeSync(this.#fd, bytes, 0, bytes.length, offset)
    const [blob] = this.image.blobs
    if (blob) markRangeReady(blob.readyBlocks, offset, bytes.length)
  }

  /** @returns what a message as it stands is answered with; undefined for nothing */
  send(message: Uint8Array): Answer | undefined {
    this.responder.request.set(message)
    const length = this.responder.respond(message.length, performance.now())
    if (length === 0) return undefined
    const bytes = Buffer.from(this.#reply.bytes.subarray(0, length))
    if (bytes.readUInt32LE(0) !== length) throw new Error('the answer tells another length')
    return { errno: -bytes.readInt32LE(4), payload: bytes.subarray(16) }
  }

  ask(opcode: number, node: number, body: Uint8Array = Buffer.alloc(0)): Answer | undefined {
    return this.send(request(opcode, node, body))
  }

  lookup(parent: number, name: string): number {
    const answer = this.ask(1, parent, Buffer.from(`${name}\0`))
    if (answer?.errno !== 0) throw new Error(`look-up of ${name}: ${answer?.errno}`)
    return Number(answer.payload.readBigUInt64LE(0))
  }

  close(): void {
    closeSync(this.#fd)
  }
}

export function request(opcode: number, node: number, body: Uint8Array): Buffer {
  const header = Buffer.alloc(40)
  header.writeUInt32LE(40 + body.length, 0)
  header.writeUInt32LE(opcode, 4)
  header.writeBigUInt64LE(0x8000_0000_0000_0102n, 8)
  header.writeBigUInt64LE(BigInt(node), 16)
  return Buffer.concat([header, body])
}

/** The body of READ, READDIR and READDIRPLUS. */
export function readBody(offset: number, size: number): Buffer {
  const body = Buffer.alloc(40)
  body.writeBigUInt64LE(BigInt(offset), 8)
  body.writeUInt32LE(size, 16)
  return body
}
