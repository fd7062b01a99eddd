import type { ImageSource, ImageStore, ImageTarget } from '../../oci/image-store.js'
import { openLayoutSource } from '../../oci/layout-source.js'
import { openLayoutTarget } from '../../oci/layout-target.js'
import type { Reference } from '../../oci/reference.js'
import { RegistryStore } from '../../oci/registry-store.js'
import { type RegistryAccess, openRegistry } from './registry-access.js'

/** How an image is reached. */
export interface StoreAccess extends Omit<RegistryAccess, 'domain'> {
  readonly reference: Reference
  /** Path of an OCI layout or an archive of one that stands for the registry. */
  readonly archive?: string | undefined
}

/** @throws FILE_* for an archive that cannot be read, REGISTRY_* when an insecure registry does not answer */
export async function openSource(access: StoreAccess): Promise<ImageSource> {
  return access.archive === undefined
    ? openRegistryStore(access)
    : openLayoutSource(access.archive, access.reference)
}

/** @throws the same */
export async function openTarget(access: StoreAccess): Promise<ImageTarget> {
  return access.archive === undefined
    ? openRegistryStore(access)
    : openLayoutTarget(access.archive, access.reference)
}

/** A repository of a registry. @throws REGISTRY_* when an insecure registry does not answer */
export async function openRegistryStore({ reference, ...access }: StoreAccess): Promise<ImageStore> {
  return new RegistryStore(await openRegistry({ ...access, domain: reference.domain }), reference)
}
