import { type Client, type ClientReadableStream, type ServiceError, credentials } from '@grpc/grpc-js'
import { loadSnapshotsClient } from '../../src/snapshotter/service.js'
import type { Info, Kind, Labels, Mount, Nanoseconds, Usage } from '../../src/snapshotter/snapshots.js'

interface InfoMessage {
  name: string
  parent: string
  kind: string
  created_at: { seconds: string; nanos: number }
  updated_at: { seconds: string; nanos: number }
  labels: Labels
}

/** Calls the snapshots service on a unix socket. A call that fails rejects with grpc-js's error: `code`, `details`. */
export class SnapshotsClient {
  readonly #client: Client

  constructor(socket: string) {
    this.#client = new (loadSnapshotsClient())(`unix:${socket}`, credentials.createInsecure(), {
      'grpc.initial_reconnect_backoff_ms': 50,
      'grpc.max_reconnect_backoff_ms': 100,
      'grpc.use_local_subchannel_pool': 1,
    })
  }

  /** Waits until the server answers. */
  async connect(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#client.waitForReady(Date.now() + 30_000, err => {
        if (err) reject(err)
        else resolve()
      })
    })
  }

  async prepare(key: string, parent: string, labels: Labels = {}): Promise<Mount[]> {
    return (await this.#call<{ mounts: Mount[] }>('Prepare', { key, parent, labels })).mounts
  }

  async view(key: string, parent: string, labels: Labels = {}): Promise<Mount[]> {
    return (await this.#call<{ mounts: Mount[] }>('View', { key, parent, labels })).mounts
  }

  async mounts(key: string): Promise<Mount[]> {
    return (await this.#call<{ mounts: Mount[] }>('Mounts', { key })).mounts
  }

  async commit(name: string, key: string, labels: Labels = {}, parent = ''): Promise<void> {
    await this.#call('Commit', { name, key, labels, parent })
  }

  async remove(key: string): Promise<void> {
    await this.#call('Remove', { key })
  }

  async stat(key: string): Promise<Info> {
    return toInfo((await this.#call<{ info: InfoMessage }>('Stat', { key })).info)
  }

  async update(name: string, labels: Labels, paths?: string[]): Promise<Info> {
    const message = { info: { name, labels }, ...(paths ? { update_mask: { paths } } : {}) }
    return toInfo((await this.#call<{ info: InfoMessage }>('Update', message)).info)
  }

  /** All infos; `onInfo` is called for each as it comes, while the stream is open. */
  async list(filters: string[] = [], onInfo?: (info: Info) => Promise<void>): Promise<Info[]> {
    const stream = this.#method('List').call(this.#client, { filters }) as ClientReadableStream<{
      info: InfoMessage[]
    }>
    const infos: Info[] = []
    for await (const batch of stream as AsyncIterable<{ info: InfoMessage[] }>) {
      for (const info of batch.info.map(toInfo)) {
        infos.push(info)
        await onInfo?.(info)
      }
    }
    return infos
  }

  async usage(key: string): Promise<Usage> {
    const { size, inodes } = await this.#call<{ size: string; inodes: string }>('Usage', { key })
    return { sizeBytes: Number(size), inodes: Number(inodes) }
  }

  async cleanup(): Promise<void> {
    await this.#call('Cleanup', {})
  }

  close(): void {
    this.#client.close()
  }

  #method(name: string): (...args: unknown[]) => unknown {
    return (this.#client as unknown as Record<string, (...args: unknown[]) => unknown>)[name]!
  }

  async #call<A>(name: string, message: object): Promise<A> {
    return await new Promise<A>((resolve, reject) => {
      const options = { deadline: Date.now() + 30_000 }
      this.#method(name).call(this.#client, message, options, (err: ServiceError | null, answer: A) => {
        if (err) reject(err)
        else resolve(answer)
      })
    })
  }
}

function toInfo(message: InfoMessage): Info {
  return {
    name: message.name,
    parent: message.parent,
    kind: message.kind.toLowerCase() as Kind,
    createdNs: toNanoseconds(message.created_at),
    updatedNs: toNanoseconds(message.updated_at),
    labels: message.labels,
  }
}

function toNanoseconds({ seconds, nanos }: { seconds: string; nanos: number }): Nanoseconds {
  return BigInt(seconds) * 1_000_000_000n + BigInt(nanos)
}
