import t from 'tap'
import { digestOf, hexDigestOf } from '../../../src/common/digest.js'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

t.test('digests of nothing and of abc', t => {
  // FIPS 180-4 examples; test vectors of the BLAKE3 specification.
  const known = {
    sha256: [
      'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
      'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    ],
    blake3: [
      'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262',
      '6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85',
    ],
  } as const
  for (const digester of ['sha256', 'blake3'] as const) {
    const inputs = [new Uint8Array(0), Buffer.from('abc')]
    t.same(
      inputs.map(bytes => hex(digestOf(digester, bytes))),
      known[digester],
    )
    t.same(
      inputs.map(bytes => hexDigestOf(digester, bytes)),
      known[digester],
    )
  }
  t.end()
})

t.test('both forms are of the bytes that a view shows, whatever it is a view of', t => {
  const whole = new Uint8Array(5000).map((_, i) => i % 251)
  for (const digester of ['sha256', 'blake3'] as const)
    for (const [start, end] of [
      [0, 32],
      [7, 1031],
      [4999, 5000],
    ] as const) {
      const own = Buffer.from(whole.subarray(start, end))
      t.equal(hexDigestOf(digester, whole.subarray(start, end)), hexDigestOf(digester, own))
      t.equal(hexDigestOf(digester, own), hex(digestOf(digester, whole.subarray(start, end))))
    }
  t.end()
})
