import { durationMs } from "@bufbuild/protobuf/wkt";
import { type Code, ConnectError } from "@connectrpc/connect";

import { ErrorReason } from "./gen/billing/v1/error_reason_pb.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

const DOMAIN = "billing.v1";

/** What the service said about a call that it refused or could not carry out. */
export interface Refusal {
  readonly code: Code;
  readonly message: string;
  /** The reason; UNSPECIFIED for one that is newer than these stubs: go by the code then. */
  readonly reason: ErrorReason;
  /** The reason as it was sent. */
  readonly reasonName: string;
  /** What `ErrorReason`'s comments name for the reason. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Field of the request -> what does not hold. */
  readonly violations: Readonly<Record<string, string>>;
  /** When to come again, where the service says so. */
  readonly retryAfterMs: number | undefined;
}

/** Reads the service's own words from what a call raised; undefined where the service did not answer itself. */
export function refusalOf(error: unknown): Refusal | undefined {
  if (!(error instanceof ConnectError)) return undefined;
  const info = error.findDetails(ErrorInfoSchema)[0];
  if (info === undefined || info.domain !== DOMAIN) return undefined;
  const retry = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const broken = error.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations);
  return {
    code: error.code,
    message: error.rawMessage,
    reason: reasonOf(info.reason),
    reasonName: info.reason,
    metadata: info.metadata,
    violations: Object.fromEntries(broken.map((one) => [one.field, one.description])),
    retryAfterMs: retry === undefined ? undefined : durationMs(retry),
  };
}

function reasonOf(name: string): ErrorReason {
  const known: unknown = Object.hasOwn(ErrorReason, name) ? ErrorReason[name as keyof typeof ErrorReason] : undefined;
  return typeof known === "number" ? known : ErrorReason.UNSPECIFIED;
}
