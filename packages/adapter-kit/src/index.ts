export { assertBuffers, assertPairs } from "./batches.ts";
export { abortedError, orAborted } from "./early-end.ts";
export { KeyGuard } from "./key-guard.ts";
export { KeyListing, type ListingSource } from "./key-listing.ts";
export { LookupLocks } from "./lookup-locks.ts";
export { Operations } from "./operations.ts";
export { fingerprint, OwnObjects } from "./own-objects.ts";
export { TierAccount, type TierAccountOptions, type TierFigures } from "./tier-account.ts";
