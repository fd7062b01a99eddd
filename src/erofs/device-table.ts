/**
 * Device table of an EROFS image: one slot for each data blob (EROFS on-disk format; RAFS v6 bootstrap, device table).
 */
import type { ByteSource } from '../common/byte-source.js'
import { DEVICE_OFF, DEVICE_SLOT_SIZE, DEVICE_TABLE_OFFSET } from './format.js'
import { readStruct } from './struct-view.js'

/** Slot i belongs to blob index i; the kernel calls it device i + 1. */
export interface DeviceSlot {
  /** The blob id: the name by which fscache asks for the device. */
  readonly tag: string
  /** Size of the device in blocks. */
  readonly blocks: number
  /** First block of the blob in a flattened disk; 0 where the image was not laid out for one. */
  readonly mappedBlock: number
}

/** @throws RAFS_FIELD, RAFS_TRUNCATED */
export function parseDeviceTable(source: ByteSource, count: number): DeviceSlot[] {
  const slots: DeviceSlot[] = []
  const seen = new Set<string>()
  for (let index = 0; index < count; index++) {
    const offset = DEVICE_TABLE_OFFSET + index * DEVICE_SLOT_SIZE
    const view = readStruct(source, offset, DEVICE_SLOT_SIZE, `device slot ${index}`)
    const tag = view.text(DEVICE_OFF.tag, 64)
    const blocks = view.u32(DEVICE_OFF.blocks)
    view.check(tag !== '' && !seen.has(tag), DEVICE_OFF.tag, 'tag', tag, 'each device has a tag of its own')
    view.check(blocks > 0, DEVICE_OFF.blocks, 'blocks', blocks, 'a device has at least one block')
    seen.add(tag)
    slots.push({ tag, blocks, mappedBlock: view.u32(DEVICE_OFF.mappedBlock) })
  }
  return slots
}
