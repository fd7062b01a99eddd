import { fault } from '../common/fault.js'
import type { DaemonState } from '../client/api.js'

type Event = 'mount' | 'start' | 'stop' | 'exit' | 'takeover'

/** Upstream's state machine (nydusd 2.x): what may follow what. */
const TRANSITIONS: Record<DaemonState, Partial<Record<Event, DaemonState>>> = {
  INIT: { mount: 'READY', takeover: 'READY', stop: 'STOPPED' },
  READY: { start: 'RUNNING', stop: 'STOPPED', exit: 'STOPPED' },
  RUNNING: { stop: 'READY' },
  STOPPED: {},
  UNKNOWN: {},
}

/** The daemon's state; a transition takes effect only when its action succeeded, and one is made at a time. */
export class StateMachine {
  #state: DaemonState = 'INIT'
  #changing = false

  get state(): DaemonState {
    return this.#state
  }

  /** @throws DAEMON_STATE when the event does not fit the state */
  async apply(event: Event, action: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    const next = TRANSITIONS[this.#state][event]
    if (next === undefined) {
      throw fault('DAEMON_STATE', `the daemon is ${this.#state}: it cannot ${event} now`)
    }
    if (this.#changing)
      throw fault('DAEMON_STATE', `the daemon is changing its state: it cannot ${event} now`)
    this.#changing = true
    try {
      await action()
      this.#state = next
    } finally {
      this.#changing = false
    }
  }
}
