import { type Dirent, lstatSync, readdirSync, readFileSync, rmdirSync, rmSync, unlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { acquireFileLock, type FileLock } from "@cache/libc";
import { ADAPTERS_NOTE_FILE, POOL_NAME_FILE } from "../config/state-directory.ts";
import { journalDirectory } from "./state-lock.ts";

/** What lies in a state directory, by who made it. Symbolic links are nobody's: none is followed. */
export interface StateContents {
  /** A journal file or a pool name is there: an engine has used this directory. */
  readonly recognised: boolean;
  /** The engine's files. */
  readonly files: readonly string[];
  /** Directories that the engine made for adapters, with something in them. */
  readonly trees: readonly string[];
  /** Directories that an engine makes, inner ones first: they go if nothing is left in them. */
  readonly directories: readonly string[];
  /** All else. */
  readonly foreign: readonly string[];
}

/** Longest file that can hold a pool name: `--shm-name` takes 201 bytes; then a newline. */
const POOL_NAME_BYTES_MAX = 202;
/** Segments, side segments, snapshots (docs/reference/journal-format.md), also unfinished or kept as damaged. */
const JOURNAL_FILE = /^(\d{20}\.journal|\d{10}\.side|snapshot-\d{20})(\.tmp|\.damaged-\d+)?$/;
const JOURNAL_DIRECTORY = /^journal(\.damaged-\d+)?$/;
/** Objects and temporaries of the fs adapter. */
const FS_FILE =
  /^(.*@0x[0-9a-f]{8}@[0-9a-f]{1,8}@(?:[0-9a-f]{2})+(?:@[^@]*)?\.data|\.cache-engine\.[^/]*\.tmp)$/s;
/** Time and random number in front of the name that the object had. */
const FS_QUARANTINED = /^[0-9a-z]+-[0-9a-f]{8}-/;

interface Listing {
  files: string[];
  trees: string[];
  directories: string[];
  foreign: string[];
}

/** Looks at a state directory; changes nothing. */
export function stateContents(directory: string): StateContents {
  const listing: Listing = { files: [], trees: [], directories: [], foreign: [] };
  const poolName = notedPoolName(directory);
  for (const entry of entriesOf(directory)) {
    const path = join(directory, entry.name);
    if (entry.name === POOL_NAME_FILE && poolName !== null) listing.files.push(path);
    else if (!entry.isDirectory()) listing.foreign.push(path);
    else if (JOURNAL_DIRECTORY.test(entry.name)) list(listing, path, (name) => JOURNAL_FILE.test(name));
    else if (entry.name === "adapters") listAdapters(listing, path);
    else if (entry.name === "l2-fs") listFs(listing, path);
    else listing.foreign.push(path);
  }
  const hasJournal = listing.files.some((path) => JOURNAL_DIRECTORY.test(path.split("/").at(-2) ?? ""));
  return { recognised: hasJournal || poolName !== null, ...listing };
}

/**
 * Lists one directory that an engine makes.
 *
 * @param isOurs whether a file of that name is the engine's.
 * @param inner takes up a directory that is the engine's; false for another one.
 */
function list(
  listing: Listing,
  directory: string,
  isOurs: (name: string) => boolean,
  inner: (name: string, path: string) => boolean = () => false,
): void {
  for (const entry of entriesOf(directory)) {
    const path = join(directory, entry.name);
    if (entry.isFile() && isOurs(entry.name)) listing.files.push(path);
    else if (!(entry.isDirectory() && inner(entry.name, path))) listing.foreign.push(path);
  }
  listing.directories.push(directory);
}

/** What an adapter keeps in its directory only the adapter knows: the engine's note says which directories are whole. */
function listAdapters(listing: Listing, directory: string): void {
  const noted = notedAdapters(directory);
  const inner = (name: string, path: string): boolean => {
    if (entriesOf(path).length === 0) listing.directories.push(path);
    else if (noted.has(name)) listing.trees.push(path);
    else return false;
    return true;
  };
  list(listing, directory, (name) => name === ADAPTERS_NOTE_FILE, inner);
}

function listFs(listing: Listing, directory: string): void {
  const inner = (name: string, path: string): boolean => {
    if (name !== ".quarantine") return false;
    list(listing, path, (kept) => FS_QUARANTINED.test(kept));
    return true;
  };
  list(listing, directory, (name) => FS_FILE.test(name), inner);
}

/** What {@link removeState} did; absolute paths. */
export interface RemovedState {
  /** Gone as a whole. */
  readonly removed: readonly string[];
  /** Directories that the engine's files are gone from and that stay, for what else is in them. */
  readonly cleared: readonly string[];
  /** What stays because no engine made it; the state directory itself if it is empty and cannot be removed. */
  readonly left: readonly string[];
}

/**
 * Removes what an engine made, then the directory itself if nothing is left in it. Whoever calls it holds the locks.
 */
export function removeState(directory: string, contents: StateContents): RemovedState {
  const paths = entriesOf(directory).map(({ name }) => join(directory, name));
  for (const path of contents.files) unlinkSync(path);
  for (const path of contents.trees) rmSync(path, { recursive: true, force: true });
  for (const path of contents.directories) removeEmpty(path);
  if (removeEmpty(directory)) return { removed: [directory], cleared: [], left: [] };
  const ours = [...contents.files, ...contents.trees];
  return {
    removed: paths.filter((path) => !isThere(path)),
    cleared: paths.filter((path) => isThere(path) && ours.some((one) => one.startsWith(`${path}/`))),
    left: contents.foreign.length === 0 ? [directory] : contents.foreign,
  };
}

/**
 * After a start that failed: removes the state directory that this start made, unless something of value is in it or
 * another engine has come to use it. The parents that were made for it go too where they are empty.
 *
 * @param made the outermost directory that this start made, null if it made none: then nothing is removed.
 */
export async function removeFreshState(directory: string, made: string | null): Promise<void> {
  if (made === null) return;
  let lock: FileLock | null = null;
  try {
    const journal = journalDirectory(directory);
    if (isThere(journal)) lock = await acquireFileLock(journal);
    const contents = stateContents(directory);
    const hasData = contents.files.some((path) => path.startsWith(join(directory, "l2-fs/")));
    if (hasData || contents.trees.length > 0 || contents.foreign.length > 0) return;
    removeState(directory, contents);
    for (let path = directory; path !== made && !isThere(path); ) {
      path = dirname(path);
      if (!removeEmpty(path)) return;
    }
  } catch {
    // The failure of the start is what counts; a directory that stays does no harm.
  } finally {
    lock?.release();
  }
}

/** Name of the pool that the engine of this state directory used last; null if it noted none. */
export function notedPoolName(directory: string): string | null {
  const text = smallFile(join(directory, POOL_NAME_FILE), POOL_NAME_BYTES_MAX);
  // What `--shm-name` takes: a name with a slash would lead out of /dev/shm.
  return text === null ? null : (/^([A-Za-z0-9._-]{0,200})\n$/.exec(text)?.[1] ?? null);
}

/** Ids of the adapters whose directories below `adapters/` this engine made. */
export function notedAdapters(directory: string): ReadonlySet<string> {
  const text = smallFile(join(directory, ADAPTERS_NOTE_FILE), 1024 * 1024);
  return new Set((text ?? "").split("\n").filter((id) => id !== ""));
}

/** Text of a regular file of at most so many bytes; null for anything else. */
function smallFile(path: string, bytesMax: number): string | null {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return stat?.isFile() === true && stat.size <= bytesMax ? readFileSync(path, "utf8") : null;
}

function entriesOf(directory: string): Dirent[] {
  return readdirSync(directory, { withFileTypes: true });
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** False if it stays: something is in it, it is a link or a mount point, or its parent may not be written. */
function removeEmpty(directory: string): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch {
    return false;
  }
}
