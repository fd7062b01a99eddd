/** Each answer against the reference's table of fields: a client looks keys up by name. */
import t from 'tap'
import { ReadStatistics } from '../../../src/backend/read-statistics.js'
import { MemorySource } from '../../../src/common/byte-source.js'
import { accessPatterns, fileMetrics, fsMetrics, inflightInfo } from '../../../src/daemon/fs-metrics.js'
import { backendMetrics } from '../../../src/daemon/metrics.js'
import { superblockInfo } from '../../../src/daemon/superblock-info.js'
import { encodeBootstrapV5 } from '../../../src/erofs/v5/writer.js'
import { buildImage } from '../../helpers/rafs-image.js'
import { SAMPLE_CHUNK_SIZE, sampleTree } from '../../helpers/sample-tree.js'

const fops = (read: number): number[] => Array.from({ length: 15 }, (_, i) => (i === 4 ? read : 0))
const ALL = { files: true, pattern: true, latest: true }
const NONE = { files: false, pattern: false, latest: false }

t.test('what a mount was asked', async t => {
  const stats = {
    opens: 1,
    dataReadBytes: 6,
    readsBySize: [1, 0, 0, 0, 0, 0, 0, 0],
    hits: fops(1),
    errors: fops(0),
    latencyTotalUs: fops(210),
    readsByLatency: [0, 1, 0, 0, 0, 0, 0, 0],
  }
  t.strictSame(fsMetrics('/m', { ...NONE, files: true }, stats), {
    files_account_enabled: true,
    access_pattern_enabled: false,
    record_latest_read_files_enabled: false,
    measure_latency: true,
    id: '/m',
    nr_opens: 1,
    data_read: 6,
    block_count_read: [1, 0, 0, 0, 0, 0, 0, 0],
    fop_hits: fops(1),
    fop_errors: fops(0),
    fop_cumulative_latency_total: fops(210),
    read_latency_dist: [0, 1, 0, 0, 0, 0, 0, 0],
  })
})

t.test('its files', async t => {
  const file = {
    ino: 7,
    totalOperations: 3,
    dataReadBytes: 10,
    readsBySize: [2, 0, 0, 0, 0, 0, 0, 0],
    hits: fops(2),
    errors: fops(0),
    firstReadMs: 1_700_000_000_250,
  }
  const looked = { ...file, ino: 8, hits: fops(0), firstReadMs: undefined }
  const counted = { total_fops: 3, data_read: 10, block_count_read: file.readsBySize, fop_errors: fops(0) }
  t.strictSame(fileMetrics(ALL, [file, looked]), {
    7: { ...counted, fop_hits: fops(2) },
    8: { ...counted, fop_hits: fops(0) },
  })
  t.strictSame(accessPatterns(ALL, [file, looked]), [
    { ino: 7, nr_read: 2, first_access_time_secs: 1_700_000_000, first_access_time_nanos: 250_000_000 },
  ])
  t.strictSame(fileMetrics({ ...ALL, files: false }, [file]), {})
  t.strictSame(accessPatterns({ ...ALL, pattern: false }, [file]), [])
  t.strictSame(inflightInfo({ inode: 1, opcode: 15, unique: 9, sinceMs: 1999 }), {
    inode: 1,
    opcode: 15,
    unique: 9,
    timestamp_secs: 1,
  })
})

t.test('reads of a backend by size and latency', async t => {
  const statistics = new ReadStatistics()
  statistics.count(1023, 0.4, false)
  statistics.count(1024, 1, false)
  statistics.count(4096, 2, true)
  statistics.count(65536, 100, false)
  statistics.count(128 * 1024, 100.5, false)
  statistics.count(1024 * 1024 - 1, 2000, false)
  statistics.count(1024 * 1024, 2001, false)
  const row = (...at: number[]): number[] => Array.from({ length: 8 }, (_, i) => (at.includes(i) ? 1 : 0))
  t.strictSame(backendMetrics('registry', statistics), {
    backend_type: 'registry',
    read_count: 7,
    read_errors: 1,
    read_amount_total: 1023 + 1024 + 4096 + 65536 + 131072 + 1024 * 1024 * 2 - 1,
    read_cumulative_latency_millis_total: 0 + 1 + 2 + 100 + 101 + 2000 + 2001,
    read_cumulative_latency_millis_dist: [0, 1, 2, 0, 100, 101, 2000, 2001],
    read_count_block_size_dist: [1, 1, 1, 0, 1, 1, 1, 1],
    read_latency_sizes_dist: [row(0), row(0), row(1), row(), row(3), row(4), row(6), row(7)],
  })
})

t.test('the superblock of both versions has the same keys', async t => {
  const { root, shared } = sampleTree('sha256')
  const options = { chunkSize: SAMPLE_CHUNK_SIZE, compressor: 'none', digester: 'sha256' } as const
  const { bytes } = encodeBootstrapV5(root, { ...options, prefetch: [shared] })
  const v5 = superblockInfo(new MemorySource(bytes), 4096)
  t.match(v5, {
    magic: 0x52414653,
    version: 0x500,
    sb_size: 8192,
    root_inode: 1,
    chunk_size: SAMPLE_CHUNK_SIZE,
    batch_size: 4096,
    flags: { bits: 0x1 | 0x8 | 0x10 | 0x20 },
    inode_table_offset: 8192,
    prefetch_table_entries: 1,
    attr_timeout: { secs: 4294967296, nanos: 0 },
    is_chunk_dict: false,
    chunk_table_size: 0,
  })
  t.ok(v5.inodes_count > 3)
  const image = buildImage([{ name: 'file', mode: 0o100644, data: Buffer.alloc(10_000, 7) }])
  const v6 = superblockInfo(new MemorySource(image.bootstrap), 0)
  t.match(v6, {
    magic: 0xe0f5e1e2,
    version: 0x600,
    sb_size: 128,
    inodes_count: 2,
    blob_device_table_count: 1,
    chunk_table_offset: image.chunkTable,
    root_nid: image.nids.get(''),
    inode_table_entries: 0,
  })
  t.strictSame(Object.keys(v6).sort(), Object.keys(v5).sort())
  t.equal(Object.keys(v5).length, 25, 'of the reference')
})
