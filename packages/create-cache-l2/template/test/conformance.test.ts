import { test } from "node:test";
import { l2AdapterSuite } from "@cache/conformance";
import { create__Name__Adapter } from "../src/adapter.ts";
import { __camel__ConfigSchema } from "../src/config.ts";

// One test for each law of the adapter contract. Each asks for a new, empty place.
l2AdapterSuite({
  test,
  factory: async () => ({
    create: () => create__Name__Adapter(__camel__ConfigSchema.parse({})),
    dispose: async () => {},
  }),
});
