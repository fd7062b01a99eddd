/**
 * The fscache driver: EROFS mounted with `fsid=`, data asked for on /dev/cachefiles. The kernel keeps a copy of its own
 * in objects that cannot be read back; they are filled from the chunk cache, which is the durable copy.
 *
 * Invariants: a request is answered exactly once; a READ is completed after its range was written, or without it, which
 * the kernel turns into EIO; state is keyed by domain and cookie, because after a take-over the object ids change.
 */
import { closeSync, openSync, readSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { EventJournal } from '../cache/event-journal.js'
import { rangeReady } from '../cache/ready-blocks.js'
import type { CachedBlob } from '../cache/cached-blob.js'
import type { Driver, DriverStats, Instance, KeptDescriptor, MountPlan } from '../cache/driver.js'
import { asFault, fault } from '../common/fault.js'
import type { Logger } from '../common/log.js'
import { allocateAligned, completeRead } from '../native/cachefiles.js'
import { cullBlob, cullObjects } from './culling.js'
import { CachefilesDevice, type DeviceOptions } from './device.js'
import { type CachefilesMessage, openReply } from './protocol.js'

const PAGE = 4096
/** How far one READ copies ahead into the kernel's object, where the bytes are local anyway. */
const COPY_WINDOW = 1024 * 1024
const ENOENT = 2
/** How long an end waits for what is being fetched. */
const DRAIN_TIMEOUT_MS = 2000

/** What an object of the kernel is filled from. */
interface Source {
  readonly sizeBytes: number
  readonly fd: number
  readonly blob: CachedBlob | undefined
  users: number
}

interface OpenObject {
  readonly fd: number
  readonly source: Source
  readonly name: string
}

export interface FscacheOptions extends DeviceOptions {
  /** Where the journal lives: on /run, so that it dies with the boot. */
  readonly runDirectory: string
  readonly logger: Logger
}

export class FscacheDriver implements Driver {
  readonly name = 'fscache'
  readonly #device: CachefilesDevice
  readonly #directory: string
  readonly #logger: Logger
  readonly #sources = new Map<string, Source>()
  readonly #objects = new Map<number, OpenObject>()
  readonly #instances = new Map<string, Instance>()
  readonly #stats: DriverStats = { eventsAnswered: 0, eventsDenied: 0, eventsPending: 0 }
  readonly #underWay = new Set<Promise<void>>()
  #ending: 'drains' | 'ended' | undefined
  readonly #bounce = allocateAligned(COPY_WINDOW)
  readonly #journal: EventJournal
  readonly #freeSlots: number[] = []
  #slots = 0

  /** @throws DRIVER_UNSUPPORTED */
  constructor(options: FscacheOptions) {
    this.#device = new CachefilesDevice(options)
    this.#directory = options.directory
    this.#logger = options.logger
    this.#journal = new EventJournal(join(options.runDirectory, 'fscache.journal'))
    if (options.keptFd === undefined) this.#journal.reset()
  }

  async start(): Promise<void> {
    this.#fetchLeft()
    this.#device.start(
      message => this.#hear(message),
      () => cullObjects(this.#device, this.#directory, this.#logger),
      this.#logger,
    )
    return Promise.resolve()
  }

  async attach(instance: Instance): Promise<MountPlan> {
    if (this.#instances.has(instance.key))
      throw fault('INSTANCE_EXISTS', `${instance.key} is attached already`)
    this.#instances.set(instance.key, instance)
    const fd = openSync(instance.bootstrapPath, 'r')
    const sizeBytes = statSync(instance.bootstrapPath).size
    this.#sources.set(sourceKey(instance.domainId, instance.id), { sizeBytes, fd, blob: undefined, users: 1 })
    for (const blob of instance.blobs) {
      const key = sourceKey(instance.domainId, blob.blobId)
      const known = this.#sources.get(key)
      if (known) known.users++
      else this.#sources.set(key, { sizeBytes: blob.sizeBytes, fd: blob.fillFd, blob, users: 1 })
    }
    return Promise.resolve({ kind: 'fsid', fsid: instance.id, domainId: instance.domainId })
  }

  mounted(_key: string): void {
    // Nothing to relax: what the kernel has it does not ask for again.
  }

  async detach(key: string): Promise<void> {
    const instance = this.#instances.get(key)
    if (!instance) return
    this.#instances.delete(key)
    for (const cookie of [instance.id, ...instance.blobs.map(blob => blob.blobId)]) {
      const name = sourceKey(instance.domainId, cookie)
      const source = this.#sources.get(name)
      if (!source || --source.users > 0) continue
      this.#sources.delete(name)
      for (const [objectId, object] of this.#objects) {
        if (object.source === source) this.#forget(objectId)
      }
      if (!source.blob) closeSync(source.fd)
    }
    return Promise.resolve()
  }

  cull(blobId: string): void {
    cullBlob(this.#device, this.#directory, blobId)
  }

  setProber(_pid: number): void {
    // On-demand mode fails closed: a mount that is not intercepted cannot come about.
  }

  descriptors(): KeptDescriptor[] {
    return [{ name: 'fscache.control', fd: this.#device.fd }]
  }

  stats(): DriverStats {
    return { ...this.#stats }
  }

  /** What has been read is answered, or left to a successor, whom the kernel asks again: nothing fails because of an end. */
  async stop(): Promise<void> {
    this.#ending = 'drains'
    await this.#device.stop()
    await Promise.race([Promise.all(this.#underWay), delay(DRAIN_TIMEOUT_MS, undefined, { ref: false })])
    this.#ending = 'ended'
    this.#journal.close()
  }

  #hear(message: CachefilesMessage): void {
    switch (message.op) {
      case 'open':
        this.#open(message)
        break
      case 'close':
        this.#forget(message.objectId)
        break
      case 'read':
        this.#serve(message)
        break
    }
  }

  #serve(message: CachefilesMessage & { op: 'read' }): void {
    const slot = this.#record(message)
    this.#stats.eventsPending++
    const answered = (): void => {
      this.#stats.eventsPending--
      if (slot === undefined || this.#ending === 'ended') return
      this.#journal.clear(slot)
      this.#freeSlots.push(slot)
    }
    this.#track(this.#read(message).finally(answered))
  }

  /** @returns its slot; undefined for what needs nothing fetched, or where the run directory is full */
  #record({ objectId, offset, length: count }: CachefilesMessage & { op: 'read' }): number | undefined {
    const blob = this.#objects.get(objectId)?.source.blob
    if (!blob) return undefined
    const slot = this.#freeSlots.pop() ?? this.#slots++
    try {
      this.#journal.record(slot, { dev: blob.dev, ino: blob.ino, offset, count })
      return slot
    } catch (err) {
      this.#freeSlots.push(slot)
      this.#logger.warn({ err }, 'a READ is not in the journal: a successor would begin to fetch it later')
      return undefined
    }
  }

  /**
   * Begins to fetch what a predecessor was asked for: the kernel asks for it again, but only after each object was opened
   * again. Whether it comes is told by that READ.
   */
  #fetchLeft(): void {
    const left = this.#journal.entries()
    this.#journal.reset()
    const blobs = [...this.#sources.values()].flatMap(({ blob }) => blob ?? [])
    for (const { dev, ino, offset, count } of left) {
      const blob = blobs.find(one => one.ino === ino && one.dev === dev)
      const length = blob === undefined ? 0 : Math.min(count, blob.sizeBytes - offset)
      if (blob && length > 0) void blob.ensure(offset, length, { kind: 'demand' }).catch(() => undefined)
    }
    if (left.length > 0)
      this.#logger.info({ journalled: left.length }, 'fetching what a predecessor was asked')
  }

  #track(reading: Promise<void>): void {
    this.#underWay.add(reading)
    void reading.finally(() => this.#underWay.delete(reading))
  }

  #open(message: CachefilesMessage & { op: 'open' }): void {
    const name = sourceKey(message.domainId, message.cookie)
    const source = this.#sources.get(name)
    this.#logger.debug({ name, known: source !== undefined }, 'cachefiles open')
    if (!source) {
      this.#device.command(openReply(message.id, -ENOENT))
      closeSync(message.fd)
      this.#logger.warn(
        { domainId: message.domainId, cookie: message.cookie },
        'the kernel asked for an unknown object',
      )
      return
    }
    this.#forget(message.objectId)
    this.#objects.set(message.objectId, { fd: message.fd, source, name })
    try {
      this.#device.command(openReply(message.id, source.sizeBytes))
    } catch (err) {
      // The kernel gave the request up, as when the mount was killed: no CLOSE will follow.
      this.#forget(message.objectId)
      this.#logger.warn({ err, name }, 'an OPEN was withdrawn')
    }
  }

  async #read(message: CachefilesMessage & { op: 'read' }): Promise<void> {
    const object = this.#objects.get(message.objectId)
    if (!object) {
      // Without an object there is no descriptor to complete the request on; a new OPEN follows, then the READ again.
      this.#logger.warn({ objectId: message.objectId }, 'a READ came for an object that is not open')
      return
    }
    try {
      const { blob, sizeBytes } = object.source
      const length = Math.min(message.length, sizeBytes - message.offset)
      if (blob && length > 0) await blob.ensure(message.offset, length, { kind: 'demand' })
      // Closed while we waited: its descriptor, and the source's, may be other files by now.
      if (this.#objects.get(message.objectId) !== object || this.#ending === 'ended') return
      this.#fill(object, message.offset, message.length)
      this.#stats.eventsAnswered++
    } catch (err) {
      if (this.#ending !== undefined) return
      this.#stats.eventsDenied++
      this.#logger.error(
        { err: asFault(err), object: object.name, offset: message.offset, count: message.length },
        'a read is failed',
      )
    }
    if (this.#objects.get(message.objectId) === object) completeRead(object.fd, message.id)
  }

  /** Copies the range, whose bytes are local, and what is local behind it. */
  #fill(object: OpenObject, offset: number, length: number): void {
    const { blob, sizeBytes } = object.source
    const end = Math.min(offset + length, Math.ceil(sizeBytes / PAGE) * PAGE)
    for (let at = offset; at < end;) {
      const windowEnd = Math.min(
        (Math.floor(at / COPY_WINDOW) + 1) * COPY_WINDOW,
        Math.ceil(sizeBytes / PAGE) * PAGE,
      )
      const ahead = !blob || rangeReady(blob.readyBlocks, sizeBytes, at, windowEnd - at)
      const until = ahead ? windowEnd : Math.min(end, windowEnd)
      this.#copy(object, at, until - at)
      at = until
    }
  }

  /** Copies a page-aligned range from the cache file into the kernel's object; the tail is padded with zeros. */
  #copy(object: OpenObject, offset: number, length: number): void {
    const bytes = this.#bounce.subarray(0, length)
    let done = 0
    while (done < length) {
      const n = readSync(object.source.fd, bytes, done, length - done, offset + done)
      if (n === 0) break
      done += n
    }
    bytes.fill(0, done)
    for (let sent = 0; sent < length;) sent += writeSync(object.fd, bytes, sent, length - sent, offset + sent)
  }

  #forget(objectId: number): void {
    const object = this.#objects.get(objectId)
    if (!object) return
    this.#objects.delete(objectId)
    closeSync(object.fd)
  }
}

function sourceKey(domainId: string, cookie: string): string {
  return `${domainId}/${cookie}`
}
