import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Login } from "./redis-server.ts";

const run = promisify(execFile);

/** Files and contents of certificates that one authority of the test's own has signed. */
export interface Certificates {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** An authority that signed nothing. */
  readonly strangerCa: string;
  readonly login: Login;
  /** Words that make a Redis server talk TLS alone and demand a certificate. */
  readonly words: readonly string[];
}

async function authority(directory: string, name: string): Promise<{ cert: string; key: string }> {
  const [cert, key] = [join(directory, `${name}.pem`), join(directory, `${name}.key`)];
  const words = [
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-days",
    "2",
  ];
  await run("openssl", [...words, "-subj", `/CN=${name}`, "-keyout", key, "-out", cert]);
  return { cert, key };
}

/** Makes them with openssl, valid for 127.0.0.1; null, and a line that says why, where there is no openssl. */
export async function makeCertificates(directory: string): Promise<Certificates | null> {
  try {
    await run("openssl", ["version"]);
  } catch {
    process.stdout.write(
      "  skipped: TLS needs certificates, and there is no openssl to make them; install openssl\n",
    );
    return null;
  }
  const ca = await authority(directory, "ca");
  const stranger = await authority(directory, "stranger");
  const at = (name: string): string => join(directory, name);
  await writeFile(at("names"), "subjectAltName=IP:127.0.0.1\n");
  const request = [
    "req",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-subj",
    "/CN=server",
  ];
  await run("openssl", [...request, "-keyout", at("own.key"), "-out", at("own.csr")]);
  const sign = [
    "x509",
    "-req",
    "-in",
    at("own.csr"),
    "-CA",
    ca.cert,
    "-CAkey",
    ca.key,
    "-CAcreateserial",
    "-days",
    "2",
  ];
  await run("openssl", [...sign, "-extfile", at("names"), "-out", at("own.pem")]);
  const files = { ca: ca.cert, cert: at("own.pem"), key: at("own.key") };
  return {
    ...files,
    strangerCa: stranger.cert,
    login: {
      tls: { ca: await readFile(files.ca), cert: await readFile(files.cert), key: await readFile(files.key) },
    },
    words: ["--tls-cert-file", files.cert, "--tls-key-file", files.key, "--tls-ca-cert-file", files.ca],
  };
}
