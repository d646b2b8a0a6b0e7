export { acquireFileLock, type FileLock, type FileLockMechanism } from "./file-lock.ts";
export { kernelCalls, type KernelCalls } from "./kernel-calls.ts";
