import type { Command } from "commander";
import { httpTarget, requestJson } from "./http-client.ts";
import { EXIT, say, sizeText, table } from "./output.ts";

/** `cache-engine status`: what a running engine holds and does. Exit code 3 if it is unhealthy or does not answer. */
export async function status(command: Command): Promise<void> {
  const body = await requestJson(httpTarget(command), "GET", "/status");
  const tree = new Tree(body);
  if (command.opts<{ json?: true }>().json === true) say(JSON.stringify(body, null, 2));
  else say(table(summary(tree)));
  if (tree.at("is_healthy") === false) process.exitCode = EXIT.unreachable;
}

/** Reads a status of any server: what is missing is `undefined`, so that `lmcache server` is shown as well. */
class Tree {
  private readonly root: unknown;

  constructor(root: unknown) {
    this.root = root;
  }

  at(path: string): unknown {
    let node = this.root;
    for (const name of path.split(".")) {
      if (typeof node !== "object" || node === null) return undefined;
      node = (node as Record<string, unknown>)[name];
    }
    return node;
  }

  number(path: string): number {
    const value = this.at(path);
    return typeof value === "number" ? value : 0;
  }

  text(path: string, fallback = "-"): string {
    const value = this.at(path);
    return typeof value === "string" || typeof value === "number" || typeof value === "boolean"
      ? String(value)
      : fallback;
  }

  entries(path: string): [string, Tree][] {
    const value = this.at(path);
    if (typeof value !== "object" || value === null) return [];
    return Object.entries(value).map(([name, inner]) => [name, new Tree(inner)]);
  }
}

function summary(tree: Tree): string[][] {
  return [
    ["engine", engineText(tree)],
    ["L1", l1Text(tree)],
    ["", evictionText(tree)],
    ...tree.entries("storage_manager.l2_adapters").map(([, l2]) => adapterRow(l2)),
    ...changeRows(tree),
    ["loads", loadsText(tree)],
    ...instanceRows(tree),
    ...tenantRows(tree),
    ...heldBackRows(tree),
    ["rpc", rpcText(tree)],
    ["KV events", kvEventsText(tree)],
    ["http", httpText(tree)],
    ["journal", journalText(tree)],
  ];
}

function engineText(tree: Tree): string {
  const healthy = tree.at("is_healthy") === true ? "healthy" : "UNHEALTHY";
  const reason = tree.at("unhealthy_reason");
  const why = typeof reason === "string" ? `: ${reason}` : "";
  const up = durationText(tree.number("uptime_seconds"));
  return `${healthy}${why}; version ${tree.text("version")}, pid ${tree.text("pid")}, up ${up}`;
}

function l1Text(tree: Tree): string {
  const l1 = (name: string) => tree.number(`storage_manager.l1_manager.${name}`);
  const share = Math.round(100 * l1("memory_usage_ratio"));
  return [
    `${sizeText(l1("memory_used_bytes"))} of ${sizeText(l1("memory_total_bytes"))} (${share} %)`,
    `${l1("total_object_count")} objects`,
    `${l1("read_locked_count")} locked`,
    `${l1("staging_object_count")} being written`,
    `pool ${tree.text("storage_manager.pool.path", "none")}`,
  ].join(", ");
}

function evictionText(tree: Tree): string {
  const at = (name: string) => `storage_manager.${name}`;
  const evicted = tree.number(at("eviction_controller.evicted_objects"));
  return [
    `eviction ${tree.text(at("eviction_controller.eviction_policy"))}`,
    `${evicted} evicted (${sizeText(tree.number(at("eviction_controller.evicted_bytes")))})`,
    `${tree.number(at("store_controller.waited"))} stores waited for room`,
    `${tree.number(at("store_controller.refused_for_room"))} refused`,
    `${tree.number(at("store_controller.partial"))} stored in part`,
    `${tree.number(at("store_controller.over_quota"))} of both over quota`,
  ].join(", ");
}

function adapterRow(l2: Tree): string[] {
  const limit = l2.number("max_capacity_bytes");
  const held = Math.max(l2.number("current_size_bytes"), l2.number("tier_size_bytes"));
  const parts = [
    l2.at("is_healthy") === true ? "healthy" : "UNHEALTHY",
    ...(l2.text("stage", "active") === "active" ? [] : [`${l2.text("stage").toUpperCase()}: no new stores`]),
    ...(l2.at("added") === true ? ["added while running"] : []),
    l2.text("location", l2.text("base_path")),
    `${sizeText(held)} of ${limit > 0 ? sizeText(limit) : "no limit"}`,
    `${l2.number("stored_object_count")} objects`,
    `${l2.number("stores_in_flight")} stores in flight, ${l2.number("queued_stores")} queued`,
    `${l2.number("failed_stores")} failed`,
    `breaker ${l2.text("gate.breaker.state")}`,
  ];
  const stuck = l2.number("gate.stuck.operations");
  if (stuck > 0) parts.push(`${stuck} operations do not settle`);
  const error = l2.at("gate.lastError");
  if (error !== null && error !== undefined) parts.push(`last error ${JSON.stringify(error)}`);
  return [`L2 ${l2.text("id", l2.text("type"))}`, parts.join(", ")];
}

