const SECRET_KEY = new RegExp(
  [
    "pass(word|wd|phrase)?$",
    "secret|token(?!s)|credential|connection_?string|_sas$",
    "(private|access|api|account|shared)_?key",
  ].join("|"),
  "i",
);
/** Keys that name where a secret is, not the secret. */
const NAMES_A_PLACE = /(_env|_file|_path|_id)$/i;
// The bounds of both keep the time in proportion to the text's length.
const URL_USERINFO = /([a-z][a-z0-9+.-]{0,31}:\/\/)([^\s/@]+)@/gi;
/** Parts of a URL's query that sign or log in: Azure's `sig`, S3's `X-Amz-Signature`, tokens. */
const URL_SECRETS = /([?&](?:sig|[^=&#\s]{0,64}(?:signature|token|secret|password|key))=)[^&#\s]+/gi;

/** Names of keys that have to do with secrets, those that only say where one is included: it may stand there by mistake. */
const NEAR_SECRET =
  /pass|pwd|secret|token|credential|auth|signature|connection_?string|(^|_)(sas|keys?)(_|$)/i;
/** Texts that may hold a secret under any key: with a user part, as `key=value`, or credentials by their form. */
const SECRET_TEXT = /[@=]|^(hf_|sk-|gh[a-z]_|AKIA|eyJ|-----BEGIN)|bearer /i;

/** True for what no error message repeats: stricter than {@link maskSecrets}, since what is wrong may stand anywhere. */
export function mayBeSecret(key: string, value: unknown): boolean {
  if (NEAR_SECRET.test(key) || SECRET_KEY.test(key)) return true;
  return typeof value === "string" && (SECRET_TEXT.test(value) || maskSecrets(value, key) !== value);
}

/** A copy to show: values of keys that hold secrets, the user part of URLs and what signs them, are replaced by `***`. */
export function maskSecrets(value: unknown, key = ""): unknown {
  if (Array.isArray(value)) return value.map((item) => maskSecrets(item, key));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, maskSecrets(item, name)]));
  }
  const secret = SECRET_KEY.test(key) && !NAMES_A_PLACE.test(key);
  if (secret && value !== null && value !== undefined && value !== "") return "***";
  return typeof value === "string"
    ? value.replace(URL_USERINFO, "$1***@").replace(URL_SECRETS, "$1***")
    : value;
}
