/** The typed client of the billing service: the contract's messages, a client over gRPC, and its errors. */
export { Code, ConnectError } from "@connectrpc/connect";

export { type BillingClient, type BillingOptions, createBillingClient } from "./client.js";
export * from "./gen/billing/v1/billing_service_pb.js";
export * from "./gen/billing/v1/checkout_pb.js";
export * from "./gen/billing/v1/entitlement_pb.js";
export * from "./gen/billing/v1/error_reason_pb.js";
export * from "./gen/billing/v1/plan_pb.js";
export * from "./gen/billing/v1/subscription_pb.js";
export * from "./gen/billing/v1/watch_pb.js";
export { type Refusal, refusalOf } from "./refusal.js";
