import { L2_API_VERSION, registerL2Adapter } from "@cache/contracts";
import { z } from "zod";
import { createMapAdapter, type MapAdapter } from "../map-adapter.ts";

/** Places by name: what outlives an adapter. */
export const places = new Map<string, MapAdapter["objects"]>();

const configSchema = z.strictObject({ place: z.string(), api_token: z.string().optional() });

registerL2Adapter({
  types: ["toy"],
  apiVersion: L2_API_VERSION,
  packageName: "cache-l2-toy",
  configSchema,
  create({ place }) {
    const adapter = createMapAdapter();
    const objects = places.get(place) ?? adapter.objects;
    places.set(place, objects);
    // A place that was used before is found again, as a store's would be.
    for (const [name, object] of objects) adapter.objects.set(name, object);
    const close = async (): Promise<void> => {
      await adapter.close();
      places.set(place, adapter.objects);
    };
    return Object.assign(
      { ...adapter },
      { close, capabilities: Object.freeze({ ...adapter.capabilities, persistent: true }) },
    );
  },
});
