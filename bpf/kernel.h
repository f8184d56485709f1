/* Copyright (c) 2026, PortFence contributors
 * GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the program uses of the kernel's interface to eBPF programs, numbers and layouts as in <linux/bpf.h> and
 * bpf-helpers(7). Written out here so that the object depends on this checkout and on clang alone.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define SECTION(name) __attribute__((section(name), used))

/* A map of libbpf's kind: BTF tells the loader what is declared here. */
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, type) typeof(type) *name
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_F_NO_PREALLOC 1

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define SOL_SOCKET 1
#define SO_REUSEADDR 2
#define EADDRINUSE 98
#define EADDRNOTAVAIL 99

#define KERNEL_VERSION(major, minor) (((major) << 16) + ((minor) << 8))

/* Big endian, as the network has it. */
#define PORT(number) __builtin_bswap16(number)

struct bpf_sock {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	u32 src_ip4;
	u32 src_ip6[4];
	u32 src_port; /* host byte order */
};

struct bpf_sock_addr {
	u32 user_family;
	u32 user_ip4;
	u32 user_ip6[4];
	u32 user_port; /* network byte order */
	u32 family;
	u32 type;
	u32 protocol;
	u32 msg_src_ip4;
	u32 msg_src_ip6[4];
	struct bpf_sock *sk __attribute__((aligned(8)));
};

struct sockaddr_in {
	u16 family;
	u16 port;
	u32 address;
	u8 zero[8];
};

struct sockaddr_in6 {
	u16 family;
	u16 port;
	u32 flow;
	u32 address[4];
	u32 scope;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static long (*const bpf_setsockopt)(void *context, int level, int option, void *value, int length) = (void *)49;
static long (*const bpf_bind)(struct bpf_sock_addr *context, void *address, int length) = (void *)64;
static u64 (*const bpf_get_current_ancestor_cgroup_id)(int level) = (void *)123;
static int (*const bpf_set_retval)(int error) = (void *)187;
