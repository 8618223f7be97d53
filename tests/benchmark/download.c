// Downloads a path many times over several connections and throws the bytes away, which costs next to nothing
// (MSG_TRUNC copies none), so that the server is what is measured.
//
//     download CONNECTIONS DOWNLOADS PORT PATH
//
// Prints "BYTES SECONDS". Ends with 1 at anything but 2xx answers with a Content-Length and all their bytes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 4096, SILENCE_MS = 20000 };

struct connection {
    int socket;
    long long left;  // bytes of body to come; -1 while the head is read
    char head[HEAD_MAX + 1];
};

static char request[2048];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void ask(struct connection *connection) {
    connection->left = -1;
    if (send(connection->socket, request, strlen(request), 0) != (ssize_t)strlen(request)) fail("send");
}

// Looks at what has come, and takes the head out of the socket once it is whole.
static void read_head(struct connection *connection) {
    char *head = connection->head;
    ssize_t size = recv(connection->socket, head, HEAD_MAX, MSG_PEEK);
    if (size <= 0) fail("no answer");
    head[size] = 0;
    char *end = strstr(head, "\r\n\r\n"), *length = strcasestr(head, "content-length:");
    if (!end) return;
    if (strncmp(head + 9, "20", 2) || !length) {
        fprintf(stderr, "%s\n", head);
        exit(1);
    }
    connection->left = atoll(length + 15);
    if (recv(connection->socket, head, (size_t)(end + 4 - head), 0) != end + 4 - head) fail("recv");
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    int connections = atoi(arguments[1]), downloads = atoi(arguments[2]);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[3]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", arguments[4]);
    int epoll = epoll_create1(0), begun = 0, done = 0, one = 1;
    struct connection *all = calloc((size_t)connections, sizeof *all);
    long long bytes = 0;
    double start = now();
    for (; begun < connections && begun < downloads; begun++) {
        struct connection *connection = &all[begun];
        connection->socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection->socket, (struct sockaddr *)&address, sizeof address)) fail("connect");
        setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(epoll, EPOLL_CTL_ADD, connection->socket, &event);
        ask(connection);
    }
    while (done < downloads) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, SILENCE_MS);
        if (ready <= 0) fail("silence");
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection->left < 0) {
                read_head(connection);
                continue;
            }
            size_t wanted = connection->left < (1 << 30) ? (size_t)connection->left : (size_t)1 << 30;
            ssize_t size = recv(connection->socket, NULL, wanted, MSG_DONTWAIT | MSG_TRUNC);
            if (size < 0 && errno == EAGAIN) continue;
            if (size <= 0) fail("the body ended early");
            bytes += size;
            connection->left -= size;
            if (connection->left) continue;
            done++;
            if (begun < downloads) {
                begun++;
                ask(connection);
            }
        }
    }
    printf("%lld %.6f\n", bytes, now() - start);
    return 0;
}
