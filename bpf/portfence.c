/* Copyright (c) 2026, PortFence contributors
 * GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Gives the sockets of services a source port inside their ranges when they connect: no address translation.
 *
 * A process belongs to the service of its cgroup, or of the nearest ancestor that has one, or else to that of its real
 * UID. A socket that is bound already keeps its port: what is wrong with it is the fence's business. The layout of the
 * maps is written by plugins/module_utils/_bpf.py.
 */

#include "kernel.h"

#define NAME_BYTES 32 /* the longest name of a service */
#define RANGES 16     /* a power of two: they are searched by halves */
#define STRIDES 4
#define LEVELS 16 /* of cgroups, the root being 0 */

/* Ports that are tried for one connection, at most. */
#define TRIES 1024
#define NEVER 0xffffffff

#define FLAG_LOOPBACK 1 /* connections to the host itself are governed as well */
#define FLAG_STRICT 2   /* bind() to a port outside is refused */
#define FLAG_TCP 4
#define FLAG_UDP 8

/* Ports are numbered by position, range after range: position start[i] is port low[i]. */
struct service {
	u32 flags;
	u32 ports; /* how many */
	u32 tries; /* how many of them are tried for one connection */
	u32 alone; /* TCP: how many tries come before a port is shared with a connection to another destination, or NEVER */
	u32 strides[STRIDES]; /* coprime to ports: steps of one length meet every position */
	u32 start[RANGES];    /* unused ones: beyond every position */
	u32 low[RANGES];
	u32 size[RANGES]; /* unused ones: 0 */
};

struct name {
	u8 bytes[NAME_BYTES];
};

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 16384);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, struct name);
	TYPE(value, struct service);
} services SECTION(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 16384);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, u32);
	TYPE(value, struct name);
} by_uid SECTION(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 16384);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, u64);
	TYPE(value, struct name);
} by_cgroup SECTION(".maps");

/* The only element: the levels at which by_cgroup can have something, a bit each. */
struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u32);
} levels SECTION(".maps");

/* The loader puts the version of the running kernel here, as a constant: what depends on it is dropped before the
 * verifier would refuse it. */
extern int LINUX_KERNEL_VERSION __attribute__((section(".kconfig")));

/* Keeps the compiler from making a branch of an arithmetic expression: the verifier would follow both ways, at every try. */
#define OPAQUE(value) asm volatile("" : "+r"(value))

static __attribute__((always_inline)) struct name *name_of_cgroup(void)
{
	u32 zero = 0;
	u32 *used = bpf_map_lookup_elem(&levels, &zero);

	if (!used || !*used)
		return 0;
	for (int level = LEVELS - 1; level > 0; level--) {
		if (!(*used >> level & 1))
			continue;
		u64 id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id) /* deeper than this process */
			continue;
		struct name *name = bpf_map_lookup_elem(&by_cgroup, &id);
		if (name)
			return name;
	}
	return 0;
}

static __attribute__((always_inline)) struct service *service_of_process(u32 protocol)
{
	u32 uid = bpf_get_current_uid_gid();
	struct name *name = name_of_cgroup();

	if (!name)
		name = bpf_map_lookup_elem(&by_uid, &uid);
	if (!name)
		return 0;
	struct service *service = bpf_map_lookup_elem(&services, name);
	if (!service)
		return 0;
	if (protocol == IPPROTO_TCP)
		return service->flags & FLAG_TCP ? service : 0;
	if (protocol == IPPROTO_UDP)
		return service->flags & FLAG_UDP ? service : 0;
	return 0;
}

static __attribute__((always_inline)) int is_loopback4(u32 address)
{
	return (address & 0xff) == 127;
}

static __attribute__((always_inline)) int is_loopback6(u32 a, u32 b, u32 c, u32 d)
{
	if (a | b)
		return 0;
	if (c == 0xffff0000) /* ::ffff:a.b.c.d */
		return is_loopback4(d);
	return c == 0 && d == 0x01000000;
}

/* The port at a position, without a branch. */
static __attribute__((always_inline)) u32 port_at(const struct service *service, u32 position)
{
	u32 index = 0;

	for (u32 half = RANGES / 2; half; half /= 2) {
		u32 other = (index + half) & (RANGES - 1);
		u64 before = (u64)position - service->start[other];
		OPAQUE(before);
		before >>= 63; /* The sign: 1 when the position lies before that range. */
		OPAQUE(before);
		index = (index + half - half * before) & (RANGES - 1);
	}
	return service->low[index] + position - service->start[index];
}

