/* Copyright (c) 2026, PortFence contributors
 * GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What sends and what receives while the benchmark measures.
 *
 *   load serve PORT         in the background: UDP that nobody reads, TCP that is closed at once; on PORT + 1, TCP that is read to the end
 *   load udp|connect|bulk UID MS ADDRESS DESTINATIONS PORT FIRST_SOURCE SOURCES
 *
 * A client starts as root, takes a processor and a high priority, and becomes UID. It works for MS milliseconds and
 * prints one number: nanoseconds a datagram, nanoseconds a connection, bytes a second. The first two are the median of
 * short slices, so that one in which another program had the processor does not count. DESTINATIONS addresses
 * from ADDRESS on take turns. With FIRST_SOURCE 0 a socket is not bound; else to one of SOURCES ports, in turn.
 *
 * A connection ends with a reset, so that neither side keeps a port for it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DATAGRAMS = 128, CONNECTIONS = 16, SLICES = 1 << 16, CHUNK = 1 << 17 };

static char chunk[CHUNK];
static uint64_t slices[SLICES];

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* Clients take the last processor, servers the first. */
static void place(int last)
{
	cpu_set_t all, one;
	int cpu, found = -1;

	if (setpriority(PRIO_PROCESS, 0, -20))
		err(1, "setpriority");
	if (sched_getaffinity(0, sizeof all, &all))
		err(1, "sched_getaffinity");
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && (last || found < 0))
			found = cpu;
	CPU_ZERO(&one);
	CPU_SET(found, &one);
	if (sched_setaffinity(0, sizeof one, &one))
		err(1, "sched_setaffinity");
}

static struct sockaddr_in at(uint32_t address, uint16_t port)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = { htonl(address) } };

	return name;
}

static int bound(int kind, uint16_t port)
{
	struct sockaddr_in name = at(INADDR_ANY, port);
	int one = 1, fd = socket(AF_INET, kind, 0);

	if (fd < 0)
		err(1, "socket");
	if (port && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) || bind(fd, (struct sockaddr *)&name, sizeof name)))
		err(1, "bind to port %u", port);
	return fd;
}

static int listening(uint16_t port)
{
	int fd = bound(SOCK_STREAM, port);

	if (listen(fd, 4096))
		err(1, "listen");
	return fd;
}

static void count(int fd)
{
	uint64_t total = 0;
	ssize_t got;

	while ((got = read(fd, chunk, sizeof chunk)) > 0)
		total += got;
	send(fd, &total, sizeof total, MSG_NOSIGNAL); /* a client that reset the connection does not ask */
}

static void serve(uint16_t port)
{
	int udp = bound(SOCK_DGRAM, port), small = 1;
	int closing = listening(port), reading = listening(port + 1);

	place(0);
	if (setsockopt(udp, SOL_SOCKET, SO_RCVBUF, &small, sizeof small))
		err(1, "SO_RCVBUF");
	if (daemon(0, 0))
		err(1, "daemon");
	if (!fork()) {
		for (;;) {
			int fd = accept(reading, NULL, NULL);

			if (fd >= 0) {
				count(fd);
				close(fd);
			}
		}
	}
	for (;;)
		close(accept(closing, NULL, NULL));
}

static int ascending(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

static double median(size_t number)
{
	qsort(slices, number, sizeof *slices, ascending);
	return number % 2 ? slices[number / 2] : (slices[number / 2 - 1] + slices[number / 2]) / 2.0;
}

struct way {
	uint32_t address;
	unsigned destinations;
	uint16_t port, first, sources;
};

static int open_to(int kind, const struct way *way, unsigned turn, uint16_t port)
{
	struct linger reset = { 1, 0 };
	struct sockaddr_in name = at(way->address + turn / (way->first ? way->sources : 1) % way->destinations, port);
	int fd = bound(kind, way->first ? way->first + turn % way->sources : 0);

	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset))
		err(1, "SO_LINGER");
	if (connect(fd, (struct sockaddr *)&name, sizeof name))
		err(1, "connect");
	return fd;
}

/* Another one than that of the last client: tracked flows outlive their sockets, and keep the ports that NAT gave them. */
static unsigned some_turn(void)
{
	return now() / 1000 % 65536;
}

static double datagrams(const struct way *way, uint64_t duration)
{
	char payload[64] = { 0 };
	int fd = open_to(SOCK_DGRAM, way, some_turn(), way->port), i;
	uint64_t begin = now(), last = begin, next;
	size_t number = 0;

	do {
		for (i = 0; i < DATAGRAMS; i++)
			if (send(fd, payload, sizeof payload, 0) < 0)
				err(1, "send");
		next = now();
		slices[number++] = next - last;
		last = next;
	} while (next - begin < duration && number < SLICES);
	return median(number) / DATAGRAMS;
}

static double connections(const struct way *way, uint64_t duration)
{
	uint64_t begin = now(), last = begin, next;
	unsigned turn = some_turn();
	size_t number = 0;
	int i;

	do {
		for (i = 0; i < CONNECTIONS; i++)
			close(open_to(SOCK_STREAM, way, turn++, way->port));
		next = now();
		slices[number++] = next - last;
		last = next;
	} while (next - begin < duration && number < SLICES);
	return median(number) / CONNECTIONS;
}

static double bulk(const struct way *way, uint64_t duration)
{
	int fd = open_to(SOCK_STREAM, way, some_turn(), way->port + 1);
	uint64_t begin = now(), total;

	while (now() - begin < duration)
		if (write(fd, chunk, sizeof chunk) < 0)
			err(1, "write");
	shutdown(fd, SHUT_WR);
	if (read(fd, &total, sizeof total) != sizeof total)
		err(1, "read");
	return total * 1e9 / (now() - begin);
}

int main(int argc, char **argv)
{
	struct way way;
	struct in_addr address;
	uint64_t duration;
	uid_t uid;

	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(atoi(argv[2]));
	if (argc != 9 || !inet_aton(argv[4], &address))
		errx(2, "usage: load serve PORT | load udp|connect|bulk UID MS ADDRESS DESTINATIONS PORT FIRST_SOURCE SOURCES");
	uid = atoi(argv[2]);
	duration = atoi(argv[3]) * 1000000ull;
	way = (struct way){ ntohl(address.s_addr), atoi(argv[5]), atoi(argv[6]), atoi(argv[7]), atoi(argv[8]) };
	place(1);
	if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		err(1, "setresuid");
	if (!strcmp(argv[1], "udp"))
		printf("%.1f\n", datagrams(&way, duration));
	else if (!strcmp(argv[1], "connect"))
		printf("%.1f\n", connections(&way, duration));
	else if (!strcmp(argv[1], "bulk"))
		printf("%.0f\n", bulk(&way, duration));
	else
		errx(2, "there is no %s", argv[1]);
	return 0;
}
