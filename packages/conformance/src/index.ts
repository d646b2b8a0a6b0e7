export type { AdapterHarness, AdapterHarnessFactory } from "./harness.ts";
export { renderOptionsTable } from "./options-table.ts";
export { type L2AdapterSuiteOptions, l2AdapterSuite } from "./suite.ts";
