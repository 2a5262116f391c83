/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs on every send of a function's data socket and picks the one place the
 * descriptor may go.  Who sends is known from socket storage and where it goes
 * from the route map, both written by the agent alone: a message can lie about
 * neither.
 *
 * What may not go anywhere is counted under a numbered reason and refused by
 * redirecting it out of the sender's own socket, which the agent has shut down
 * for writing: the send fails with EPIPE.  SK_DROP would be the plain way, but
 * the kernel keeps that verdict and applies it to every later send as well.
 */
#include "lifl_wire.h"

#define LIFL_MAX_ENDPOINTS 4096
#define LIFL_MAX_GROUPS 1024

/* endpoint -> data socket; 8-byte values let the agent read back the cookie. */
struct sockets_table_t {
	lifl_u32 key;
	lifl_u64 leaf;
	int (*msg_redirect_hash)(void *, void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/sockhash"))) struct sockets_table_t sockets = {
	.max_entries = LIFL_MAX_ENDPOINTS,
};
BPF_ANNOTATE_KV_PAIR(sockets, lifl_u32, lifl_u64);

BPF_SK_STORAGE(identities, struct lifl_identity);
BPF_HASH(endpoints, lifl_u32, struct lifl_endpoint, LIFL_MAX_ENDPOINTS);
BPF_HASH(routes, lifl_u32, struct lifl_route, LIFL_MAX_ENDPOINTS);
BPF_F_TABLE("hash", lifl_u32, struct lifl_group, groups, LIFL_MAX_GROUPS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("percpu_hash", lifl_u32, struct lifl_counters, counters, LIFL_MAX_ENDPOINTS,
	    BPF_F_NO_PREALLOC);
BPF_PERCPU_ARRAY(drops, lifl_u64, LIFL_DROP_REASONS);

static inline int check(struct sk_msg_md *msg, lifl_u64 *bytes)
{
	struct lifl_descriptor *d = msg->data;

	if (msg->size != sizeof(*d) || (void *)(d + 1) > msg->data_end)
		return LIFL_DROP_BAD_SIZE;
	if (d->version != LIFL_WIRE_VERSION)
		return LIFL_DROP_BAD_VERSION;
	if (d->opcode < LIFL_OP_OBJECT || d->opcode > LIFL_OP_WAKE)
		return LIFL_DROP_BAD_OPCODE;
	*bytes = (lifl_u64)d->pages * LIFL_PAGE_BYTES;
	return LIFL_DROP_NONE;
}

static inline int redirect(struct sk_msg_md *msg, struct lifl_identity *from, lifl_u32 to,
			   lifl_u64 bytes)
{
	struct lifl_endpoint *target = endpoints.lookup(&to);
	struct lifl_counters *c;

	if (!target)
		return LIFL_DROP_DESTINATION_GONE;
	if (target->domain != from->domain)
		return LIFL_DROP_DOMAIN;
	if (sockets.msg_redirect_hash(msg, &to, BPF_F_INGRESS) != SK_PASS)
		return LIFL_DROP_DESTINATION_GONE;

	/* Atomic, though per CPU: a program may preempt another on the same CPU. */
	c = counters.lookup(&from->endpoint);
	if (c) {
		__sync_fetch_and_add(&c->tx_messages, 1);
		__sync_fetch_and_add(&c->tx_bytes, bytes);
	}
	c = counters.lookup(&to);
	if (c) {
		__sync_fetch_and_add(&c->rx_messages, 1);
		__sync_fetch_and_add(&c->rx_bytes, bytes);
		c->last_arrival_ns = bpf_ktime_get_ns();
	}
	return LIFL_DROP_NONE;
}

/* The sender's turn needs no lock: the program runs under the socket's lock. */
static inline int redirect_group(struct sk_msg_md *msg, struct lifl_identity *from, lifl_u32 id,
				 lifl_u64 bytes)
{
	struct lifl_group *group = groups.lookup(&id);
	int reason = LIFL_DROP_NO_MEMBER;

	if (!group || !group->count)
		return reason;
	for (lifl_u32 i = 0; i < LIFL_MAX_MEMBERS && i < group->count; i++) {
		lifl_u32 at = (from->turn + i) % group->count;
		int why;

		if (at >= LIFL_MAX_MEMBERS)
			break;
		why = redirect(msg, from, group->members[at], bytes);
		if (why == LIFL_DROP_NONE) {
			from->turn = at + 1;
			return why;
		}
		if (why == LIFL_DROP_DOMAIN)
			reason = why;
	}
	return reason;
}

static inline int route(struct sk_msg_md *msg, struct lifl_identity *from)
{
	struct lifl_route *r;
	lifl_u64 bytes = 0;
	int reason = check(msg, &bytes);

	if (reason)
		return reason;
	r = routes.lookup(&from->endpoint);
	if (!r)
		return LIFL_DROP_NO_ROUTE;
	switch (r->type) {
	case LIFL_ROUTE_ENDPOINT:
		return redirect(msg, from, r->target, bytes);
	case LIFL_ROUTE_GROUP:
		return redirect_group(msg, from, r->target, bytes);
	default:
		return LIFL_DROP_NO_ROUTE;
	}
}

static inline void count_drop(int reason)
{
	lifl_u64 *n = drops.lookup(&reason);

	if (n)
		__sync_fetch_and_add(n, 1);
}

int lifl_route(struct sk_msg_md *msg)
{
	struct lifl_identity *from = NULL;
	int reason;

	if (msg->sk)
		from = identities.sk_storage_get(msg->sk, 0, 0);
	if (!from) {
		count_drop(LIFL_DROP_NO_IDENTITY);
		return SK_DROP;
	}
	reason = route(msg, from);
	if (reason == LIFL_DROP_NONE)
		return SK_PASS;
	count_drop(reason);
	return sockets.msg_redirect_hash(msg, &from->endpoint, 0);
}
