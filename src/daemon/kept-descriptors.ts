import { fault } from '../common/fault.js'
import { getCloseOnExec, setCloseOnExec } from '../native/descriptor.js'

/**
 * Descriptors that a supervisor handed down: a JSON object of name to number in the environment. From here on they are
 * closed on exec, so that no child of ours keeps a fanotify group alive.
 * @throws CONFIG_INVALID when the text is no such object or a number is not open
 */
export function readKeptDescriptors(text: string | undefined): Map<string, number> {
  const kept = new Map<string, number>()
  if (text === undefined || text === '') return kept
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (err) {
    throw fault('CONFIG_INVALID', 'NYDUS_KEPT_DESCRIPTORS is not JSON: it is set by the snapshotter only', {
      cause: err,
    })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw fault('CONFIG_INVALID', 'NYDUS_KEPT_DESCRIPTORS is no object of names and numbers: unset it')
  }
  for (const [name, fd] of Object.entries(parsed) as [string, unknown][]) {
    if (typeof fd !== 'number' || !Number.isInteger(fd) || getCloseOnExec(fd) === undefined) {
      throw fault('CONFIG_INVALID', `NYDUS_KEPT_DESCRIPTORS names ${name}, which is not open: unset it`)
    }
    setCloseOnExec(fd, true)
    kept.set(name, fd)
  }
  return kept
}
