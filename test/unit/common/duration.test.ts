import t from 'tap'
import { parseDurationMs } from '../../../src/common/duration.js'

t.test('durations of Go', async t => {
  const samples: [string, number][] = [
    ['24h', 86_400_000],
    ['1m30s', 90_000],
    ['0s', 0],
    ['0', 0],
    ['1.5h', 5_400_000],
    ['.5s', 500],
    ['-2m', -120_000],
    ['+3ms', 3],
    ['10us', 0.01],
    ['10µs', 0.01],
    ['100ns', 0.0001],
    ['1h2m3s4ms', 3_723_004],
  ]
  for (const [text, ms] of samples) t.equal(parseDurationMs(text), ms, text)
  for (const text of ['', '120min', '10', '1 s', 's', '1h 2m', '--1s', '1d', '1.2.3s', '0x1s'])
    t.equal(parseDurationMs(text), undefined, `${JSON.stringify(text)} is none`)
})
