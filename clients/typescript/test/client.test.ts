// Against the running service at BILLING_URL, and a listener with TLS and tokens at BILLING_TLS_URL; started by
// tests/acceptance/test_typescript_client.py, which says what the service answers to its own client.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";

import { toJson } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  createBillingClient,
  ErrorReason,
  GetEntitlementsResponseSchema,
  ListPlansResponseSchema,
  refusalOf,
  WatchEntitlementsResponse_Kind as Kind,
} from "billing-client";

const billing = createBillingClient({ baseUrl: setting("BILLING_URL"), token: setting("BILLING_TOKEN") });
after(() => billing.close());

function setting(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set`);
  return value;
}

async function raised(call: Promise<unknown>): Promise<ConnectError> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof ConnectError, String(error));
    return error;
  }
  return assert.fail("the call was answered");
}

test("the plans are those that the Python client reads, to the last field", async () => {
  assert.deepEqual(toJson(ListPlansResponseSchema, await billing.listPlans({})), JSON.parse(setting("EXPECTED_PLANS")));
});

test("a customer's entitlements are those that the Python client reads", async () => {
  const answer = await billing.getEntitlements({ customerId: setting("CUSTOMER_ID") });
  const { readTime, ...said } = toJson(GetEntitlementsResponseSchema, answer) as Record<string, unknown>;
  assert.equal(typeof readTime, "string");
  assert.deepEqual(said, JSON.parse(setting("EXPECTED_ENTITLEMENTS")));
});

test("numbers of 64 bits are bigint, and a value says its type", async () => {
  const check = await billing.checkEntitlement({ customerId: setting("CUSTOMER_ID"), featureKey: "projects" });
  assert.equal(check.value?.kind.case, "integerValue");
  assert.equal(typeof check.value.kind.value, "bigint");
});

test("a refusal has its code, its reason and its words", async () => {
  const request = {
    requestId: "typescript-1",
    customerId: setting("CUSTOMER_ID"),
    planKey: "no-such-plan",
    successUrl: "https://shop.example/thanks",
    cancelUrl: "https://shop.example/plans",
  };
  const refusal = refusalOf(await raised(billing.createCheckoutSession(request)));
  assert.ok(refusal);
  assert.equal(refusal.code, Code.NotFound);
  assert.equal(refusal.reason, ErrorReason.PLAN_NOT_FOUND);
  assert.equal(refusal.reasonName, "PLAN_NOT_FOUND");
  assert.notEqual(refusal.message, "");
});

test("fields that do not hold are named", async () => {
  const refusal = refusalOf(await raised(billing.getEntitlements({ customerId: "" })));
  assert.equal(refusal?.reason, ErrorReason.INVALID_FIELDS);
  assert.deepEqual(Object.keys(refusal.violations), ["customer_id"]);
});

test("a service that is not there is no refusal of its own", async () => {
  const nobody = createBillingClient({ baseUrl: "http://127.0.0.1:9", timeoutMs: 5_000 });
  const error = await raised(nobody.listPlans({}));
  nobody.close();
  assert.equal(error.code, Code.Unavailable);
  assert.equal(refusalOf(error), undefined);
  assert.equal(refusalOf(new Error("something else")), undefined);
});

test("a watch begins with a whole snapshot, and ends when its reader goes", { timeout: 30_000 }, async () => {
  const kinds: Kind[] = [];
  for await (const message of billing.watchEntitlements({ customerIds: [setting("CUSTOMER_ID")] })) {
    kinds.push(message.kind);
    if (message.kind === Kind.SNAPSHOT_END) break;
  }
  assert.equal(kinds[0], Kind.SNAPSHOT_BEGIN);
});

test("over mutual TLS it shows its token, asked for anew at each call, and its deadline", async () => {
  const tokens = ["first-token-of-the-test", "second-token-of-the-test"];
  const secure = createBillingClient({ ...mutual(), token: () => tokens.shift() ?? "none-is-left" });
  const answer = await secure.getEntitlements({ customerId: "ann" });
  await secure.getEntitlements({ customerId: "ann" }, { timeoutMs: 3_000 });
  const refusal = refusalOf(await raised(secure.getEntitlements({ customerId: "ann" })));
  secure.close();
  assert.equal(answer.revision, 7n);
  assert.equal(refusal?.reason, ErrorReason.UNAUTHENTICATED);
});

test("a server whose authority is not trusted is not talked to", async () => {
  const { tls, ...rest } = mutual();
  const secure = createBillingClient({ ...rest, tls: { cert: tls.cert, key: tls.key }, token: "first-token-of-the-test" });
  const error = await raised(secure.listPlans({}));
  secure.close();
  assert.equal(refusalOf(error), undefined);
  assert.match(error.message, /certificate/);
});

function mutual() {
  const folder = setting("BILLING_TLS_FOLDER");
  const [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map((name) => readFileSync(`${folder}/${name}`));
  assert.ok(ca && cert && key);
  return { baseUrl: setting("BILLING_TLS_URL"), tls: { ca, cert, key } };
}
