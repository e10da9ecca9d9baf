// Package sched decides what runs in each step. It knows no device and no
// model: it moves token counts, blocks and tiles.
//
// A [Sequence] is one token stream. It waits, runs, and ends; a sequence with
// Hold stays held when its prompt is computed, so that others fork it. Whether
// it is in prefill or decode follows from its counters: Computed tokens are in
// the KV cache, the rest of Tokens is not.
//
// [Scheduler.Schedule] plans a step, in this order:
//
//  1. running sequences that lack one token (decode), with their drafts;
//  2. running sequences that lack more (prefill), in chunks;
//  3. waiting sequences, while tokens, blocks and sequence slots are left.
//
// Inside each group the rank decides: arrival in steps minus Priority times
// AgeSteps. A waiting sequence therefore outranks, in time, everything that
// arrives later, whatever its priority: nothing starves. The head of the queue
// is never passed by a sequence behind it, except while it waits for its parent.
// What somebody waits for has at least that one's rank, and a prefix that is
// computed again has just that: of several that do not fit together the one that
// was needed first is used before the next takes its place.
//
// When blocks run out, held prefixes are dropped that are idle: without a
// continuation for AgeSteps steps. Then the sequence of the highest (worst) rank
// is preempted: its blocks go back (their prefixes stay findable) and it waits
// again. When only one sequence is left, any held prefix is dropped. The least
// recently used goes first; a continuation that needs one makes it run again.
//
// A runner may begin a step before the one in front of it has been committed: the
// same sequences, a token further. [Batch].Ahead says that this is likely right, and
// [Batch].Next where those tokens go; [Scheduler.ScheduleEarly] then plans that step.
// Who ended meanwhile is missing in it, and everything new waits for the step after.
//
// The pictures of a sequence are encoded tile by tile when a chunk reaches
// them: a step encodes at most MaxTiles tiles, whose results lie in numbered
// slots kept in least-recently-used order (the encoder cache).
package sched
