import t from 'tap'
import { silentLogger } from '../../../src/common/log.js'
import { MetricsServer } from '../../../src/snapshotter/metrics-server.js'
import { countDriver, countFallback, countImages } from '../../../src/supervisor/metrics.js'

t.test('metrics are served at both paths', async t => {
  const server = await MetricsServer.listen({ host: '127.0.0.1', port: 0 }, silentLogger)
  t.teardown(() => server.close())
  const get = (path: string, method = 'GET'): Promise<Response> =>
    fetch(`http://127.0.0.1:${server.port}${path}`, { method })
  countDriver('kernel', 'fanotify')
  countDriver('kernel', 'fuse')
  countFallback('kernel', 'rafs-v5')
  const image = { id: '1', imageRef: 'a', bootstrapPath: '/b', mountpoint: '/m', labels: {} }
  countImages([
    { ...image, driver: 'fuse' },
    { ...image, driver: 'erofs' },
    { ...image, driver: 'fuse' },
  ])
  for (const path of ['/v1/metrics', '/metrics']) {
    const response = await get(path)
    t.equal(response.status, 200)
    t.match(response.headers.get('content-type'), /^text\/plain/)
    const lines = (await response.text()).split('\n')
    for (const line of [
      'nydus_snapshotter_driver_info{driver="fuse",requested="kernel"} 1',
      'nydus_snapshotter_fallback_images_total{requested="kernel",reason="rafs-v5"} 1',
      'nydus_snapshotter_mounted_images{driver="fuse"} 2',
      'nydus_snapshotter_mounted_images{driver="erofs"} 1',
    ])
      t.ok(lines.includes(line), line)
    t.notOk(
      lines.some(line => line.includes('"fanotify"')),
      'what no longer holds is gone',
    )
  }
  t.equal((await get('/')).status, 404)
  t.equal((await get('/metrics', 'POST')).status, 405)
  await t.rejects(MetricsServer.listen({ host: '127.0.0.1', port: server.port }, silentLogger), {
    code: 'ADDRESS_IN_USE',
  })
})
