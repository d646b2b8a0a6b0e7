/** One request that came. */
export interface HubRequest {
  /** `create`, `info`, `remove`, `paths-info`, `tree`, `batch`, `read-token`, `write-token`, `resolve`, `dedup`, `grant`, `xorb`, `shard`, `reconstruction`, `xorb-bytes`. */
  readonly kind: string;
  readonly method: string;
  /** As it came, not decoded. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string | undefined>>;
}

/** What becomes of an answer. */
export interface HubFault {
  /** In place of what the server would answer; with a status of 400 or more nothing is done. */
  readonly answer?: { status?: number; headers?: Record<string, string>; body?: Buffer };
  /** Changes the body; its true length is announced. */
  readonly rewrite?: (body: Buffer) => Uint8Array;
  /** Only so many bytes of the announced body are sent. */
  readonly sendBytes?: number;
  /** After them: the connection is reset, ends, or stays open for nothing. */
  readonly ending?: "reset" | "end";
  /** Never answers. */
  readonly stall?: boolean;
}

/** A file in a bucket. */
export interface HubFile {
  readonly size: number;
  readonly xetHash: string;
  readonly uploadedAt: string;
}

/** A running server. */
export interface Hub {
  readonly url: string;
  readonly port: number;
  /** The only token that is let in. */
  token: string | null;
  /** Asked for each request; null for the usual answer. */
  fault: ((request: HubRequest) => HubFault | null) | null;
  /** True for a request that waits until {@link Hub.release}. */
  hold: ((request: HubRequest) => boolean) | null;
  /** The last 10,000 requests. */
  readonly requests: HubRequest[];
  readonly buckets: {
    create(id: string): unknown;
    /** Files by path, as the server holds them; null without that bucket. */
    files(id: string): Map<string, HubFile> | null;
  };
  readonly cas: {
    revokeTokens(): void;
    putXorb(hash: string, bytes: Buffer): boolean;
    putFile(
      hash: string,
      terms: readonly {
        readonly hash: string;
        readonly unpackedLength: number;
        readonly range: { readonly start: number; readonly end: number };
      }[],
    ): void;
    readonly xorbCount: number;
  };
  /** How many of {@link Hub.requests} are of a kind. */
  count(kind: string): number;
  release(): void;
  clear(): void;
  close(): Promise<void>;
}

/** Starts a Hub on a loopback address. */
export function startHub(options?: {
  port?: number;
  token?: string | null;
  pageSize?: number;
  tokenSeconds?: number;
}): Promise<Hub>;
