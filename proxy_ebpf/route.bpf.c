/* SK_MSG: where a message of 16-byte descriptors goes, decided in the sender's own sendmsg.
 *
 * Owns the verdict and the maps.  The rules are in contract.py, their twin in user space is
 * policy.py, and one suite holds both to them.  Loaded and filled by ebpf.py; the maps' names
 * start with lifl_ so that `bpftool map` shows a leftover for what it is.
 *
 * The verdict is always SK_PASS.  SK_PASS without a redirect delivers to the sender's far end,
 * which the agent reads: nobody is told by a ring buffer, since that end becoming readable wakes
 * the agent already and carries the bytes, with TCP's back pressure.  SK_DROP would stick to the
 * socket, so the redirect helper's answer (DROP where the receiver is missing) is never returned.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "descriptor.h"

#define ENDPOINTS 4096
#define LIFL_BURST 16 /* descriptors of one message that are routed; contract.BURST */
#define SIZE sizeof(struct lifl_descriptor)

struct lifl_counts {
	__u64 redirected;
	__u64 passed;
	__u64 quarantined;    /* part of passed */
	__u64 credit_limited; /* part of passed */
	__u64 bytes;
};

struct lifl_held {
	__s32 held;    /* sent on and not released; signed, since a reset may meet a RELEASE */
	__s32 flushes; /* FLUSH since the last RELEASE */
	__s32 limit;
	__s32 flush_limit;
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, ENDPOINTS);
	__type(key, struct lifl_endpoint);
	__type(value, __u64);
} lifl_sockets SEC(".maps");

struct { /* who a socket is: written through its descriptor by the agent, by nobody else */
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lifl_endpoint);
} lifl_identity SEC(".maps");

struct { /* the tree: next hop within the sender's job, so no value reaches another job */
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINTS);
	__type(key, struct lifl_endpoint);
	__type(value, __u32);
} lifl_next_hop SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, ENDPOINTS);
	__type(key, struct lifl_endpoint);
	__type(value, struct lifl_counts);
} lifl_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINTS);
	__type(key, struct lifl_endpoint);
	__type(value, struct lifl_held);
} lifl_credit SEC(".maps");

/* To the agent; `why` is the counter beside `passed`, if any. */
static __always_inline int pass(struct lifl_counts *counts, __u32 size, __u64 *why)
{
	if (counts) {
		counts->passed += (size + SIZE - 1) / SIZE;
		counts->bytes += size;
		if (why)
			*why += (size + SIZE - 1) / SIZE;
	}
	return SK_PASS;
}

static __always_inline int is_parent(const struct lifl_endpoint *who,
				     const struct lifl_endpoint *child)
{
	__u32 *hop = bpf_map_lookup_elem(&lifl_next_hop, child);

	return hop && *hop == who->endpoint;
}

static __always_inline int is_known(const struct lifl_descriptor *descriptor)
{
	return descriptor->version == LIFL_DESCRIPTOR_VERSION &&
	       descriptor->kind >= LIFL_UPDATE && descriptor->kind <= LIFL_MODEL;
}

static __always_inline int is_like(const struct lifl_descriptor *first,
				   const struct lifl_descriptor *other, const void *end)
{
	return (const void *)(other + 1) <= end && other->source == first->source &&
	       other->kind == first->kind && other->version == first->version;
}

SEC("sk_msg")
int lifl_route(struct sk_msg_md *msg)
{
	struct lifl_endpoint me, source = {}, to = {};
	struct lifl_descriptor *descriptor;
	struct lifl_endpoint *identity;
	__u32 size, n, i, kind, *hop;
	struct lifl_counts *counts;
	struct lifl_held *credit;
	int mixed = 0;

	if (!msg->sk)
		return SK_PASS;
	identity = bpf_sk_storage_get(&lifl_identity, msg->sk, 0, 0);
	if (!identity)
		return SK_PASS;
	me = *identity;
	counts = bpf_map_lookup_elem(&lifl_counters, &me);

	/* 1. A message is judged whole, so all of its descriptors must be alike.  (One verdict per
	 * descriptor with bpf_msg_apply_bytes does not work: the kernel keeps a redirect for the
	 * rest of the message, whatever the program says about it.) */
	size = msg->size;
	n = size / SIZE;
	if (!n || size % SIZE)
		return pass(counts, size, counts ? &counts->quarantined : 0);
	if (n > LIFL_BURST)
		return pass(counts, size, 0);
	/* Whole in one piece, as it mostly is.  (Asking first would be arithmetic on a packet
	 * pointer with a variable, for which the verifier wants CAP_PERFMON.) */
	if (bpf_msg_pull_data(msg, 0, size, 0))
		return pass(counts, size, 0);
	descriptor = msg->data;
	if ((void *)(descriptor + 1) > msg->data_end)
		return pass(counts, size, 0);
	if (!is_known(descriptor))
		return pass(counts, size, counts ? &counts->quarantined : 0);
	kind = descriptor->kind;
	to.job = source.job = me.job;
	source.endpoint = descriptor->source;
	/* Unrolled: without CAP_PERFMON the verifier also follows mispredicted exits of a loop. */
#pragma clang loop unroll(full)
	for (i = 1; i < LIFL_BURST; i++)
		if (i < n && !is_like(descriptor, descriptor + i, msg->data_end))
			mixed = 1;
	if (mixed)
		return pass(counts, size, 0);

	/* 2. Its receiver, and whose credit it touches. */
	switch (kind) {
	case LIFL_UPDATE:
	case LIFL_SUM:
	case LIFL_MODEL:
		if (source.endpoint != me.endpoint) /* a misroute handed back, or forged */
			return pass(counts, size,
				    counts && !is_parent(&me, &source) ? &counts->quarantined : 0);
		/* fall through */
	case LIFL_FLUSH:
		hop = bpf_map_lookup_elem(&lifl_next_hop, &me);
		if (!hop)
			return pass(counts, size, 0);
		to.endpoint = *hop;
		credit = bpf_map_lookup_elem(&lifl_credit, &me);
		break;
	case LIFL_RELEASE:
		if (!is_parent(&me, &source))
			return pass(counts, size, 0);
		to.endpoint = source.endpoint;
		credit = bpf_map_lookup_elem(&lifl_credit, &source);
		break;
	default: /* EXPECT: a poke is the agent's to give */
		return pass(counts, size, 0);
	}

	/* 3. Credit.  A RELEASE that answers nothing would be a way to flood a child. */
	if (!credit)
		return pass(counts, size, 0);
	if (kind == LIFL_RELEASE ? credit->held < (__s32)n :
	    kind == LIFL_FLUSH   ? credit->flushes + (__s32)n > credit->flush_limit :
				   credit->held + (__s32)n > credit->limit)
		return pass(counts, size, counts ? &counts->credit_limited : 0);

	/* 4. On its way, if the receiver is there. */
	if (bpf_msg_redirect_hash(msg, &lifl_sockets, &to, BPF_F_INGRESS) != SK_PASS)
		return pass(counts, size, 0);
	if (kind == LIFL_RELEASE) {
		__sync_fetch_and_add(&credit->held, -(__s32)n);
		credit->flushes = 0;
	} else if (kind == LIFL_FLUSH) {
		__sync_fetch_and_add(&credit->flushes, n);
	} else {
		__sync_fetch_and_add(&credit->held, n);
	}
	if (counts) {
		counts->redirected += n;
		counts->bytes += size;
	}
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Apache-2.0"; /* no helper above asks for GPL */
