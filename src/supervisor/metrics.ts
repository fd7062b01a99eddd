/** What a node's metrics tell of how its images are mounted. */
import Counter from 'prom-client/lib/counter.js'
import Gauge from 'prom-client/lib/gauge.js'
import { metrics } from '../common/metrics.js'
import type { MountedImage } from './image-mounts.js'

const driverInfo = new Gauge({
  name: 'nydus_snapshotter_driver_info',
  help: 'The driver that mounts images, and the one that was asked for; always 1',
  labelNames: ['driver', 'requested'],
  registers: [metrics],
})
const fallbacks = new Counter({
  name: 'nydus_snapshotter_fallback_images_total',
  help: 'Images mounted by FUSE where a kernel path was asked for; reason: kernel (it has none), rafs-v5',
  labelNames: ['requested', 'reason'],
  registers: [metrics],
})
const images = new Gauge({
  name: 'nydus_snapshotter_mounted_images',
  help: 'Images mounted at this moment, by the driver that new containers get',
  labelNames: ['driver'],
  registers: [metrics],
})

const daemonEvents = new Counter({
  name: 'nydusd_lifetime_event_counts',
  help: 'Daemons that began to serve (RUNNING), died (DIED), were ended (DESTROYED); ours: pauses before a restart (BACKED_OFF)',
  labelNames: ['nydusd_event'],
  registers: [metrics],
})

export function countDaemonEvent(event: 'RUNNING' | 'DIED' | 'DESTROYED' | 'BACKED_OFF'): void {
  daemonEvents.inc({ nydusd_event: event })
}

export function countDriver(requested: string, driver: string): void {
  driverInfo.reset()
  driverInfo.set({ driver, requested }, 1)
}

export function countFallback(requested: string, reason: 'kernel' | 'rafs-v5'): void {
  fallbacks.inc({ requested, reason })
}

export function countImages(mounted: readonly MountedImage[]): void {
  images.reset()
  for (const { driver } of mounted) images.inc({ driver })
}
