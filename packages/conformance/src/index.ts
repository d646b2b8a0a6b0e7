export type { AdapterOperation } from "./around.ts";
export { type DelayPlan, delayed } from "./delayed.ts";
export { type FaultPlan, faultInjecting } from "./fault-injecting.ts";
export { type BenchmarkRow, benchmarkAdapter } from "./benchmark.ts";
export type { AdapterHarness, AdapterHarnessFactory } from "./harness.ts";
export { type LawReport, type LawResult, runL2AdapterLaws, type RunLawsOptions } from "./law-report.ts";
export { type MeteredAdapter, metered, type OperationFigures } from "./metered.ts";
export { renderOptionsTable } from "./options-table.ts";
export { type L2AdapterSuiteOptions, l2AdapterSuite } from "./suite.ts";
