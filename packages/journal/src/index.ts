export { openJournal } from "./open-journal.ts";
export type {
  FsyncPolicy,
  Journal,
  JournalDamage,
  JournalHealth,
  JournalOptions,
  JournalRecord,
  JournalRecovery,
  JournalStatus,
  SideLog,
  SideRef,
  SnapshotSource,
  SubscriptionItem,
} from "./types.ts";
