export { createPackage, type CreatedPackage } from "./create-package.ts";
export { type AdapterNames, namesFor } from "./names.ts";
