import type { Command } from "commander";
import { httpTarget, requestJson } from "./http-client.ts";
import { say } from "./output.ts";

/** `cache-engine clear`: empties L1 of a running engine. Objects in L2 stay. */
export async function clear(command: Command): Promise<void> {
  const { force, json } = command.opts<{ force?: true; json?: true }>();
  const target = httpTarget(command);
  const body = { tier: "l1", force: force === true };
  const answer = await requestJson(target, "POST", "/cache/clear", body);
  if (json === true) say(JSON.stringify(answer));
  else say(`L1 is cleared${force === true ? "" : "; objects that a client reads or writes stay"}`);
}
