import tseslint from 'typescript-eslint'

/**
 * The layer table of docs/design/architecture.md. For each folder of src/: what it may import, and why nothing else.
 * The names are folders of src/; a folder may always import itself, node builtins and packages not banned below.
 */
const layers = {
  common: [[], 'common is the bottom: it imports nothing of ours'],
  native: [['common'], 'the native boundary knows syscalls, not the product'],
  erofs: [['common'], 'codecs are pure and fuzzed: bytes in, bytes out'],
  oci: [['common'], 'registry protocol knows nothing of formats or caches'],
  backend: [['common', 'oci'], 'a backend yields stored bytes and knows nothing of what they mean'],
  cache: [['common', 'backend', 'erofs', 'native'], 'the cache knows layouts and backends, never who asks'],
  fscache: [
    ['common', 'cache', 'erofs', 'native'],
    'a driver turns kernel questions into ensure() and nothing more',
  ],
  fanotify: [
    ['common', 'cache', 'erofs', 'native'],
    'a driver turns kernel questions into ensure() and nothing more',
  ],
  fuse: [
    ['common', 'cache', 'erofs', 'native'],
    'the file system server knows images and cached blobs, never where they come from',
  ],
  image: [['common', 'erofs', 'oci', 'backend'], 'image tools run where there is no kernel support'],
  containerd: [['common', 'oci'], 'a client of containerd: what it pulls is the snapshotter’s business'],
  client: [['common'], 'the API client is shared by processes that share nothing else'],
  daemon: [
    ['common', 'client', 'native', 'erofs', 'oci', 'backend', 'cache', 'fscache', 'fanotify', 'fuse'],
    'the daemon is a process of its own: it shares client/ with the snapshotter, never memory',
  ],
  supervisor: [
    ['common', 'client', 'native', 'erofs'],
    'the supervisor keeps descriptors and mounts; it serves no byte',
  ],
  snapshotter: [
    ['common', 'client', 'oci', 'erofs', 'native', 'supervisor'],
    'the snapshotter talks to the daemon through the supervisor only',
  ],
}
const folders = Object.keys(layers)

const layerRules = folders.map(folder => {
  const [allowed, why] = layers[folder]
  const banned = folders.filter(f => f !== folder && !allowed.includes(f))
  return {
    files: [`src/${folder}/**/*.ts`],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            { group: [...banned, 'bin'].map(f => `**/${f}/**`), message: `layer table: ${why}` },
            ...(folder === 'native'
              ? []
              : [
                  {
                    group: ['ffi-napi', 'ref-napi'],
                    message: 'only src/native may import the FFI: one place to replace it',
                  },
                ]),
            ...(folder === 'erofs'
              ? [
                  {
                    group: ['node:fs', 'node:fs/*', 'node:net', 'node:http', 'undici'],
                    message: 'erofs does no I/O: bytes come in through ByteSource, so that it can be fuzzed',
                  },
                ]
              : []),
          ],
        },
      ],
    },
  }
})

export default tseslint.config(
  { ignores: ['dist/**', 'node_modules/**', '.tap/**', '**/*.js', '**/*.cjs', '**/*.mjs'] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { project: './tsconfig.json', tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      'no-restricted-properties': [
        'error',
        {
          object: 'process',
          property: 'exit',
          message: 'set process.exitCode and close what you opened; bin/run.ts ends the process',
        },
      ],
    },
  },
  {
    files: ['src/native/**/*.ts', 'test/**/*.ts', 'bench/**/*.ts'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  {
    files: ['test/**/*.ts', 'bench/**/*.ts'],
    rules: { '@typescript-eslint/no-floating-promises': 'off', '@typescript-eslint/require-await': 'off' },
  },
  ...layerRules,
)
