/** What a kubelet asks a container runtime about images. */
import { fileURLToPath } from 'node:url'
import { type Client, credentials, loadPackageDefinition, type ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

const PROTO = fileURLToPath(new URL('../../../test/helpers/cri-images.proto', import.meta.url))

interface Image {
  id: string
  repoTags: string[]
  size: number
}

type Call = (request: object, done: (err: ServiceError | null, answer: object) => void) => void
type ImageService = Client & Record<'imageStatus' | 'pullImage' | 'removeImage', Call>

export class CriClient {
  readonly #service: ImageService

  constructor(address: string) {
    const loaded = loadPackageDefinition(loadSync(PROTO, { longs: Number, defaults: true })) as unknown as {
      runtime: { v1: { ImageService: new (address: string, credentials: object) => ImageService } }
    }
    this.#service = new loaded.runtime.v1.ImageService(`unix:${address}`, credentials.createInsecure())
  }

  /** Gives the image's id. */
  async pull(image: string): Promise<string> {
    return ((await this.#call('pullImage', image)) as { imageRef: string }).imageRef
  }

  async status(image: string): Promise<Image | null> {
    return ((await this.#call('imageStatus', image)) as { image: Image | null }).image
  }

  async remove(image: string): Promise<void> {
    await this.#call('removeImage', image)
  }

  close(): void {
    this.#service.close()
  }

  #call(method: 'imageStatus' | 'pullImage' | 'removeImage', image: string): Promise<object> {
    return new Promise((resolve, reject) => {
      this.#service[method]({ image: { image } }, (err, answer) => (err ? reject(err) : resolve(answer)))
    })
  }
}
