/* SPDX-License-Identifier: Apache-2.0
 *
 * One source, two compilers.  With LIFL_BCC, bcc compiles at the agent's start.
 * Without, clang makes an object ahead of time for libbpf to load, out of libbpf's
 * headers and the kernel's for user space.  Both must make the same maps:
 * ebpf/agent/loader.py looks at every one.
 *
 * Keys are lifl_u32.  SPARSE maps take memory for what is in them only.
 */
#ifndef LIFL_MAPS_H
#define LIFL_MAPS_H

#include "lifl_wire.h"

#ifdef LIFL_BCC

#define BPF_LICENSE Apache-2.0

#define LIFL_HASH(name, type, max) BPF_HASH(name, lifl_u32, type, max)
#define LIFL_SPARSE_HASH(name, type, max) \
	BPF_F_TABLE("hash", lifl_u32, type, name, max, BPF_F_NO_PREALLOC)
#define LIFL_SPARSE_PERCPU_HASH(name, type, max) \
	BPF_F_TABLE("percpu_hash", lifl_u32, type, name, max, BPF_F_NO_PREALLOC)
#define LIFL_PERCPU_ARRAY(name, type, max) BPF_PERCPU_ARRAY(name, type, max)
#define LIFL_SK_STORAGE(name, type) BPF_SK_STORAGE(name, type)
/* bcc's own sockhash has 4-byte values. */
#define LIFL_SOCKHASH(name, max)                                                 \
	struct name##_table_t {                                                  \
		lifl_u32 key;                                                    \
		lifl_u64 leaf;                                                   \
		int (*msg_redirect_hash)(void *, void *, u64);                   \
		u32 max_entries;                                                 \
	};                                                                       \
	__attribute__((section("maps/sockhash"))) struct name##_table_t name = { \
		.max_entries = max,                                              \
	};                                                                       \
	BPF_ANNOTATE_KV_PAIR(name, lifl_u32, lifl_u64)

#define LIFL_PROGRAM(name) int name

#else

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define NULL ((void *)0)

#define LIFL_MAP(name, map_type, value_type, max, flags) \
	struct {                                         \
		__uint(type, map_type);                  \
		__uint(map_flags, flags);                \
		__uint(max_entries, max);                \
		__type(key, lifl_u32);                   \
		__type(value, value_type);               \
	} name SEC(".maps")

#define LIFL_HASH(name, type, max) LIFL_MAP(name, BPF_MAP_TYPE_HASH, type, max, 0)
#define LIFL_SPARSE_HASH(name, type, max) \
	LIFL_MAP(name, BPF_MAP_TYPE_HASH, type, max, BPF_F_NO_PREALLOC)
#define LIFL_SPARSE_PERCPU_HASH(name, type, max) \
	LIFL_MAP(name, BPF_MAP_TYPE_PERCPU_HASH, type, max, BPF_F_NO_PREALLOC)
#define LIFL_PERCPU_ARRAY(name, type, max) LIFL_MAP(name, BPF_MAP_TYPE_PERCPU_ARRAY, type, max, 0)
#define LIFL_SOCKHASH(name, max) LIFL_MAP(name, BPF_MAP_TYPE_SOCKHASH, lifl_u64, max, 0)
/* The kernel wants an int as the key, and no maximum. */
#define LIFL_SK_STORAGE(name, value_type)              \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_SK_STORAGE); \
		__uint(map_flags, BPF_F_NO_PREALLOC);  \
		__type(key, int);                      \
		__type(value, value_type);             \
	} name SEC(".maps")

#define LIFL_PROGRAM(name) SEC("sk_msg") int name

char _license[] SEC("license") = "Apache-2.0";
/* Which sources the object was made of: layout() of ebpf/agent/loader.py. */
char _layout[] SEC("lifl_layout") = LIFL_LAYOUT;

#endif

#endif /* LIFL_MAPS_H */
