const SECRET_KEY = /pass(word|wd|phrase)?$|secret|token(?!s)|credential|private_?key|access_?key|api_?key/i;
/** Keys that name where a secret is, not the secret. */
const NAMES_A_PLACE = /(_env|_file|_path|_id)$/i;
const URL_USERINFO = /([a-z][a-z0-9+.-]*:\/\/)([^\s/@]+)@/gi;

/** A copy to show: values of keys that hold secrets, and the user part of URLs, are replaced by `***`. */
export function maskSecrets(value: unknown, key = ""): unknown {
  if (Array.isArray(value)) return value.map((item) => maskSecrets(item, key));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, maskSecrets(item, name)]));
  }
  const secret = SECRET_KEY.test(key) && !NAMES_A_PLACE.test(key);
  if (secret && value !== null && value !== undefined && value !== "") return "***";
  return typeof value === "string" ? value.replace(URL_USERINFO, "$1***@") : value;
}
