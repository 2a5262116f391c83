/* SPDX-License-Identifier: Apache-2.0
 *
 * The one definition of what crosses from function to function and of what the
 * agent and the kernel programs share.  Fixed-width types and explicit padding
 * only; no kernel header, so that both bcc and a plain C compiler read it.
 * lifl/wire.py mirrors it; tests/contract/test_wire_header.py holds them equal.
 */
#ifndef LIFL_WIRE_H
#define LIFL_WIRE_H

#ifndef __KERNEL__
#include <stdint.h>
typedef uint8_t lifl_u8;
typedef uint16_t lifl_u16;
typedef uint32_t lifl_u32;
typedef uint64_t lifl_u64;
#else
typedef unsigned char lifl_u8;
typedef unsigned short lifl_u16;
typedef unsigned int lifl_u32;
typedef unsigned long long lifl_u64;
#endif

#define LIFL_WIRE_VERSION 1
#define LIFL_PAGE_BYTES 4096
#define LIFL_MAX_MEMBERS 64

/* Opcodes: what the receiver should do. */
#define LIFL_OP_OBJECT 1 /* a sealed object waits in (slot, generation) */
#define LIFL_OP_FLUSH 2  /* seal and send what you hold for this assignment */
#define LIFL_OP_WAKE 3   /* your role row changed: read it again */

/* Endpoint kinds. */
#define LIFL_KIND_AGENT 1
#define LIFL_KIND_GATEWAY 2
#define LIFL_KIND_AGGREGATOR 3
#define LIFL_KIND_COORDINATOR 4

/* Where a route leads. */
#define LIFL_ROUTE_NONE 0
#define LIFL_ROUTE_ENDPOINT 1
#define LIFL_ROUTE_GROUP 2

/* Why a descriptor was dropped; numbers are stable, new ones go at the end. */
#define LIFL_DROP_NONE 0
#define LIFL_DROP_BAD_SIZE 1
#define LIFL_DROP_BAD_VERSION 2
#define LIFL_DROP_BAD_OPCODE 3
#define LIFL_DROP_NO_IDENTITY 4
#define LIFL_DROP_NO_ROUTE 5
#define LIFL_DROP_NO_MEMBER 6
#define LIFL_DROP_DOMAIN 7
#define LIFL_DROP_DESTINATION_GONE 8
#define LIFL_DROP_DESTINATION_FULL 9 /* plain-socket data plane only */
#define LIFL_DROP_REASONS 10

/* A descriptor names an object; it never carries a payload or a destination. */
struct lifl_descriptor {
	lifl_u8 version;
	lifl_u8 opcode;
	lifl_u16 slot;
	lifl_u32 generation;
	lifl_u32 assignment;
	lifl_u32 pages; /* object size in LIFL_PAGE_BYTES, rounded up: for accounting */
};

/* Socket storage: who a socket is, written by the agent alone. */
struct lifl_identity {
	lifl_u32 endpoint;
	lifl_u32 domain;
	lifl_u32 kind;
	lifl_u16 turn; /* whose turn it is in this sender's group: an index */
	lifl_u16 had;  /* descriptors that this member got in a row */
	lifl_u32 cycle; /* the group's, when it last sent */
};

struct lifl_endpoint {
	lifl_u32 domain;
	lifl_u32 kind;
};

struct lifl_route {
	lifl_u32 type;
	lifl_u32 target; /* endpoint id or group id */
};

struct lifl_group {
	lifl_u32 count;
	lifl_u32 cycle; /* senders begin with the first member when it is another */
	lifl_u32 members[LIFL_MAX_MEMBERS];
	lifl_u32 runs[LIFL_MAX_MEMBERS]; /* descriptors in a row for each, 1 to 65535 */
};

struct lifl_counters {
	lifl_u64 tx_messages;
	lifl_u64 tx_bytes; /* bytes of the objects named, not of the descriptors */
	lifl_u64 rx_messages;
	lifl_u64 rx_bytes;
	lifl_u64 last_arrival_ns; /* CLOCK_MONOTONIC */
};

_Static_assert(sizeof(struct lifl_descriptor) == 16, "descriptor is 16 bytes");
_Static_assert(sizeof(struct lifl_identity) == 20, "identity is 20 bytes");
_Static_assert(sizeof(struct lifl_endpoint) == 8, "endpoint is 8 bytes");
_Static_assert(sizeof(struct lifl_route) == 8, "route is 8 bytes");
_Static_assert(sizeof(struct lifl_group) == 8 + 8 * LIFL_MAX_MEMBERS, "group has no padding");
_Static_assert(sizeof(struct lifl_counters) == 40, "counters are 40 bytes");

#endif /* LIFL_WIRE_H */