function changeRows(tree: Tree): string[][] {
  const rows = tree
    .entries("storage_manager.l2_adapters_unsettled")
    .map(([, one]) => [
      `L2 ${one.text("id")}`,
      `gone; ${one.number("operations")} operations, its open or its close have not ended`,
    ]);
  const change = (name: string) => tree.text(`storage_manager.l2_adapter_change.${name}`);
  if (change("operation") === "-") return rows;
  const text = `${change("operation")} of ${change("id")} since ${change("seconds")} s`;
  return [...rows, ["L2 change", text]];
}

function loadsText(tree: Tree): string {
  const of = (name: string) => tree.number(`storage_manager.prefetch_controller.${name}`);
  return [
    `${of("in_flight")} prefetches in flight, ${of("queued")} queued`,
    `${of("loaded_objects")} objects loaded (${sizeText(of("loaded_bytes"))})`,
    `${of("failed_loads")} failed, ${of("over_deadline")} over their deadline`,
  ].join(", ");
}

function instanceRows(tree: Tree): string[][] {
  const rows = tree.entries("non_cuda_context_meta").map(([id, meta]) => {
    const parts = [`model ${meta.text("model_name")}`, `world size ${meta.text("world_size")}`];
    if (meta.at("dtype") !== undefined) parts.push(meta.text("dtype"));
    if (meta.at("silent_seconds") !== undefined) parts.push(`silent ${meta.text("silent_seconds")} s`);
    return [`worker ${id}`, parts.join(", ")];
  });
  return rows.length > 0 ? rows : [["workers", "none is registered"]];
}

function tenantRows(tree: Tree): string[][] {
  return tree.entries("storage_manager.tenants").map(([salt, tenant]) => {
    const limit = tenant.at("limit_gb");
    const quota = typeof limit === "number" ? `, quota ${limit} GiB` : "";
    const l1 = `${sizeText(tenant.number("l1_bytes"))} in L1 (${tenant.number("l1_objects")} objects)`;
    return [`tenant ${salt}`, `${l1}, ${sizeText(tenant.number("l2_bytes"))} in L2${quota}`];
  });
}

function heldBackRows(tree: Tree): string[][] {
  const bytes = tree.number("storage_manager.held_back.bytes");
  if (bytes === 0) return [];
  const workers = tree
    .entries("storage_manager.held_back.instances")
    .map(([, one]) => one.text("instance"))
    .join(", ");
  const much =
    tree.at("storage_manager.held_back.tooMuch") === true ? "; too much: restart these workers" : "";
  return [["held back", `${sizeText(bytes)} that workers ${workers} may still touch${much}`]];
}

/** The sum of the figures under a path. */
function sumOf(tree: Tree, path: string): number {
  return tree.entries(path).reduce((total, [name]) => total + tree.number(`${path}.${name}`), 0);
}

function kvEventsText(tree: Tree): string {
  const of = (name: string) => tree.number(`kv_events.${name}`);
  if (tree.at("kv_events.enabled") !== true) return "off";
  return `${of("subscribers")} subscribers, ${of("log_depth")} of ${of("log_capacity")} changes kept, ${of("lost_markers")} times lost`;
}

function httpText(tree: Tree): string {
  const refusals = tree
    .entries("http.refusals")
    .map(([reason]) => `${tree.number(`http.refusals.${reason}`)} ${reason}`);
  return [
    `${tree.number("http.connections")} connections`,
    `${sumOf(tree, "http.answers")} answers`,
    `${sumOf(tree, "http.refusals")} refused${refusals.length > 0 ? ` (${refusals.join(", ")})` : ""}`,
  ].join(", ");
}

function rpcText(tree: Tree): string {
  return [
    `${tree.number("active_sessions")} sessions`,
    `${sumOf(tree, "rpc.requests")} requests`,
    `${sumOf(tree, "rpc.refusals")} refused`,
    `${tree.number("rpc.malformed")} malformed`,
    `${tree.number("rpc.oversized")} too large`,
    `${tree.number("rpc.connections.cutOff")} cut off`,
    `${tree.number("inline_despite_pool")} inline despite the pool`,
  ].join(", ");
}

function journalText(tree: Tree): string {
  const at = (name: string) => `storage_manager.journal.${name}`;
  const where = tree.text(at("directory"), "in memory: nothing survives a restart");
  const size = sizeText(tree.number(at("bytes")));
  return `${tree.text(at("health"))}, ${size} in ${tree.number(at("segments"))} segments, ${where}`;
}

/** A duration for people. */
function durationText(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}
