import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const CONTRACTS = fileURLToPath(new URL("../../contracts", import.meta.url));

/** A temporary directory in which tests lay out `node_modules` as package managers do. */
export class Tree {
  readonly root: string = realpathSync(mkdtempSync(join(tmpdir(), "discovery-")));

  path(...parts: string[]): string {
    return join(this.root, ...parts);
  }

  file(path: string, content: string): string {
    const target = this.path(path);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, content);
    return target;
  }

  link(path: string, target: string): void {
    mkdirSync(dirname(this.path(path)), { recursive: true });
    symlinkSync(this.path(target), this.path(path));
  }

  /** The least adapter: package.json and index.js. It registers `registers` when imported. */
  adapter(
    directory: string,
    options: {
      name: string;
      types?: string[];
      apiVersion?: number;
      registers?: string[];
      registersAs?: string;
      source?: string;
      json?: Record<string, unknown>;
    },
  ): void {
    const { name, types, apiVersion = 1, registers = types ?? [], registersAs = name } = options;
    const json = {
      name,
      version: "1.2.3",
      type: "module",
      ...(types === undefined ? {} : { cacheL2: { types, apiVersion } }),
      ...options.json,
    };
    this.file(join(directory, "package.json"), JSON.stringify(json));
    const source = `import { registerL2Adapter } from "@cache/contracts";
      registerL2Adapter({ types: ${JSON.stringify(registers)}, apiVersion: 1,
        packageName: ${JSON.stringify(registersAs)}, configSchema: { parse: (raw) => raw }, create: () => ({}) });`;
    this.file(join(directory, "index.js"), options.source ?? source);
  }

  /** A copy of the contracts package of its own, as an adapter with a duplicated dependency brings along. */
  contracts(modules: string): void {
    const target = this.path(modules, "@cache", "contracts");
    mkdirSync(target, { recursive: true });
    cpSync(join(CONTRACTS, "dist"), join(target, "dist"), { recursive: true });
    // As published: without the condition that leads to sources.
    this.file(
      join(modules, "@cache", "contracts", "package.json"),
      JSON.stringify({
        name: "@cache/contracts",
        version: "1.0.0",
        type: "module",
        exports: "./dist/index.js",
      }),
    );
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
