import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { freePort } from "../../../../tools/testing/src/free-port.ts";
import { ACCESS_KEY, SECRET_KEY } from "./s3-server.ts";

/** `moto_server` of the PATH; null, and a line that says so, if there is none. It is not fetched: it is large. */
export async function findMoto(): Promise<string | null> {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const path = folders.map((folder) => join(folder, "moto_server")).find((file) => existsSync(file)) ?? null;
  if (path === null) {
    process.stdout.write(
      "  skipped: the suite against moto, an S3 server in Python (pip install 'moto[server]')\n",
    );
  }
  return path;
}

/** A real S3 server in Python, with one bucket. */
export class MotoServer {
  readonly #process: ChildProcess;
  readonly #port: number;

  private constructor(process: ChildProcess, port: number) {
    this.#process = process;
    this.#port = port;
  }

  static async start(program: string): Promise<MotoServer> {
    const port = await freePort();
    const started = spawn(program, ["-H", "127.0.0.1", "-p", String(port)], { stdio: "ignore" });
    const make = (): Promise<boolean> =>
      fetch(`http://127.0.0.1:${port}/kvcache`, { method: "PUT" }).then(
        ({ ok }) => ok,
        () => false,
      );
    while (!(await make())) await new Promise((resolve) => setTimeout(resolve, 20));
    return new MotoServer(started, port);
  }

  /** Parameters of the OBJ plugin for its bucket. */
  parameters(): Record<string, string> {
    return {
      access_key: ACCESS_KEY,
      secret_key: SECRET_KEY,
      bucket: "kvcache",
      endpoint_override: `http://127.0.0.1:${this.#port}`,
      scheme: "http",
      region: "us-east-1",
      use_virtual_addressing: "false",
    };
  }

  async stop(): Promise<void> {
    const exited = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await exited;
  }
}
