// Asks for a small object at a fixed rate over many connections, whether answers come or not (an open loop), and counts
// each answer's time from when its request was due, so that a server that stands still is charged for all who wait.
// The first answer on each connection is not counted: all of them are opened at once, which is not what is measured.
//
//     latency CONNECTIONS RATE_PER_S SECONDS PORT PATH
//
// Prints "P50 P99 MAX" in milliseconds. Ends with 1 at anything but 200 answers with a Content-Length.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MAX = 65536 };

struct connection {
    int socket;
    double due;
    size_t size;
    int opened;
    char answer[ANSWER_MAX + 1];
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int compare(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static int whole(const struct connection *connection) {
    const char *end = strstr(connection->answer, "\r\n\r\n");
    if (!end) return 0;
    const char *length = strcasestr(connection->answer, "content-length:");
    if (strncmp(connection->answer + 9, "200", 3) || !length) {
        fprintf(stderr, "%s\n", connection->answer);
        exit(1);
    }
    return connection->size >= (size_t)(end + 4 - connection->answer) + (size_t)atoll(length + 15);
}

int main(int count, char **arguments) {
    if (count != 6) return 2;
    int connections = atoi(arguments[1]), one = 1, epoll = epoll_create1(0);
    double rate = atof(arguments[2]);
    long counted = (long)(rate * atof(arguments[3])), total = connections + counted, asked = 0, answered = 0, timed = 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[4]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char request[2048];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", arguments[5]);
    struct connection *all = calloc((size_t)connections, sizeof *all), **free_ones = calloc((size_t)connections, sizeof *free_ones);
    double *times = calloc((size_t)total, sizeof *times);
    int first = 0, free_count = connections;  // a ring, so that all connections take their turn
    for (int i = 0; i < connections; i++) {
        all[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(all[i].socket, (struct sockaddr *)&address, sizeof address)) fail("connect");
        setsockopt(all[i].socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].socket, &event);
        free_ones[i] = &all[i];
    }
    double start = now(), next = start;
    while (answered < total) {
        for (; asked < total && free_count && next <= now(); next = start + (double)++asked / rate) {
            struct connection *connection = free_ones[first];
            first = (first + 1) % connections;
            free_count--;
            connection->due = next;
            connection->size = 0;
            if (send(connection->socket, request, strlen(request), 0) < 0) fail("send");
        }
        double wait = asked < total && free_count ? next - now() : 10;
        struct timespec timeout = {.tv_sec = (time_t)(wait > 0 ? wait : 0), .tv_nsec = 0};
        timeout.tv_nsec = wait > 0 ? (long)((wait - (double)timeout.tv_sec) * 1e9) : 0;
        struct epoll_event events[64];
        int ready = epoll_pwait2(epoll, events, 64, &timeout, NULL);
        if (ready < 0 || (!ready && wait >= 10)) fail("silence");
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            ssize_t size = recv(connection->socket, connection->answer + connection->size, ANSWER_MAX - connection->size, 0);
            if (size <= 0) fail("the answer ended early");
            connection->size += (size_t)size;
            connection->answer[connection->size] = 0;
            if (!whole(connection)) continue;
            answered++;
            if (connection->opened) times[timed++] = now() - connection->due;
            connection->opened = 1;
            free_ones[(first + free_count++) % connections] = connection;
        }
    }
    qsort(times, (size_t)timed, sizeof *times, compare);
    printf("%.3f %.3f %.3f\n", times[timed / 2] * 1e3, times[timed * 99 / 100] * 1e3, times[timed - 1] * 1e3);
    return 0;
}
