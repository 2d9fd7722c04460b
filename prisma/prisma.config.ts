// How the Prisma CLI reaches the database: through node-postgres, so that it needs no engine binary.
import { PrismaPg } from '@prisma/adapter-pg'
import { type ClientConfig, parseIntoClientConfig } from 'pg-connection-string'
import { defineConfig } from 'prisma/config'

const databaseUrl = process.env.DATABASE_URL
// `prisma generate` and `prisma validate` use no database, but insist on an address.
process.env.DATABASE_URL ??= 'postgresql://localhost'

// What Prisma reads from an address and PostgreSQL does not know.
const PRISMA_PARAMETERS = ['schema', 'connection_limit', 'pgbouncer', 'pool_timeout', 'socket_timeout']

const [address, query] = (databaseUrl ?? process.env.DATABASE_URL).split('?')
const parameters = new URLSearchParams(query)
const schema = parameters.get('schema') ?? 'public'

// The job queue's tables are created by the history (from procrastinate's own schema) and otherwise left alone.
const QUEUE_TABLES = ['events', 'jobs', 'periodic_defers', 'workers'].map((name) => `${schema}.procrastinate_${name}`)
const QUEUE_ENUMS = ['job_event_type', 'job_status'].map((name) => `${schema}.procrastinate_${name}`)

// PostgreSQL's numbers for its types "char" and text, the adapter's for one letter.
const CHAR_OID = 18
const TEXT_OID = 25
const CHARACTER = 6

/** The adapter without three faults: each would stop `migrate deploy`, `migrate diff` or `migrate dev`. */
class Postgres extends PrismaPg {
  readonly client: ClientConfig

  constructor(client: ClientConfig) {
    super({ ...client, allowExitOnIdle: true }, { schema })
    this.client = client
  }

  override async connect() {
    const adapter = await super.connect()
    // It cuts scripts at semicolons, also inside functions and comments. PostgreSQL takes them whole, and runs
    // what arrives together as one transaction.
    adapter.executeScript = async (script) => {
      await adapter.underlyingDriver().query(script).catch((error: unknown) => adapter['onError'](error))
    }
    // It refuses the type "char", in which the catalogs keep their one-letter codes.
    const perform = adapter['performIO'].bind(adapter)
    const queryRaw = adapter.queryRaw.bind(adapter)
    let isLetter: boolean[] = []
    adapter['performIO'] = async (statement) => {
      const result = await perform(statement)
      const fields = result.fields ?? [] // a script of several statements has none
      isLetter = fields.map((field) => field.dataTypeID === CHAR_OID)
      fields.forEach((field, i) => (field.dataTypeID = isLetter[i] ? TEXT_OID : field.dataTypeID))
      return result
    }
    adapter.queryRaw = async (statement) => {
      const result = await queryRaw(statement)
      return { ...result, columnTypes: result.columnTypes.map((type, i) => (isLetter[i] ? CHARACTER : type)) }
    }
    return adapter
  }

  // It drops its shadow database while it is still connected to it.
  override async connectToShadowDb() {
    const server = await this.connect()
    const database = `prisma_migrate_shadow_db_${crypto.randomUUID()}`
    await server.executeScript(`CREATE DATABASE "${database}"`)
    const shadow = await new Postgres({ ...this.client, database }).connect()
    await shadow.executeScript(`CREATE SCHEMA IF NOT EXISTS ${quoted(schema)}`)
    const disconnect = shadow.dispose.bind(shadow)
    shadow.dispose = async () => {
      await disconnect()
      await server.executeScript(`DROP DATABASE "${database}"`)
      await server.dispose()
    }
    return shadow
  }
}

function quoted(name: string) {
  return `"${name.replaceAll('"', '""')}"`
}

function connectionFields(): ClientConfig {
  if (!databaseUrl) {
    throw new Error('Set DATABASE_URL to the address of a PostgreSQL database.')
  }
  PRISMA_PARAMETERS.forEach((name) => parameters.delete(name))
  // Fields, not an address: an address would win over the name of the shadow database.
  const client = parseIntoClientConfig(`${address}?${parameters}`)
  const searchPath = quoted(schema).replaceAll(/[\\ ]/g, '\\$&')
  return { ...client, options: `${client.options ?? ''} -c search_path=${searchPath}` }
}

export default defineConfig({
  schema: 'schema.prisma',
  migrations: { path: 'migrations' },
  engine: 'js',
  adapter: async () => new Postgres(connectionFields()),
  studio: { adapter: async () => new Postgres(connectionFields()) },
  experimental: { adapter: true, externalTables: true, studio: true },
  tables: { external: QUEUE_TABLES },
  enums: { external: QUEUE_ENUMS },
})
