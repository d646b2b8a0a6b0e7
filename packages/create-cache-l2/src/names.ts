/** What a new package is called, in all the ways in which its files need it. */
export interface AdapterNames {
  /** Of package.json: `cache-l2-foo` or `@you/cache-l2-foo`. */
  readonly packageName: string;
  /** The configuration type: `foo`. */
  readonly type: string;
  /** The package's folder: `cache-l2-foo`. */
  readonly folder: string;
  /** For identifiers: `Foo`, of `foo-bar` `FooBar`. */
  readonly pascal: string;
  /** For identifiers: `foo`, of `foo-bar` `fooBar`. */
  readonly camel: string;
}

/** Types that LMCache or this project uses: another package with one of them could not be installed beside ours. */
const TAKEN = new Set(["fs", "mock", "redis", "resp", "nixl_store", "nixl_store_dynamic", "hfbucket"]);

/**
 * The names that follow from what the user typed: `foo`, `cache-l2-foo`, `@you/foo` or `@you/cache-l2-foo`.
 *
 * @throws Error that names the rule.
 */
export function namesFor(text: string): AdapterNames {
  const match = /^(?:(@[a-z0-9~-][a-z0-9._~-]*)\/)?(?:cache-l2-)?([a-z][a-z0-9_-]*)$/.exec(text);
  const [, scope, type] = match ?? [];
  if (type === undefined) {
    throw new Error(
      `${JSON.stringify(text)} cannot name an adapter: use lower-case letters, digits, '-' and '_', with a letter first, e.g. foo or @you/foo`,
    );
  }
  if (TAKEN.has(type))
    throw new Error(`the type '${type}' is taken by @cache/engine's own adapters; choose another`);
  const pascal = type
    .split(/[-_]+/)
    .map((word) => word.slice(0, 1).toUpperCase() + word.slice(1))
    .join("");
  const folder = `cache-l2-${type}`;
  return {
    packageName: scope === undefined ? folder : `${scope}/${folder}`,
    type,
    folder,
    pascal,
    camel: pascal.slice(0, 1).toLowerCase() + pascal.slice(1),
  };
}
