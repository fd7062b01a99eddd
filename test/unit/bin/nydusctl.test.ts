import t from 'tap'
import {
  backendRates,
  backendText,
  fsText,
  RATES_HEADER,
  ratesText,
} from '../../../src/bin/nydusctl/counters.js'
import { descriptorsText } from '../../../src/bin/nydusctl/system.js'
import { infoText } from '../../../src/bin/nydusctl/info.js'
import { bytesText } from '../../../src/bin/nydusctl/show.js'

const zeros = (length: number): number[] => new Array<number>(length).fill(0)
const metrics = (reads: number, bytes: number, ms: number) => ({
  backend_type: 'registry',
  read_count: reads,
  read_errors: Math.floor(reads / 10),
  read_amount_total: bytes,
  read_cumulative_latency_millis_total: ms,
  read_cumulative_latency_millis_dist: [0, 0, ms, 0, 0, 0, 0, 0],
  read_count_block_size_dist: [0, 0, reads, 0, 0, 0, 0, 0],
  read_latency_sizes_dist: Array.from({ length: 8 }, () => zeros(8)),
})

t.test('reads of a backend', async t => {
  t.equal(
    backendText(metrics(20, 20 * 8192, 100)),
    `Backend:         registry
Reads:           20
Failed reads:    2
Bytes asked for: 163840 (160.0 KiB)
Average size:    8.0 KiB
Average latency: 5 ms

By size     <1K  <4K  <16K  <64K  <128K  <512K  <1M  >=1M
Reads         0    0    20     0      0      0    0     0
Average ms    0    0     5     0      0      0    0     0
`,
  )
  t.match(backendText(metrics(0, 0, 0)), /Average size: +0 B\nAverage latency: +0 ms/)
})

t.test('what happened between two answers', async t => {
  const rates = backendRates(metrics(10, 40_960, 50), metrics(30, 40_960 + 20 * 8192, 450), 2)
  t.strictSame(rates, {
    reads: 20,
    failed: 2,
    bandwidth_kib_per_second: 80,
    average_size_kib: 8,
    average_latency_ms: 20,
    average_latency_ms_by_size: [0, 0, 20, 0, 0, 0, 0, 0],
  })
  t.equal(ratesText(rates).length, RATES_HEADER.length, 'columns are below their names')
  t.match(ratesText(rates), /^ {3}20 {7}2 {5}80/)
  t.match(backendRates(metrics(30, 8192, 1), metrics(1, 4096, 3), 1), { reads: 1, average_latency_ms: 3 })
})

t.test('what a mount was asked', async t => {
  const at = (index: number, value: number): number[] => zeros(15).map((_, i) => (i === index ? value : 0))
  const metrics = {
    files_account_enabled: false,
    access_pattern_enabled: false,
    record_latest_read_files_enabled: false,
    measure_latency: true,
    id: '/m',
    nr_opens: 3,
    data_read: 5 * 1024 * 1024,
    block_count_read: [0, 0, 0, 0, 0, 0, 0, 5],
    fop_hits: at(4, 5),
    fop_errors: at(4, 1),
    fop_cumulative_latency_total: at(4, 1000),
    read_latency_dist: [5, 0, 0, 0, 0, 0, 0, 0],
  }
  const text = fsText(metrics)
  t.match(text, /^Mountpoint: +\/m\nOpen files: +3\nBytes read: +5242880 \(5\.0 MiB\)$/m)
  t.match(text, /^read +5 +1 +200$/m)
  t.match(text, /^batch forget +0 +0 +-$/m)
  const kernel = { instances: 1, events_answered: 2, events_denied: 0, events_pending: 0 }
  t.match(
    fsText({ ...metrics, driver: 'fanotify', ...kernel, cache: { hits: 7 } }),
    /^Driver: +fanotify\n(.*\n)*Cache hits: +7\n$/,
  )
})

t.test('a daemon and its mounts', async t => {
  const info = {
    id: 'd',
    version: { package_ver: '1.2.3', git_commit: 'c', build_time: 'b', profile: 'release', rustc: 'r' },
    supervisor: '/run/s',
    state: 'RUNNING' as const,
    driver: 'fuse',
    pid: 7,
    passed_over: ['fscache: there is none'],
  }
  const config = {
    backend: { type: 'registry' },
    cache: { filecache: { work_dir: '/cache' } },
    rafs: { mode: 'direct', prefetch: { enable: true, batch_size: 1024 * 1024 } },
  }
  const mount = { backend_type: 'Rafs' as const, mountpoint: '/a', mounted_time: '2026-01-01T00:00:00.000Z' }
  const text = infoText({
    ...info,
    backend_collection: { '/a': { ...mount, config }, '/b': { ...mount, config: null } },
  })
  t.match(text, /^Status: +RUNNING$/m)
  t.match(text, /^Passed over: +fscache: there is none$/m)
  t.match(
    text,
    /^\nMountpoint: +\/a\nType: +Rafs\nMounted Time: +2026-01-01T00:00:00\.000Z\nBackend: +registry$/m,
  )
  t.match(text, /^Cache: +\/cache\nMode: +direct\nPrefetch: +on\nPrefetch Merging Size: +1\.0 MiB$/m)
  t.match(text, /^Mode: +-\nPrefetch: +off\nPrefetch Merging Size: +-\n$/m)
  t.notMatch(infoText({ ...info, backend_collection: null }), /Mountpoint/)
})

t.test('bytes', async t => {
  for (const [bytes, text] of [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [1536 * 1024 * 1024, '1.5 GiB'],
    [2 ** 62, '4096.0 PiB'],
  ] as const)
    t.equal(bytesText(bytes), text)
})

t.test('who keeps which descriptor', async t => {
  t.equal(
    descriptorsText([
      { daemon: 'shared', name: 'fanotify.group', holders: ['daemon', 'holder'] },
      { daemon: '7', name: 'fuse.session', holders: [] },
    ]),
    'descriptor             daemon  snapshotter  holder  manager\n' +
      'shared/fanotify.group     yes            -     yes        -\n' +
      '7/fuse.session              -            -       -        -\n',
  )
})
