import { type AdapterLog, messageOf } from "@cache/contracts";
import type { WireCounters } from "./counters.ts";
import type { ReadyReply } from "./dispatcher.ts";
import type { LmcacheHandlers } from "./handlers.ts";
import type { Outgoing } from "./outgoing.ts";
import { degradedValue, encodeRefusal, refusedEncoding } from "./replies.ts";

/** What {@link TurnCommitter} needs. */
export interface TurnCommitterOptions {
  readonly handlers: LmcacheHandlers;
  readonly outgoing: Outgoing;
  readonly counters: WireCounters;
  readonly log: AdapterLog;
  /** Something was taken back outside of a turn: what it changed is to be recorded. */
  readonly onTakenBack: () => void;
}

/** Ends turns: has their events written, then sends their replies, turn after turn. */
export class TurnCommitter {
  readonly #options: TurnCommitterOptions;
  /** Settles when all turns before have sent; undefined if none is under way. */
  #before: Promise<void> | undefined;
  #underWay = 0;

  constructor(options: TurnCommitterOptions) {
    this.#options = options;
  }

  /** Turns whose events are being written. */
  get underWay(): number {
    return this.#underWay;
  }

  /** Settles when every turn so far has sent its replies. */
  async idle(): Promise<void> {
    while (this.#before !== undefined) await this.#before;
  }

  /** Commits a turn and sends its replies; at once where that is possible. */
  commit(replies: readonly ReadyReply[]): void {
    const recorded = this.#record();
    if (typeof recorded === "boolean" && this.#before === undefined) {
      this.#send(replies, recorded);
      return;
    }
    this.#underWay += 1;
    const before = this.#before ?? Promise.resolve();
    const done = Promise.all([recorded, before]).then(([isRecorded]) => {
      this.#underWay -= 1;
      if (this.#before === done) this.#before = undefined;
      this.#send(replies, isRecorded);
    });
    this.#before = done;
  }

  #record(): boolean | Promise<boolean> {
    const { handlers, counters, log } = this.#options;
    counters.turns += 1;
    const failed = (error: unknown): boolean => {
      log.error("the turn's events could not be recorded", { error: messageOf(error) });
      return false;
    };
    try {
      const recorded = handlers.commitTurn();
      return typeof recorded === "boolean" ? recorded : recorded.catch(failed);
    } catch (error) {
      return failed(error);
    }
  }

  #send(replies: readonly ReadyReply[], recorded: boolean): void {
    for (const reply of replies) {
      if (recorded || reply.outcome.unconditional === true) this.#sendOutcome(reply);
      else this.#sendDegraded(reply);
    }
    if (!recorded && replies.some((reply) => reply.outcome.takeBack !== undefined))
      this.#options.onTakenBack();
  }

  #takeBack(reply: ReadyReply): void {
    try {
      reply.outcome.takeBack?.();
    } catch (error) {
      this.#options.log.error("an answer could not be taken back", { error: messageOf(error) });
    }
  }

  #sendOutcome(reply: ReadyReply): void {
    const { outcome } = reply;
    let opFrame = outcome.refusal ?? reply.opFrame;
    let payload: Buffer | undefined;
    try {
      payload = outcome.encode();
    } catch (error) {
      // The answer itself is wrong (an object that does not fill its shape): the client gets a refusal.
      this.#options.log.error("an answer could not be encoded", { op: reply.op, error: messageOf(error) });
      this.#takeBack(reply);
      this.#options.onTakenBack();
      const refused = refusedEncoding(reply.op);
      payload = refused;
      if (refused === undefined)
        opFrame = encodeRefusal("the server's answer could not be encoded; see its log");
      this.#transmit(reply, opFrame, payload, false);
      return;
    }
    this.#transmit(reply, opFrame, payload, true);
  }

  #sendDegraded(reply: ReadyReply): void {
    this.#options.counters.degraded += 1;
    this.#takeBack(reply);
    this.#transmit(reply, reply.opFrame, reply.op === undefined ? undefined : degradedValue(reply.op), false);
  }

  #transmit(reply: ReadyReply, opFrame: Buffer, payload: Buffer | undefined, canTakeBack: boolean): void {
    const { outgoing, counters, onTakenBack } = this.#options;
    const frames = [reply.identity, reply.uid, opFrame];
    if (payload !== undefined) frames.push(payload);
    void outgoing.send({
      frames,
      unsendable: () => {
        counters.unsendable += 1;
        if (!canTakeBack || reply.outcome.takeBack === undefined) return;
        this.#takeBack(reply);
        onTakenBack();
      },
    });
  }
}
