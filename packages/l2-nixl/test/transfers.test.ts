import { expect, test } from "vitest";
import type { NixlAgent, Piece } from "../src/agent.ts";
import { Transfers } from "../src/transfers.ts";
import { never } from "./support/fixtures.ts";

test("a request that cannot be made does not settle a load while another piece is under way", async () => {
  let underWay = 0;
  const transfer = async (_operation: string, _kind: string, [piece]: readonly Piece[]): Promise<void> => {
    if (piece?.offset === 0) throw new TypeError("no such function");
    underWay++;
    await new Promise((resolve) => setTimeout(resolve, 50));
    underWay--;
  };
  const agent = { transfer } as unknown as NixlAgent;
  const transfers = new Transfers({ agent, kind: "object", piecesTogether: false, stallMs: 1000 });
  const pieces = [0, 16].map((offset) => ({ address: 4096 + offset, byteLength: 16, offset, device: 0 }));
  await expect(transfers.read([{ pieces, into: new Uint8Array(32) }], never)).rejects.toThrow(/no such/);
  expect(underWay).toBe(0);
});
