// Its parts by name: the package as a whole loads what measures a Node process, 6 MiB that a daemon keeps.
import Registry from 'prom-client/lib/registry.js'

/**
 * The metrics of this process. Each part registers its own once, at module level, so that opening a part twice (as
 * tests do) never registers a name twice; no label ever carries an id of a blob, a path or a URL.
 */
export const metrics = new Registry()
