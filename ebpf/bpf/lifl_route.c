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
#include "lifl_maps.h"

#define LIFL_MAX_ENDPOINTS 4096
#define LIFL_MAX_GROUPS 1024

/* endpoint -> data socket; 8-byte values let the agent read back the cookie. */
LIFL_SOCKHASH(sockets, LIFL_MAX_ENDPOINTS);
LIFL_SK_STORAGE(identities, struct lifl_identity);
LIFL_HASH(endpoints, struct lifl_endpoint, LIFL_MAX_ENDPOINTS);
LIFL_HASH(routes, struct lifl_route, LIFL_MAX_ENDPOINTS);
LIFL_SPARSE_HASH(groups, struct lifl_group, LIFL_MAX_GROUPS);
LIFL_SPARSE_PERCPU_HASH(counters, struct lifl_counters, LIFL_MAX_ENDPOINTS);
LIFL_PERCPU_ARRAY(drops, lifl_u64, LIFL_DROP_REASONS);

/* bcc rewrites its map syntax where it stands in this file and outside of macros, hence twice. */
#ifdef LIFL_BCC
static inline struct lifl_identity *identity_of(struct sk_msg_md *msg)
{
	return identities.sk_storage_get(msg->sk, 0, 0);
}
static inline struct lifl_endpoint *endpoint_of(lifl_u32 *id)
{
	return endpoints.lookup(id);
}
static inline struct lifl_route *route_of(lifl_u32 *id)
{
	return routes.lookup(id);
}
static inline struct lifl_group *group_of(lifl_u32 *id)
{
	return groups.lookup(id);
}
static inline struct lifl_counters *counters_of(lifl_u32 *id)
{
	return counters.lookup(id);
}
static inline lifl_u64 *drops_of(int *reason)
{
	return drops.lookup(reason);
}
static inline int pass_on(struct sk_msg_md *msg, lifl_u32 *id, lifl_u64 flags)
{
	return sockets.msg_redirect_hash(msg, id, flags);
}
#else
static inline struct lifl_identity *identity_of(struct sk_msg_md *msg)
{
	return bpf_sk_storage_get(&identities, msg->sk, 0, 0);
}
static inline struct lifl_endpoint *endpoint_of(lifl_u32 *id)
{
	return bpf_map_lookup_elem(&endpoints, id);
}
static inline struct lifl_route *route_of(lifl_u32 *id)
{
	return bpf_map_lookup_elem(&routes, id);
}
static inline struct lifl_group *group_of(lifl_u32 *id)
{
	return bpf_map_lookup_elem(&groups, id);
}
static inline struct lifl_counters *counters_of(lifl_u32 *id)
{
	return bpf_map_lookup_elem(&counters, id);
}
static inline lifl_u64 *drops_of(int *reason)
{
	return bpf_map_lookup_elem(&drops, reason);
}
static inline int pass_on(struct sk_msg_md *msg, lifl_u32 *id, lifl_u64 flags)
{
	return bpf_msg_redirect_hash(msg, &sockets, id, flags);
}
#endif

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
	struct lifl_endpoint *target = endpoint_of(&to);
	struct lifl_counters *c;

	if (!target)
		return LIFL_DROP_DESTINATION_GONE;
	if (target->domain != from->domain)
		return LIFL_DROP_DOMAIN;
	if (pass_on(msg, &to, BPF_F_INGRESS) != SK_PASS)
		return LIFL_DROP_DESTINATION_GONE;

	/* Atomic, though per CPU: a program may preempt another on the same CPU. */
	c = counters_of(&from->endpoint);
	if (c) {
		__sync_fetch_and_add(&c->tx_messages, 1);
		__sync_fetch_and_add(&c->tx_bytes, bytes);
	}
	c = counters_of(&to);
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
	struct lifl_group *group = group_of(&id);
	int reason = LIFL_DROP_NO_MEMBER;
	lifl_u32 first, had;

	if (!group || !group->count)
		return reason;
	if (from->cycle != group->cycle) {
		from->cycle = group->cycle;
		from->turn = 0;
		from->had = 0;
	}
	had = from->had;
	first = from->turn % group->count;
	if (first >= LIFL_MAX_MEMBERS)
		return reason;
	if (had >= group->runs[first]) {
		first++;
		had = 0;
	}
	for (lifl_u32 i = 0; i < LIFL_MAX_MEMBERS && i < group->count; i++) {
		lifl_u32 at = (first + i) % group->count;
		int why;

		if (at >= LIFL_MAX_MEMBERS)
			break;
		why = redirect(msg, from, group->members[at], bytes);
		if (why == LIFL_DROP_NONE) {
			from->turn = at;
			from->had = (i ? 0 : had) + 1;
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
	r = route_of(&from->endpoint);
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
	lifl_u64 *n = drops_of(&reason);

	if (n)
		__sync_fetch_and_add(n, 1);
}

LIFL_PROGRAM(lifl_route)(struct sk_msg_md *msg)
{
	struct lifl_identity *from = NULL;
	int reason;

	if (msg->sk)
		from = identity_of(msg);
	if (!from) {
		count_drop(LIFL_DROP_NO_IDENTITY);
		return SK_DROP;
	}
	reason = route(msg, from);
	if (reason == LIFL_DROP_NONE)
		return SK_PASS;
	count_drop(reason);
	return pass_on(msg, &from->endpoint, 0);
}