static __attribute__((always_inline)) int inside(const struct service *service, u32 port)
{
	for (int index = 0; index < RANGES; index++)
		if (port - service->low[index] < service->size[index])
			return 1;
	return 0;
}

/* Lets other sockets that are shared have the port as well, if they are connected elsewhere. */
#define SHARE(context)                                                                            \
	({                                                                                             \
		int yes = 1;                                                                               \
		bpf_setsockopt(context, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));                      \
	})

/* Gives the socket a port. Returns what connect() shall do: 1 to go on, 0 to fail.
 * A macro, for the two kinds of address. The loop is what the verifier takes its time for: it follows every try. */
#define ASSIGN(context, service, address)                                                         \
	({                                                                                             \
		u32 random = bpf_get_prandom_u32();                                                         \
		u32 stride = (service)->strides[random & (STRIDES - 1)];                                   \
		u32 position = (random >> 2) % (service)->ports;                                           \
		long error = -EADDRINUSE;                                                                  \
		for (u32 number = 0; number < TRIES; number++) {                                           \
			if (number >= (service)->tries)                                                        \
				break;                                                                             \
			if (number == (service)->alone && (context)->protocol == IPPROTO_TCP)                  \
				SHARE(context);                                                                    \
			(address).port = PORT((u16)port_at(service, position));                                \
			error = bpf_bind(context, &(address), sizeof(address));                                \
			if (error != -EADDRINUSE)                                                              \
				break;                                                                             \
			position += stride;                                                                    \
			if (position >= (service)->ports)                                                      \
				position -= (service)->ports;                                                      \
		}                                                                                          \
		if (!error && (service)->alone != NEVER && (context)->protocol == IPPROTO_TCP)             \
			SHARE(context);                                                                        \
		if (error && LINUX_KERNEL_VERSION >= KERNEL_VERSION(6, 1))                                 \
			bpf_set_retval(error == -EADDRINUSE ? -EADDRNOTAVAIL : (int)error);                    \
		!error;                                                                                    \
	})

SECTION("cgroup/connect4")
int portfence_conn4(struct bpf_sock_addr *context)
{
	struct service *service = service_of_process(context->protocol);

	if (!service)
		return 1;
	if (is_loopback4(context->user_ip4) && !(service->flags & FLAG_LOOPBACK))
		return 1;
	struct bpf_sock *sock = context->sk;
	if (!sock || sock->src_port)
		return 1;
	struct sockaddr_in address = {.family = AF_INET, .address = sock->src_ip4};
	return ASSIGN(context, service, address);
}

SECTION("cgroup/connect6")
int portfence_conn6(struct bpf_sock_addr *context)
{
	struct service *service = service_of_process(context->protocol);

	if (!service)
		return 1;
	if (is_loopback6(context->user_ip6[0], context->user_ip6[1], context->user_ip6[2], context->user_ip6[3]) &&
	    !(service->flags & FLAG_LOOPBACK))
		return 1;
	struct bpf_sock *sock = context->sk;
	if (!sock || sock->src_port)
		return 1;
	struct sockaddr_in6 address = {
		.family = AF_INET6,
		.address = {sock->src_ip6[0], sock->src_ip6[1], sock->src_ip6[2], sock->src_ip6[3]},
	};
	return ASSIGN(context, service, address);
}

static __attribute__((always_inline)) int may_bind(const struct service *service, u32 user_port, int loopback)
{
	u32 port = PORT((u16)user_port);

	if (!(service->flags & FLAG_STRICT) || !port)
		return 1;
	if (loopback && !(service->flags & FLAG_LOOPBACK))
		return 1;
	return inside(service, port);
}

SECTION("cgroup/bind4")
int portfence_bind4(struct bpf_sock_addr *context)
{
	struct service *service = service_of_process(context->protocol);

	return service ? may_bind(service, context->user_port, is_loopback4(context->user_ip4)) : 1;
}

SECTION("cgroup/bind6")
int portfence_bind6(struct bpf_sock_addr *context)
{
	struct service *service = service_of_process(context->protocol);

	if (!service)
		return 1;
	return may_bind(
		service, context->user_port,
		is_loopback6(context->user_ip6[0], context->user_ip6[1], context->user_ip6[2], context->user_ip6[3]));
}

/* None of the helpers above is for GPL-compatible programs only. */
char terms[] SECTION("license") = "GPL-3.0-or-later";
