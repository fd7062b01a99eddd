import t from 'tap'
import { StateMachine } from '../../../src/daemon/state.js'

t.test('the way up and down', async t => {
  const machine = new StateMachine()
  t.equal(machine.state, 'INIT')
  for (const [event, state] of [
    ['mount', 'READY'],
    ['start', 'RUNNING'],
    ['stop', 'READY'],
    ['start', 'RUNNING'],
    ['stop', 'READY'],
    ['exit', 'STOPPED'],
  ] as const) {
    await machine.apply(event)
    t.equal(machine.state, state, event)
  }
})

t.test('an event that does not fit is refused and its action does not run', async t => {
  const machine = new StateMachine()
  let ran = false
  const action = (): Promise<void> => {
    ran = true
    return Promise.resolve()
  }
  for (const event of ['start', 'exit'] as const) {
    await t.rejects(machine.apply(event, action), { code: 'DAEMON_STATE', message: /is INIT: it cannot/ })
  }
  await machine.apply('stop')
  for (const event of ['mount', 'start', 'stop', 'exit', 'takeover'] as const) {
    await t.rejects(machine.apply(event, action), { code: 'DAEMON_STATE', message: /STOPPED/ })
  }
  t.notOk(ran)
})

t.test('a transition whose action fails did not happen, and may be tried again', async t => {
  const machine = new StateMachine()
  await machine.apply('takeover')
  await t.rejects(
    machine.apply('start', () => Promise.reject(new Error('no device'))),
    /no device/,
  )
  t.equal(machine.state, 'READY')
  await machine.apply('start')
  t.equal(machine.state, 'RUNNING')
})

t.test('while one is under way no other begins', async t => {
  const machine = new StateMachine()
  await machine.apply('mount')
  let finish: () => void = () => undefined
  const first = machine.apply('start', () => new Promise(resolve => (finish = resolve)))
  await t.rejects(machine.apply('start'), { code: 'DAEMON_STATE', message: /changing its state/ })
  t.equal(machine.state, 'READY', 'the old state holds until the action is done')
  finish()
  await first
  t.equal(machine.state, 'RUNNING')
})
