import { fault } from '../../common/fault.js'
import type { Platforms } from '../../image/convert/source-image.js'
import { hostPlatform } from '../../oci/platform.js'

/** The platforms that `--platform LIST` or `--all-platforms` name. @throws USAGE */
export function parsePlatforms(flags: { platform?: string; allPlatforms: boolean }): Platforms {
  if (flags.allPlatforms) return 'all'
  if (flags.platform === undefined) return [hostPlatform()]
  return flags.platform.split(',').map(word => {
    const [os = '', architecture = '', variant, ...more] = word.trim().split('/')
    if (os !== 'linux' || architecture === '' || variant === '' || more.length > 0)
      throw fault('USAGE', `--platform ${word} is none of linux/ARCH or linux/ARCH/VARIANT`)
    return { os, architecture, ...(variant === undefined ? {} : { variant }) }
  })
}
