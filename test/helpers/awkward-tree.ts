/** Directories full of what image builders get wrong. Made and described by python, whose calls take bytes for names. */
import { execFileSync } from 'node:child_process'
import type { ExpectedEntry } from './rafs-fixtures.js'

const MAKE = String.raw`
import os, random, socket, sys
os.chdir(sys.argv[1])
data = random.Random(1).randbytes
words = lambda seed, n: b' '.join(random.Random(seed).choices([b'lazy', b'chunk', b'blob', b'layer', b'image'], k=n // 5))[:n]
def put(name, content=b'', mode=0o644):
    with open(name, 'wb') as f: f.write(content)
    os.chmod(name, mode)
for size in (0, 1, 7, 15, 16, 17, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1):
    put('random-%d' % size, data(size))
put('zeros', bytes(2500000)); put('zeros-17', bytes(17)); put('zeros-18', bytes(18)); put('zeros-19', bytes(19))
put('text', words(2, 300000))
put('copy-of-text', words(2, 300000))
os.mkdir('small'); [put('small/%03d' % i, words(i, 200 + 37 * i)) for i in range(150)]
put('small/tiny-a', b'a'); put('small/tiny-b', b'bb')
with open('sparse', 'wb') as f: f.seek(1500000); f.write(b'end')
os.makedirs('deep/' + '/'.join('d%d' % i for i in range(40)))
os.mkdir('many'); [put('many/file-%04d' % i) for i in range(700)]
put(b'odd-\xff\xfe', b'not UTF-8'); put('!before-dot', b'!'); put('new\nline', b'x'); put('n' * 255, b'long')
put('setuid', b's', 0o4755); put('none', b'n', 0)
os.mkdir('sticky', ); os.chmod('sticky', 0o1777)
os.symlink('text', 'link'); os.symlink('l' * 4000, 'long-link'); os.symlink('loop', 'loop')
os.link('text', 'deep/other-text'); os.link('text', 'zz-text'); os.link('link', 'linked-link', follow_symlinks=False)
os.mkfifo('fifo', 0o600); os.mknod('null', 0o20666, os.makedev(1, 3)); os.mknod('block', 0o60660, os.makedev(259, 70000))
os.link('fifo', 'deep/fifo')
s = socket.socket(socket.AF_UNIX); s.bind('socket'); s.close()
os.chown('text', 12345, 4294967294); os.chown('link', 7, 8, follow_symlinks=False)
os.setxattr('text', 'user.empty', b''); os.setxattr('text', 'user.binary', bytes(range(256)))
os.setxattr('text', 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))
os.setxattr('small', 'trusted.note', b'x' * 3000); os.setxattr('link', 'trusted.of-link', b'1', follow_symlinks=False)
times = [0, 1, -1, -1.5, -2**31, 2**31, 2**32, 16000000000, 1700000000.123456789]
for i, when in enumerate(times):
    put('time-%d' % i)
    os.utime('time-%d' % i, ns=(0, int(when * 10**9)))
for at, directories, files in os.walk('.', topdown=False):
    for name in directories + files:
        if not name.startswith('time-'): os.utime(os.path.join(at, name), ns=(0, 1600000000 * 10**9 + 5), follow_symlinks=False)
`

const DESCRIBE = String.raw`
import hashlib, json, os, stat, sys
root = os.fsencode(sys.argv[1])
def describe(path):
    s = os.lstat(path); m = s.st_mode
    kind = {stat.S_IFREG: 'f', stat.S_IFDIR: 'd', stat.S_IFLNK: 'l', stat.S_IFCHR: 'c', stat.S_IFBLK: 'b', stat.S_IFIFO: 'p', stat.S_IFSOCK: 's'}[stat.S_IFMT(m)]
    e = {'path_hex': path[len(root) + 1:].hex(), 'type': kind, 'mode': '%04o' % stat.S_IMODE(m), 'uid': s.st_uid, 'gid': s.st_gid,
         'mtime': s.st_mtime_ns // 10**9, 'mtime_nsec': s.st_mtime_ns % 10**9}
    if kind == 'f':
        with open(path, 'rb') as f: e.update(size=s.st_size, nlink=s.st_nlink, sha256=hashlib.file_digest(f, 'sha256').hexdigest())
    if kind == 'l': e['target'] = os.readlink(path).decode()
    if kind in 'cb': e['rdev'] = [os.major(s.st_rdev), os.minor(s.st_rdev)]
    x = {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in os.listxattr(path, follow_symlinks=False)}
    if x: e['xattrs'] = x
    return e
out = []
for at, directories, files in os.walk(root):
    out += [describe(os.path.join(at, name)) for name in directories + files]
json.dump(sorted(out, key=lambda e: e['path_hex']), sys.stdout)
`

export type DescribedEntry = ExpectedEntry & { mtime_nsec?: number }

/** Fills the directory: needs root. About 5 MiB, 1,000 names. */
export function makeAwkwardTree(directory: string): void {
  execFileSync('python3', ['-c', MAKE, directory], { stdio: ['ignore', 'inherit', 'inherit'] })
}

/** Every entry below the directory, by path, with all that an image holds of it. */
export function describeTree(directory: string): DescribedEntry[] {
  const json = execFileSync('python3', ['-c', DESCRIBE, directory], { maxBuffer: 1 << 28 })
  return JSON.parse(json.toString()) as DescribedEntry[]
}
