import { expect, test } from "vitest";
import { Handle } from "../src/handles.ts";

test("an address is given out until it is freed, then never again", () => {
  const handle = new Handle("backend", 4096n);
  expect(handle.address()).toBe(4096n);
  expect(handle.free()).toBe(4096n);
  expect(handle.isFreed).toBe(true);
  expect(() => handle.address()).toThrow(/a freed backend was used/);
  expect(() => handle.free()).toThrow(TypeError);
  expect(() => handle.hold("x")).toThrow(TypeError);
});

test("what gave no address is no handle", () => {
  for (const address of [null, 0n, -1n, 4096, undefined, "4096"]) {
    expect(() => new Handle("request", address)).toThrow(/gave no address for a new request/);
  }
});

test("what others need is not freed before them", () => {
  const agent = new Handle("agent", 1n);
  const request = new Handle("request", 2n, agent);
  const list = new Handle("transfer list", 3n, agent);
  expect(() => agent.free()).toThrow(/an? agent still has 2 that need it/);
  request.free();
  list.free();
  expect(agent.free()).toBe(1n);
  expect(() => new Handle("request", 4n, agent)).toThrow(/a freed agent was used/);
});

test("what is under way is not freed", () => {
  const request = new Handle("request", 2n);
  request.hold("posted");
  expect(() => request.free()).toThrow(/a request is in use: posted/);
  expect(() => request.hold("posted")).toThrow(/already held/);
  expect(() => request.letGo("queried")).toThrow(/was not held/);
  request.letGo("posted");
  expect(request.free()).toBe(2n);
});
