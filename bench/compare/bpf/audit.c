/* SPDX-License-Identifier: Apache-2.0
 *
 * What a group makes the kernel do: its context switches alone, which may be counted while time is
 * measured, and with AUDIT the rest.
 *
 * Whether something belongs to the group its control group says, the one entry of `group`, which
 * user space fills in; children of that group count as well.  SELF is the process that looks:
 * while it starts processes for the group it is in there itself.
 *
 * Only what tracepoints hand over by value is read, never a field of a kernel structure: any
 * kernel's headers do for compiling.  HAVE_* say what this kernel has.  CELLS and the
 * number of each cell (C_*) come from user space, whose names are the only list.
 *
 * One file, as bcc rewrites its macros nowhere else.
 */
#include <asm/unistd.h>

BPF_CGROUP_ARRAY(group, 1);
BPF_PERCPU_ARRAY(cells, u64, CELLS);

static inline int in_group(void)
{
	return group.check_current_task(0) > 0 && (bpf_get_current_pid_tgid() >> 32) != SELF;
}

/* Atomic, though per CPU: an interrupt's program may come in between. */
static inline void add(int cell, u64 n)
{
	u64 *c = cells.lookup(&cell);

	if (c)
		__sync_fetch_and_add(c, n);
}

/* The switching task is still the current one.  It gives up the CPU of its own accord when its
 * state is one of waiting; running, or the state that stands for preempted, is not. */
#define PREEMPTED 0x100

TRACEPOINT_PROBE(sched, sched_switch)
{
	if (in_group())
		add(args->prev_state > 0 && args->prev_state < PREEMPTED ? C_SWITCHES_VOLUNTARY :
									   C_SWITCHES_INVOLUNTARY,
		    1);
	return 0;
}

#ifdef AUDIT
#define FAMILY_UNIX 1
#define SOFTIRQ_NET_TX 2
#define SOFTIRQ_NET_RX 3

/* What the thread's system call is: those whose bytes may be a file's or a socket's. */
enum call { READ = 1, WRITE, SPLICE, OF_A_SOCKET };
BPF_HASH(calls, u64, u32, 16384);

static inline u32 kind(long number)
{
	switch (number) {
	case __NR_read:
	case __NR_readv:
	case __NR_pread64:
	case __NR_preadv:
	case __NR_preadv2:
		return READ;
	case __NR_write:
	case __NR_writev:
	case __NR_pwrite64:
	case __NR_pwritev:
	case __NR_pwritev2:
		return WRITE;
	case __NR_sendfile:
	case __NR_splice:
		return SPLICE;
	default:
		return 0;
	}
}

TRACEPOINT_PROBE(raw_syscalls, sys_enter)
{
	u32 what = kind(args->id);
	u64 thread;

	if (!in_group())
		return 0;
	add(C_SYSCALLS, 1);
	if (what) {
		thread = bpf_get_current_pid_tgid();
		calls.update(&thread, &what);
	}
	return 0;
}

TRACEPOINT_PROBE(raw_syscalls, sys_exit)
{
	u64 thread;
	u32 *what;

	if (!in_group() || !kind(args->id))
		return 0;
	thread = bpf_get_current_pid_tgid();
	what = calls.lookup(&thread);
	if (!what)
		return 0;
	if (args->ret > 0 && *what == READ)
		add(C_OTHER_READ, args->ret);
	if (args->ret > 0 && *what == WRITE)
		add(C_OTHER_WRITTEN, args->ret);
	calls.delete(&thread);
	return 0;
}

#ifdef HAVE_SOCK
TRACEPOINT_PROBE(sock, sock_send_length)
{
	u64 thread = bpf_get_current_pid_tgid();
	u32 of_a_socket = OF_A_SOCKET;
	long bytes = args->ret;
	u32 *what;

	if (!in_group())
		return 0;
	what = calls.lookup(&thread);
	if (what && *what == SPLICE) {
		if (bytes > 0)
			add(C_SPLICED, bytes);
		return 0;
	}
	if (what)
		calls.update(&thread, &of_a_socket);
	if (bytes <= 0)
		return 0;
	add(C_SENDS, 1);
	add(args->family == FAMILY_UNIX ? C_UNIX_SENT : C_INET_SENT, bytes);
	if (bytes >= LARGE)
		add(C_LARGE_SENT, bytes);
	return 0;
}

TRACEPOINT_PROBE(sock, sock_recv_length)
{
	u64 thread = bpf_get_current_pid_tgid();
	u32 of_a_socket = OF_A_SOCKET;
	long bytes = args->ret;

	if (!in_group())
		return 0;
	if (calls.lookup(&thread))
		calls.update(&thread, &of_a_socket);
	if (bytes <= 0)
		return 0;
	add(C_RECEIVES, 1);
	add(args->family == FAMILY_UNIX ? C_UNIX_RECEIVED : C_INET_RECEIVED, bytes);
	if (bytes >= LARGE)
		add(C_LARGE_RECEIVED, bytes);
	return 0;
}
#endif

/* A softirq works for whom it interrupts only by chance, hence the machine's number beside it;
 * on the loopback device it runs where the sender lets bottom halves in again. */
TRACEPOINT_PROBE(irq, softirq_entry)
{
	int mine;

	if (args->vec != SOFTIRQ_NET_RX && args->vec != SOFTIRQ_NET_TX)
		return 0;
	mine = in_group();
	if (args->vec == SOFTIRQ_NET_RX) {
		add(C_MACHINE_SOFTIRQS_RX, 1);
		if (mine)
			add(C_SOFTIRQS_RX, 1);
	} else {
		add(C_MACHINE_SOFTIRQS_TX, 1);
		if (mine)
			add(C_SOFTIRQS_TX, 1);
	}
	return 0;
}

TRACEPOINT_PROBE(irq, irq_handler_entry)
{
	if (in_group())
		add(C_INTERRUPTS, 1);
	return 0;
}

#ifdef HAVE_FAULTS
TRACEPOINT_PROBE(exceptions, page_fault_user)
{
	if (in_group())
		add(C_PAGE_FAULTS, 1);
	return 0;
}
#endif

/* Attached to the group itself: the kernel runs them for packets of its sockets, whatever
 * process is interrupted for them.  One packet may be many segments' worth (GSO). */
int outgoing(struct __sk_buff *skb)
{
	add(C_PACKETS_OUT, 1);
	add(C_PACKET_BYTES_OUT, skb->len);
	return 1;
}

int incoming(struct __sk_buff *skb)
{
	add(C_PACKETS_IN, 1);
	add(C_PACKET_BYTES_IN, skb->len);
	return 1;
}
#endif
