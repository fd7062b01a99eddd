import type { ImageRecord } from './image-record.js'
import type { KnownImage } from './watched-daemon.js'

/** One way of serving images: by a kernel path, or by FUSE. */
export interface ServingPath {
  /** Makes the image visible. `remember` is called as soon as a successor of the daemon has to know of it. */
  mount(record: ImageRecord, remember: () => void): Promise<void>
  /** What a new daemon is told of it. */
  known(record: ImageRecord): Promise<KnownImage>
  /** Takes away what is visible; who uses it goes on. */
  unmount(record: ImageRecord): Promise<void>
  /** Lets the daemon go of it: nobody uses it any more. */
  release(record: ImageRecord): Promise<void>
}
