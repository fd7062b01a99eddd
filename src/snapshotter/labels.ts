/**
 * The labels that containerd, its clients and image builders hand to a snapshotter. Presence is what counts for a flag,
 * not its value.
 */

const PREFIX = 'containerd.io/snapshot/'

export const LABELS = {
  /** Chain id under which the layer is to be committed; set by the unpacker for every image layer. */
  ref: 'containerd.io/snapshot.ref',
  /** Full image reference; mandatory for mounting a lazily read image. */
  imageRef: `${PREFIX}cri.image-ref`,
  /** The same from clients that know stargz's names only. */
  stargzReference: `${PREFIX}remote/stargz.reference`,
  /** Digest of the stored layer. */
  layerDigest: `${PREFIX}cri.layer-digest`,
  manifestDigest: `${PREFIX}cri.manifest-digest`,
  /** Flag: the layer is a data blob, read lazily. */
  blob: `${PREFIX}nydus-blob`,
  /** Flag: the layer holds the merged bootstrap of the image. */
  bootstrap: `${PREFIX}nydus-bootstrap`,
  /** Credentials handed over by the caller. */
  pullUsername: `${PREFIX}pullusername`,
  pullSecret: `${PREFIX}pullsecret`,
  /** Flag: the container's upper layer need not survive a power cut. */
  volatile: `${PREFIX}overlay.volatile`,
  /** `inside:outside:size` of a user namespace. */
  uidMapping: `${PREFIX}uidmapping`,
  gidMapping: `${PREFIX}gidmapping`,
} as const

/** Set by who asks for a layer to be unpacked; not kept in logs and errors. */
const SECRETS: ReadonlySet<string> = new Set([LABELS.pullSecret, LABELS.pullUsername])

/** The image reference among the labels, `undefined` without one. */
export function imageRefOf(labels: Readonly<Record<string, string>>): string | undefined {
  return labels[LABELS.imageRef] ?? labels[LABELS.stargzReference]
}

/** Labels as they may be shown: credentials are left out. */
export function printableLabels(labels: Readonly<Record<string, string>>): string {
  const shown = Object.entries(labels).filter(([key]) => !SECRETS.has(key))
  return `map[${shown
    .map(([key, value]) => `${key}:${value}`)
    .sort()
    .join(' ')}]`
}

/** The host id that a mapping gives to id 0 inside, `undefined` when there is no such label or it maps no 0. */
export function mappedRoot(mapping: string | undefined): number | undefined {
  const match = /^0:(\d{1,10}):[1-9]\d*$/.exec(mapping ?? '')
  return match ? Number(match[1]) : undefined
}
