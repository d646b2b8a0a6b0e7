"""Clients that store and load random sequences all the time and compare every byte, for drills that make trouble meanwhile."""
import collections, random, threading, time

from client import RawClient, Sequence, WrongBytes

CHUNKS = 2
SEQUENCES = 120  # of 1 MiB objects 240 MiB in use at a time: more than the drills' L1 has, so that most loads come from L2
NEW_EVERY_SECONDS = 0.5  # one that nobody has leaves and enters that use, so that there is always something to store
# A lookup's prefetch ends after 2 s and 0.1 s for 1,024 tokens; the rest is for a machine that has other work.
ANSWER_SECONDS = 2.05 + 3.0


class Load:
    """Two threads, until they are stopped. A miss is a right answer: the client then computes."""

    def __init__(self, url, model, layout, timeout):
        self.url, self.model, self.layout, self.timeout = url, model, layout, timeout
        self.stopping = threading.Event()
        self.begin()
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(2)]
        for thread in self.threads:
            thread.start()

    def begin(self):
        """Counts from here on; what was under way counts to the figures before."""
        self.counts, self.slowest, self.bad = collections.Counter(), 0.0, []

    def run(self, seed):
        choose = random.Random(seed)
        client = RawClient(self.url, self.model, self.layout, timeout=self.timeout)
        client.register()
        while not self.stopping.is_set():
            oldest = int(time.monotonic() / NEW_EVERY_SECONDS)
            sequence = Sequence(oldest + choose.randrange(SEQUENCES), CHUNKS)
            self.call("load", client.load, sequence)
            self.call("store", client.store, sequence)
            time.sleep(0.002)  # the engine and the check share a machine with others
        client.close()

    def call(self, what, action, sequence):
        counts, bad, begin = self.counts, self.bad, time.monotonic()
        try:
            answer = action(sequence)
            if what == "load":
                counts["hits"] += answer
                counts["misses"] += answer < CHUNKS
            else:
                counts[answer] += 1
        except WrongBytes as error:
            bad.append(f"wrong bytes: {error}")
        except Exception as error:
            self.failed(what, error, begin, counts, bad)
        self.took(what, begin, bad)

    def failed(self, what, error, begin, counts, bad):
        bad.append(f"{what} unanswered: {error!r}")
        time.sleep(0.1)

    def took(self, what, begin, bad):
        seconds = time.monotonic() - begin
        self.slowest = max(self.slowest, seconds)
        if seconds > ANSWER_SECONDS:
            bad.append(f"{what} took {seconds:.1f} s")

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(90)
