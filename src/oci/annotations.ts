/** Keys that nydus images carry on layer descriptors, and that containerd passes on as snapshot labels (rafs.md 5.1). */
export const ANNOTATION = {
  /** `true` on a RAFS data layer. */
  nydusBlob: 'containerd.io/snapshot/nydus-blob',
  /** `true` on the bootstrap layer, the last one. */
  nydusBootstrap: 'containerd.io/snapshot/nydus-bootstrap',
  /** `5` or `6`, on the bootstrap layer. */
  nydusFsVersion: 'containerd.io/snapshot/nydus-fs-version',
  /** Digest of the OCI layer that a zran data layer indexes. */
  nydusRef: 'containerd.io/snapshot/nydus-ref',
  nydusEncryptedBlob: 'containerd.io/snapshot/nydus-encrypted-blob',
  /** JSON list of blob ids, on the bootstrap layer; written by older converters. */
  nydusReferenceBlobIds: 'containerd.io/snapshot/nydus-reference-blob-ids',
  nydusSignature: 'containerd.io/snapshot/nydus-signature',
  /** DiffID while a layer is converted; stripped from the final manifest. */
  uncompressed: 'containerd.io/uncompressed',
} as const
