import type * as http2 from "node:http2";

import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { BillingService } from "./gen/billing/v1/billing_service_pb.js";

const MAX_MESSAGE_BYTES = 4 * 1024 * 1024; // as the contract says
const DEFAULT_TIMEOUT_MS = 10_000;
// Also while nobody calls, so that nothing on the way forgets the connection; the service takes one every 10 s at most. One that was
// forgotten is given up while a call that finds it so may still be made on another one: well before the default deadline.
const PINGS = { pingIntervalMs: 20_000, pingTimeoutMs: 5_000, pingIdleConnection: true };

/**
 * Node ends a process in which an error of a connection is heard by nobody. The manager stops to listen when it leaves a connection,
 * which may be between its giving that up (a ping was not answered) and Node's telling of it, if a call is made in that moment.
 */
class QuietSessions extends Http2SessionManager {
  readonly #heard = new WeakSet<http2.Http2Session>();

  override async request(...call: Parameters<Http2SessionManager["request"]>): Promise<http2.ClientHttp2Stream> {
    const stream = await super.request(...call);
    if (stream.session !== undefined && !this.#heard.has(stream.session)) {
      this.#heard.add(stream.session);
      stream.session.on("error", () => undefined); // whoever called is told by the call
    }
    return stream;
  }
}

/** Where the service is, and how it is talked to. */
export interface BillingOptions {
  /** "http://host:port" for loopback and meshes that encrypt by themselves, "https://host:port" for TLS. */
  readonly baseUrl: string;
  /** Shown with each call. A function is asked at each call, so that a token can be replaced. */
  readonly token?: string | (() => string | Promise<string>) | undefined;
  /** The deadline of a call that says none, in milliseconds. A watch has none. */
  readonly timeoutMs?: number;
  /** Node's own TLS options: `ca`, and `cert` and `key` for mutual TLS. */
  readonly tls?: Pick<http2.SecureClientSessionOptions, "ca" | "cert" | "key" | "servername">;
}

/** Every method of the contract. Make one for a process and share it: calls share its connection. */
export type BillingClient = Client<typeof BillingService> & {
  /** Ends the connection; calls in flight fail. */
  close(): void;
};

/** Makes a client; it connects at the first call. Calls fail with a ConnectError, which `refusalOf` reads. */
export function createBillingClient(options: BillingOptions): BillingClient {
  const sessionManager = new QuietSessions(options.baseUrl, PINGS, options.tls);
  const transport = createGrpcTransport({
    baseUrl: options.baseUrl,
    sessionManager,
    interceptors: options.token === undefined ? [] : [showToken(options.token)],
    readMaxBytes: MAX_MESSAGE_BYTES,
    writeMaxBytes: MAX_MESSAGE_BYTES,
  });
  const client = createClient(BillingService, withDeadline(transport, options.timeoutMs ?? DEFAULT_TIMEOUT_MS));
  return Object.assign(client, { close: () => sessionManager.abort() });
}

function showToken(token: NonNullable<BillingOptions["token"]>): Interceptor {
  return (next) => async (request) => {
    request.header.set("authorization", `Bearer ${typeof token === "string" ? token : await token()}`);
    return next(request);
  };
}

/** The transport's own default would end watches too, which have no end. */
function withDeadline(transport: Transport, timeoutMs: number): Transport {
  return {
    unary: (method, signal, ownTimeoutMs, ...rest) =>
      transport.unary(method, signal, ownTimeoutMs ?? timeoutMs, ...rest),
    stream: (...call) => transport.stream(...call),
  };
}
