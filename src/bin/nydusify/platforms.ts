import { Option } from 'commander'
import { fault } from '../../common/fault.js'
import type { Platforms } from '../../image/convert/source-image.js'
import { type WantedPlatform, hostPlatform } from '../../oci/platform.js'

export function platformOptions(): Option[] {
  return [
    new Option(
      '--platform <list>',
      "of an index: linux/ARCH, comma-separated; default: linux on this machine's architecture",
    ).conflicts('allPlatforms'),
    new Option('--all-platforms', 'all images of an index').default(false),
  ]
}

/** The platforms that `--platform LIST` or `--all-platforms` name. @throws USAGE */
export function parsePlatforms(flags: { platform?: string; allPlatforms: boolean }): Platforms {
  if (flags.allPlatforms) return 'all'
  if (flags.platform === undefined) return [hostPlatform()]
  return flags.platform.split(',').map(word => parsePlatform(word.trim()))
}

/** @throws USAGE */
export function parsePlatform(word: string): WantedPlatform {
  const [os = '', architecture = '', variant, ...more] = word.split('/')
  if (os !== 'linux' || architecture === '' || variant === '' || more.length > 0)
    throw fault('USAGE', `--platform ${word} is none of linux/ARCH or linux/ARCH/VARIANT`)
  return { os, architecture, ...(variant === undefined ? {} : { variant }) }
}
