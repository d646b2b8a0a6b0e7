import { CacheError, type CacheErrorCode, isCacheError, messageOf } from "@cache/contracts";

/** Replaces secrets in text that comes from outside: a server may repeat what it was sent. */
export type Redact = (text: string) => string;

/** A {@link Redact} for these values; empty ones are left out. */
export function redactor(secrets: readonly string[]): Redact {
  const known = secrets.filter((secret) => secret !== "");
  return (text) => known.reduce((clean, secret) => clean.replaceAll(secret, "***"), text).slice(0, 300);
}

/** First word of an error reply: what to make of it, and what to do about it. */
const REPLIES: Readonly<Record<string, readonly [CacheErrorCode, string]>> = {
  OOM: [
    "BACKEND_FULL",
    "raise maxmemory, choose a maxmemory-policy that evicts, or set max_capacity_gb and eviction",
  ],
  NOAUTH: [
    "BACKEND_REFUSED",
    "the server wants a password: set password_file, or username and password_file",
  ],
  WRONGPASS: ["BACKEND_REFUSED", "check username and password_file"],
  NOPERM: [
    "BACKEND_REFUSED",
    "let the user run GET, SET, STRLEN, DEL, SCAN, PING and INFO on the cache's keys",
  ],
  READONLY: ["BACKEND_UNAVAILABLE", "this node is a replica: name its master, or use sentinel_nodes"],
  LOADING: ["BACKEND_UNAVAILABLE", "the server reads its data set; wait"],
  BUSY: ["BACKEND_UNAVAILABLE", "a script blocks the server; wait, or end it"],
  MASTERDOWN: ["BACKEND_UNAVAILABLE", "the replica has lost its master; wait for a failover"],
  CLUSTERDOWN: ["BACKEND_UNAVAILABLE", "the cluster does not serve all slots; look at CLUSTER INFO"],
  TRYAGAIN: ["BACKEND_UNAVAILABLE", "a slot is being moved; wait"],
  MISCONF: ["BACKEND_UNAVAILABLE", "the server cannot save its data set; look at its log"],
  MOVED: ["BACKEND_REFUSED", "the server is part of a cluster: set cluster_mode to true"],
  ASK: ["BACKEND_REFUSED", "the server is part of a cluster: set cluster_mode to true"],
};

/** The error of an error reply such as `OOM command not allowed …`. */
export function replyError(text: string, location: string, redact: Redact): CacheError {
  const [word = ""] = text.split(" ", 1);
  const [code, remedy] = REPLIES[word] ?? ["BACKEND_REFUSED", "look at the server's log"];
  return new CacheError(code, `${location} answered "${redact(text)}"; ${remedy}`, {
    details: { reply: word },
  });
}

const TLS_CODE = /^(ERR_SSL|ERR_TLS|CERT_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO)/;

/**
 * What went wrong between us and a server, as a `CacheError`. The original is not kept as its cause: the client
 * library hangs a command's arguments on its errors, the password among them.
 */
export function backendError(error: unknown, action: string, location: string, redact: Redact): CacheError {
  if (isCacheError(error)) return error;
  const text = redact(messageOf(error));
  const named =
    typeof error === "object" && error !== null ? (error as { code?: unknown; name?: unknown }) : {};
  if (named.name === "ReplyError") return replyError(text, location, redact);
  if (typeof named.code === "string" && TLS_CODE.test(named.code)) {
    const remedy =
      "check tls_ca_file, tls_cert_file and tls_key_file, and that the certificate names this host";
    return new CacheError("BACKEND_REFUSED", `cannot ${action} ${location}: TLS failed (${text}); ${remedy}`);
  }
  return new CacheError(
    "BACKEND_UNAVAILABLE",
    `cannot ${action} ${location}: ${text || "the connection was lost"}; check that the server runs and is reachable`,
  );
}
