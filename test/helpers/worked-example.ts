/**
 * A small image written by a RAFS 2.2 builder, whose bytes are known: two files in the root, one blob with V1 chunk
 * infos. Everything not set here is zero in the original too.
 */
export const EXAMPLE_BLOB_ID = 'be7d77eeb719f70884758d1aa800ed0fb09d701aaec469964e9d54325f0d5fef'

export function exampleBootstrap(): Buffer {
  const image = Buffer.alloc(20480)
  const put = (offset: number, hex: string): void => {
    Buffer.from(hex.replaceAll(/\s/g, ''), 'hex').copy(image, offset)
  }
  put(0x400, 'e2e1 f5e0 0000 0000 0000 0040 0c00 8000 0300')
  put(0x420, '0000 0000 0900 0000 0200 0000 0000 0000')
  put(0x450, '0c00 0000 0000 0100 0b00')
  put(0x480, '9401 0000 0000 0000 0010 0000 0000 0000')
  put(0x490, '0001 0000 0000 1000 0040 0000 0000 0000')
  put(0x4a0, 'a000')
  image.write(EXAMPLE_BLOB_ID, 0x580)
  image.writeUInt32LE(9, 0x5c0)
  image.writeUInt32LE(512, 0x5c4)
  image.write(EXAMPLE_BLOB_ID, 0x1000)
  put(0x1040, '0000 0000 0000 1000 0200 0000 0300 0000')
  put(0x1050, '0000 0000 2100 0070 da38 0000 0000 0000')
  put(0x1060, '0090 0000 0000 0000 0004 0000 0000 0000')
  put(0x1070, '7a20 0000 0000 0000 2000 0000 0000 0000')
  put(0x1080, '2000 0000 0000 0000 cfc8 9ed0 739a ef4e')
  put(0x1090, 'b1bf 0904 f0df db1c 8571 34ec a731 9465')
  put(0x10a0, 'baae 95a9 9b84 acde')
  put(0x3000, '0500 0000 ed41 0000 4300 0000 0000 0000')
  put(0x3010, '0300')
  put(0x3020, '0000 0000 0000 0000 0000 0000 0200 0000')
  put(0x3040, '8000 0000 0000 0000 3000 0200 8000 0000')
  put(0x3050, '0000 0000 3100 0200 8500 0000 0000 0000')
  put(0x3060, '3300 0100 8800 0000 0000 0000 3900 0100')
  put(0x3070, '2e2e 2e6c 6962 2e72 7373 796e 635f 696f 2e72 7300')
  put(0x30a0, '0900 0000 a481 0000 2342 0000 0000 0000')
  put(0x30b0, '2800 0000 0200 0000 0000 0000 0000 0000')
  put(0x30c0, '613c f263 0000 0000 569c 7825 0100 0000')
  put(0x30e0, '0000 0100 0000 0000')
  // nid 136, by its fields.
  put(0x3100, '0900 0000 a481 0000 5834 0000 0000 0000')
  put(0x3110, '2800 0000 0300 0000')
  put(0x3120, '613c f263 0000 0000 3cac 7d25 0100 0000')
  put(0x3140, '0100 0100 0500 0000')
  put(0x4000, '812465bcc9e88393598311dc5fc93abaeccef0185bcd99f9701d17ebdf9adc3f')
  put(
    0x4020,
    '00000000 01000000 9e0b0000 58340000 dc12000000000000 0050000000000000 0000000000000000 01000000',
  )
  put(0x4050, 'f7e2735f1c6ae9cde91e537416b09d8bb71b306a421d19cc1012a51f93a7fe69')
  put(0x4070, '00000000 01000000 dc120000 23420000')
  return image
}

/** The chunk infos and their header, as they stand in the blob at byte 8314. */
export function exampleBlobMeta(): Buffer {
  const meta = Buffer.alloc(32 + 4096)
  Buffer.from('00000000002022040000000000b02d010050000000704503dc12000000d0b900', 'hex').copy(meta)
  const header = meta.subarray(32)
  header.writeUInt32LE(0xb10bb10b, 0)
  header.writeUInt32LE(0x70000021, 4)
  header.writeUInt32LE(2, 12)
  header.writeUInt32LE(8314, 16)
  header.writeUInt32LE(32, 24)
  header.writeUInt32LE(32, 32)
  header.writeUInt32LE(0xb10bb10b, 4092)
  return meta
}
