/** `nydusctl doctor`: what is wrong on this node, and what to do about it. */
import type { Command } from 'commander'
import type { DoctorReport } from '../../client/system-client.js'
import { bytesText } from './show.js'
import { withSystem } from './system.js'

interface DoctorFlags {
  remove?: string
  raw: boolean
  json: boolean
}

/** Something was found: not an error of the command. */
const FINDINGS_EXIT = 1

export function addDoctor(command: Command): void {
  command
    .command('doctor')
    .description('what is damaged on this node and what to do; exit code 0: nothing, 1: see what is printed')
    .option('--remove <id>', 'forget the damaged snapshot damaged/<id>, whose name cannot be read')
    .action(doctor)
}

async function doctor(_flags: unknown, self: Command): Promise<void> {
  const { remove, raw, json } = self.optsWithGlobals<DoctorFlags>()
  if (remove !== undefined) {
    await withSystem(self, client => client.delete(`/api/v1/doctor/damaged/${encodeURIComponent(remove)}`))
    return
  }
  const answer = await withSystem(self, client => client.getText('/api/v1/doctor'))
  const report = JSON.parse(answer) as DoctorReport
  if (raw) process.stdout.write(`${answer}\n`)
  else process.stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : reportText(report))
  if (report.findings.length > 0) process.exitCode = FINDINGS_EXIT
}

function reportText(report: DoctorReport): string {
  const { findings, snapshots, images, driver, daemons } = report
  const facts = [
    `snapshots: ${snapshots}, images mounted: ${images}, driver: ${driver === '' ? 'none yet' : driver}`,
    ...daemons.map(
      ({ id, pid, deaths }) =>
        `daemon ${id}: ${pid === 0 ? 'does not run' : `process ${pid}`}, ${deaths} deaths seen`,
    ),
    `cache: ${report.cache_directory}, ${bytesText(report.cache_free_bytes)} free`,
  ]
  const found = findings.map(
    ({ area, subject, problem, next }) => `${area} ${subject}: ${problem}\n  -> ${next}`,
  )
  return [...facts, ...(found.length > 0 ? found : ['nothing is wrong']), ''].join('\n')
}
