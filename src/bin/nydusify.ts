#!/usr/bin/env node
import { keepYoungSpaceSmall } from '../common/garbage.js'
import { run } from './run.js'

// Loading the modules would let it grow already.
keepYoungSpaceSmall()
run('nydusify', async argv => {
  const { nydusify } = await import('./nydusify/program.js')
  await nydusify(argv)
})
