import { createHash } from "node:crypto";

/** A number for a model, below 2^48: what the log keeps in place of its name. */
export function modelTag(modelName: string): number {
  return createHash("sha256").update(modelName).digest().readUIntBE(0, 6);
}
