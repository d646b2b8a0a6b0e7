export { assertBuffers, assertPairs } from "./batches.ts";
export {
  DirectoryScan,
  type DirectoryScanOptions,
  type FileFacts,
  type ScannedFile,
} from "./directory-scan.ts";
export { abortedError, orAborted } from "./early-end.ts";
export { KeyGuard } from "./key-guard.ts";
export { KeyListing, type ListingSource } from "./key-listing.ts";
export { LookupLocks } from "./lookup-locks.ts";
export { Operations } from "./operations.ts";
export { fingerprint, OwnObjects } from "./own-objects.ts";
export {
  newTemporaryOwner,
  OpenOwners,
  OWNER_PATTERN,
  ownerOf,
  ownerText,
  type TemporaryOwner,
} from "./temporary-owner.ts";
export { TierAccount, type TierAccountOptions, type TierFigures } from "./tier-account.ts";
