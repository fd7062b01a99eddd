import { constants } from 'node:os'
import t from 'tap'
import { isFault } from '../../../src/common/fault.js'
import { errnoName, errnoNumber, errnoText, syscallFault } from '../../../src/native/errno.js'

t.throws(() => errnoNumber('ENOSUCHERROR'), { code: 'USAGE' }, 'an unknown name')
t.throws(() => errnoNumber('constructor'), { code: 'USAGE' }, 'a name that objects have by themselves')
t.equal(errnoName(4000), 'E4000', 'a number without a name keeps the number')
t.equal(errnoText(4000), 'unknown error')

t.test('every name of the system', async t => {
  for (const [name, number] of Object.entries(constants.errno)) {
    t.equal(errnoNumber(name), number, name)
    t.equal(errnoNumber(errnoName(number)), number, `${number} there and back`)
  }
})

t.test('names that mounts give and Node lacks', async t => {
  t.equal(errnoName(15), 'ENOTBLK')
  t.equal(errnoName(117), 'EUCLEAN')
  t.equal(errnoName(11), 'EAGAIN', 'not EWOULDBLOCK')
  t.equal(errnoName(95), 'EOPNOTSUPP', 'not ENOTSUP')
  t.match(errnoText(117), /damaged/)
})

t.test('a fault names call, errno and meaning', async t => {
  const failure = syscallFault('umount2', 16, 'of /mnt/x')
  t.ok(isFault(failure, 'SYSCALL_FAILED'))
  t.equal(failure.message, 'umount2 of /mnt/x: EBUSY, resource busy or locked')
  t.strictSame(failure.context, { errno: 'EBUSY', errnoNumber: 16, call: 'umount2' })
})
