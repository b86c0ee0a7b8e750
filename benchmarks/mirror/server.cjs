// The peer: @supabase/stripe-sync-engine's processWebhook behind a bare HTTP server, as its README shows it.
// It verifies the signature and mirrors the object's row; it neither deduplicates nor knows entitlements.
// CommonJS, because the migrations of its other build look for a `__dirname` that is not there.
const http = require('node:http')
const { StripeSync, runMigrations } = require('@supabase/stripe-sync-engine')

const { DATABASE_URL, WEBHOOK_SECRET, PORT, POOL } = process.env
const fail = (error, words) => {
  console.error(words, error)
  process.exit(1)
}
const sync = new StripeSync({
  schema: 'stripe',
  stripeSecretKey: 'sk_test_mirror',
  stripeWebhookSecret: WEBHOOK_SECRET,
  poolConfig: { connectionString: DATABASE_URL, max: Number(POOL), keepAlive: true },
  backfillRelatedEntities: false,
  autoExpandLists: false,
})
// For each completed session it asks Stripe for the line items. Answered here and at once, with none, in the peer's favour.
sync.stripe.checkout.sessions.listLineItems = async function* () {}

const server = http.createServer((request, response) => {
  if (request.method !== 'POST') return response.writeHead(200).end('{"ready":true}')
  const chunks = []
  request.on('data', (chunk) => chunks.push(chunk))
  request.on('end', async () => {
    try {
      await sync.processWebhook(Buffer.concat(chunks), request.headers['stripe-signature'])
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"received":true}')
    } catch (error) {
      console.error(error.message)
      response.writeHead(500).end('{}')
    }
  })
})
const logger = { info() {}, error: fail }
runMigrations({ databaseUrl: DATABASE_URL, schema: 'stripe', logger }).then(() => server.listen(Number(PORT), '127.0.0.1'))
process.on('SIGTERM', () => process.exit(0))
