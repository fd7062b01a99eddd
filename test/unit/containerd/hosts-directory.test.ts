import t from 'tap'
import { readHostsDirectory } from '../../../src/containerd/hosts-directory.js'

t.test('a domain without a file is asked itself', t => {
  const directory = t.testdir({})
  t.strictSame(readHostsDirectory(directory, 'a.example:5000', 'a.example:5000'), [
    { host: 'a.example:5000', tls: {}, headers: {} },
  ])
  t.strictSame(readHostsDirectory(`${directory}/none`, 'a.example', 'a.example').length, 1)
  t.end()
})

t.test('mirrors in their order, then the server, with whom to trust', t => {
  const directory = t.testdir({
    'a.example': {
      'hosts.toml': `
server = "https://origin.example"
ca = ["/etc/ca.pem"]
[host."http://mirror.example:8080"]
  capabilities = ["pull", "resolve"]
  [host."http://mirror.example:8080".header]
    x-tenant = "blue"
[host."https://pull-only.example"]
  capabilities = ["pull"]
[host."second.example"]
  skip_verify = true
  ca = "ca.pem"
  client = [["client.pem", "client.key"]]
`,
    },
  })
  t.strictSame(readHostsDirectory(directory, 'a.example', 'a.example'), [
    { host: 'mirror.example:8080', scheme: 'http', tls: {}, headers: { 'x-tenant': 'blue' } },
    {
      host: 'second.example',
      tls: {
        caFiles: [`${directory}/a.example/ca.pem`],
        skipVerify: true,
        certFile: `${directory}/a.example/client.pem`,
        keyFile: `${directory}/a.example/client.key`,
      },
      headers: {},
    },
    { host: 'origin.example', scheme: 'https', tls: { caFiles: ['/etc/ca.pem'] }, headers: {} },
  ])
  t.end()
})

t.test('names with a port, the default, and the order of looking', t => {
  const file = (server: string) => ({ 'hosts.toml': `server = "https://${server}"\n` })
  const directory = t.testdir({ a_5000_: file('with.port'), a: file('bare'), _default: file('default') })
  const asked = (domain: string) => readHostsDirectory(directory, domain, domain).at(-1)?.host
  t.equal(asked('a:5000'), 'with.port')
  t.equal(asked('a'), 'bare')
  t.equal(asked('b'), 'default')
  t.end()
})

t.test("docker's layout of certificates", t => {
  const directory = t.testdir({ a: { 'ca.crt': '', 'client.cert': '', 'client.key': '', 'lone.cert': '' } })
  t.strictSame(readHostsDirectory(directory, 'a', 'a')[0]?.tls, {
    caFiles: [`${directory}/a/ca.crt`],
    certFile: `${directory}/a/client.cert`,
    keyFile: `${directory}/a/client.key`,
  })
  t.end()
})

t.test('what is wrong is named with file and key', t => {
  const broken = (text: string) => {
    const directory = t.testdir({ a: { 'hosts.toml': text } })
    return () => readHostsDirectory(directory, 'a', 'a')
  }
  t.throws(broken('server = '), { code: 'CONFIG_INVALID', message: /hosts\.toml/ })
  t.throws(broken('server = 5'), { code: 'CONFIG_INVALID', message: /hosts\.toml: server must be text/ })
  t.throws(broken('[host."ftp://x"]'), { code: 'CONFIG_INVALID', message: /ftp:\/\/x is no http/ })
  t.throws(broken('[host."https://x/proxy"]'), { code: 'CONFIG_INVALID', message: /has a path/ })
  t.throws(broken('[host."https://x"]\nskip_verify = "yes"'), {
    code: 'CONFIG_INVALID',
    message: /host\.https:\/\/x\.skip_verify must be true or false/,
  })
  t.end()
})
