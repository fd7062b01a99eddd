import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'

/** Reason to skip what needs a supervisor of upstream's protocol; false where there is one. */
export const pythonMissing =
  spawnSync('python3', ['-V']).status === 0 ? false : 'needs python3 as the supervisor'

/** What upstream's supervisors do: they listen, keep one message with its descriptors, and give it to the next who asks. */
const HOLDER = `
import array, os, socket, sys
name, state, fds = sys.argv[1], b'', []
def listen():
    if os.path.exists(name): os.unlink(name)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.bind(name)
    s.listen(1)
    print('listening', flush=True)
    return s
for line in sys.stdin:
    word = line.strip()
    if word == 'receive':
        with listen() as s:
            c, _ = s.accept()
            for fd in fds: os.close(fd)
            state, fds = b'', []
            while True:
                part, came, _, _ = socket.recv_fds(c, 32768, 16)
                fds += came
                if not part: break
                state += part
            c.close()
        print(len(state), len(fds), state[:200].hex(), flush=True)
    elif word == 'give':
        with listen() as s:
            c, _ = s.accept()
            sent = socket.send_fds(c, [state], fds)
            c.sendall(state[sent:])
            c.close()
        print('given', flush=True)
    elif word.startswith('put '):
        state = bytes.fromhex(word[4:])
        print('put', flush=True)
    elif word.startswith('open '):
        fds = [os.open(path, os.O_RDONLY) for path in word.split()[1:]]
        print('opened', flush=True)
`

export interface StateHolder {
  readonly socketPath: string
  /** Listens, runs `send`, and says what came. `head`: the first 200 bytes. */
  receive(send: () => Promise<unknown>): Promise<{ sizeBytes: number; descriptors: number; head: Buffer }>
  /** Listens, and gives what it holds to who connects while `take` runs. */
  give<T>(take: () => Promise<T>): Promise<T>
  /** Holds these bytes from now on. */
  put(state: Uint8Array): Promise<void>
  /** Holds descriptors of these files from now on. */
  open(...paths: string[]): Promise<void>
}

/** Starts a supervisor, which ends with the test. */
export function startStateHolder(t: Pick<Test, 'teardown'>, socketPath: string): StateHolder {
  const child = spawn('python3', ['-c', HOLDER, socketPath], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const lines = createInterface(child.stdout)
  const answer = async (): Promise<string> => ((await once(lines, 'line')) as [string])[0]
  const ask = async (word: string): Promise<string> => {
    const line = answer()
    child.stdin.write(`${word}\n`)
    return line
  }
  return {
    socketPath,
    receive: async send => {
      await ask('receive')
      const [said] = await Promise.all([answer(), send()])
      const [size, descriptors, head = ''] = said.split(' ')
      return { sizeBytes: Number(size), descriptors: Number(descriptors), head: Buffer.from(head, 'hex') }
    },
    give: async take => {
      await ask('give')
      const given = answer()
      const taken = await take()
      await given
      return taken
    },
    put: async state => void (await ask(`put ${Buffer.from(state).toString('hex')}`)),
    open: async (...paths) => void (await ask(`open ${paths.join(' ')}`)),
  }
}
