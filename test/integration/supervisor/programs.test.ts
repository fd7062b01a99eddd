/** Programs of every day over a tree that is fetched while they read it, by FUSE, with every one a cold cache. */
import { execFile } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { runProgram } from '../../helpers/command-line.js'
import { scratch } from '../../helpers/scratch.js'
import { fuseMissing, fuseOptions, supervise } from '../../helpers/supervised.js'

const exec = promisify(execFile)
/** What a shell line prints, run in a directory. */
const sh = async (line: string, cwd = '/'): Promise<string> =>
  (await exec('sh', ['-c', line], { cwd, maxBuffer: 1 << 26 })).stdout

const SIZE = '8M'
const FIO = `--bs=4k --size=${SIZE} --verify=crc32c --output=/dev/null`

/** A tree with some of everything that these programs care about. */
async function makeTree(tree: string): Promise<void> {
  for (const name of ['package/deep', 'big', 'links']) mkdirSync(path.join(tree, name), { recursive: true })
  for (let index = 0; index < 300; index++) {
    const source = `"""Module ${index}."""\nVALUE = ${index}\n\ndef get():\n    return [VALUE] * ${index % 7}\n`
    writeFileSync(path.join(tree, index % 3 ? 'package' : 'package/deep', `module_${index}.py`), source)
  }
  const noise = Buffer.alloc(3_000_000)
  for (let at = 0; at < noise.length; at += 4) noise.writeUInt32LE(Math.imul(at, 2654435761) >>> 0, at)
  writeFileSync(path.join(tree, 'big/noise'), noise)
  writeFileSync(path.join(tree, 'big/sparse'), 'head')
  truncateSync(path.join(tree, 'big/sparse'), 6_000_000)
  writeFileSync(path.join(tree, 'big/sparse'), 'tail', { flag: 'r+' })
  symlinkSync('../big/noise', path.join(tree, 'links/noise'))
  const who = '-c user.name=somebody -c user.email=somebody@example.com'
  if ((await which('git')) !== '')
    await sh(`git init -q && git add package && git ${who} commit -qm one && git gc -q`, tree)
}

const programs: readonly {
  name: string
  needs: string
  run: (t: Test, tree: string, mount: string) => Promise<void>
}[] = [
  {
    name: 'find',
    needs: 'find',
    run: async (t, tree, mount) => {
      // A directory's size and links are its file system's business.
      const line =
        "find . -type d -printf '%p %m %U:%G %T@\\n' -o -printf '%p %y %m %U:%G %n %s %T@ %l\\n' | sort"
      t.equal(await sh(line, mount), await sh(line, tree))
      t.equal(
        await sh('find . -name "*_7.py" -exec grep -H VALUE {} +', mount),
        './package/module_7.py:VALUE = 7\n./package/module_7.py:    return [VALUE] * 0\n',
      )
    },
  },
  {
    name: 'tar',
    needs: 'tar',
    run: async (t, tree, mount) => {
      const line = 'tar --sort=name --format=posix --pax-option=delete=atime,delete=ctime -cf - . | sha256sum'
      t.equal(await sh(line, mount), await sh(line, tree))
    },
  },
  {
    name: 'rsync -c',
    needs: 'rsync',
    run: async (t, tree, mount) => {
      t.equal(await sh(`rsync -acin --delete ${mount}/ ${tree}/`), '', 'nothing is to be copied')
    },
  },
  {
    name: 'git',
    needs: 'git',
    run: async (t, _tree, mount) => {
      const git = `git --no-optional-locks -c safe.directory='*'`
      t.equal(await sh(`${git} status --porcelain -- package`, mount), '')
      t.equal(await sh(`${git} fsck --no-dangling 2>&1`, mount), '')
      t.equal((await sh(`${git} ls-files package`, mount)).split('\n').length, 301)
    },
  },
  {
    name: 'python3 -m compileall',
    needs: 'python3',
    run: async (t, _tree, mount) => {
      const made = mkdtempSync(path.join(tmpdir(), 'pycache-'))
      try {
        await sh(`PYTHONPYCACHEPREFIX=${made} python3 -m compileall -q -j 4 package`, mount)
        const compiled = readdirSync(made, { recursive: true, encoding: 'utf8' })
        t.equal(compiled.filter(name => name.endsWith('.pyc')).length, 300)
      } finally {
        rmSync(made, { recursive: true })
      }
    },
  },
  {
    name: 'a reader through mmap',
    needs: 'python3',
    run: async (t, tree, mount) => {
      const script =
        'import hashlib, mmap\n' +
        'with open("big/noise", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:\n' +
        '  last = (len(m) - 1) // 4096 * 4096\n' +
        '  print(len(m), sum(m[at] for at in range(last, -1, -4096 * 7)), hashlib.sha256(m).hexdigest())'
      const run = (cwd: string) => exec('python3', ['-c', script], { cwd })
      t.equal((await run(mount)).stdout, (await run(tree)).stdout)
    },
  },
  {
    name: 'cp --sparse',
    needs: 'cp',
    run: async (t, tree, mount) => {
      const made = mkdtempSync(path.join(tmpdir(), 'sparse-'))
      try {
        for (const how of ['always', 'auto', 'never']) {
          await sh(`cp --sparse=${how} ${mount}/big/sparse ${made}/${how}`)
          t.ok(readFileSync(`${made}/${how}`).equals(readFileSync(`${tree}/big/sparse`)), how)
        }
      } finally {
        rmSync(made, { recursive: true })
      }
    },
  },
  {
    name: '64 readers of fio --verify',
    needs: 'fio',
    run: async (t, _tree, mount) => {
      const line = `fio --readonly --name=verify --filename=${mount}/big/fio --rw=randread --numjobs=64 ${FIO}`
      await t.resolves(sh(line), 'every block that any of them read has its checksum')
    },
  },
]

t.setTimeout(600_000)

t.test('programs over a lazily read tree', { skip: fuseMissing }, async t => {
  const directory = scratch(t)
  // Below the root, whose own times an image does not keep.
  const source = path.join(directory, 'source')
  const tree = path.join(source, 'tree')
  mkdirSync(tree, { recursive: true })
  await makeTree(tree)
  const hasFio = (await which('fio')) !== ''
  if (hasFio) await sh(`fio --name=write --filename=${tree}/big/fio --rw=write --do_verify=0 ${FIO}`)
  const blobs = path.join(directory, 'blobs')
  mkdirSync(blobs)
  for (const version of ['6', '5']) {
    const bootstrapPath = path.join(directory, `boot-${version}`)
    const create = [
      'create',
      '--fs-version',
      version,
      '--bootstrap',
      bootstrapPath,
      '--blob-dir',
      blobs,
      source,
    ]
    const created = await runProgram(t, 'nydus-image', create)
    t.equal(created.code, 0, created.stderr)
    for (const { name, needs, run } of programs) {
      const skip = (await which(needs)) === '' ? `${needs} is not installed` : false
      await t.test(`${name}, RAFS v${version}`, { skip }, async t => {
        const own = scratch(t)
        const backend = { type: 'localfs', config: { dir: blobs } }
        const node = await supervise(t, own, backend, { driver: 'fuse', fuse: fuseOptions(own) })
        const { mountpoint } = await node.supervisor.mount({
          id: '1',
          imageRef: 'test/programs',
          bootstrapPath,
          mountpoint: path.join(own, 'mnt'),
          labels: {},
        })
        await run(t, tree, path.join(mountpoint, 'tree'))
      })
    }
  }
})

async function which(program: string): Promise<string> {
  return (await sh(`command -v ${program} || true`)).trim()
}
