export { type BulkCopy, bulkCopy } from "./bulk-copy.ts";
export { fallocateByCommand } from "./fallocate-command.ts";
export {
  acquireFileLock,
  type FileLock,
  type FileLockMechanism,
  type FileLockOptions,
  lockDescriptor,
} from "./file-lock.ts";
export { type KernelCalls, kernelCalls, VIEW_BYTES_MAX } from "./kernel-calls.ts";
export { type ForeignFunction, type ForeignLibrary, type Koffi, loadKoffi } from "./koffi.ts";
