export { type FaultPlan, type FaultyOperation, faultInjecting } from "./fault-injecting.ts";
export type { AdapterHarness, AdapterHarnessFactory } from "./harness.ts";
export { renderOptionsTable } from "./options-table.ts";
export { type L2AdapterSuiteOptions, l2AdapterSuite } from "./suite.ts";
