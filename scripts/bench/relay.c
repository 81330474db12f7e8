/*
 * relay: how fast one file could at best be read and written through FUSE and loopback TCP on this machine, with no protocol, no cache,
 * no cryptography and no JavaScript. Threads of one process, each with its own socket, relay 1 MiB FUSE requests to a server thread that
 * reads and writes the backing file. It is the floor the benches compare with; it is no file system.
 *
 *     relay BACKING_FILE MOUNTPOINT THREADS PORT
 *
 * The file appears as MOUNTPOINT/f, and under every other name; lookups are answered without the network.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define IO_BYTES (1 << 20)

static int fuse_fd, backing_fd, port;

struct request {
  uint32_t write, length;
  uint64_t offset;
};

/* -- both sides ------------------------------------------------------------------------------------------------------------------- */

static void transfer(int socket, void *buffer, size_t length, int sending) {
  char *at = buffer;
  while (length > 0) {
    ssize_t n = sending ? send(socket, at, length, MSG_NOSIGNAL) : recv(socket, at, length, MSG_WAITALL);
    if (n <= 0) pthread_exit(NULL);
    at += n;
    length -= (size_t)n;
  }
}

static void send_all(int socket, void *buffer, size_t length) { transfer(socket, buffer, length, 1); }
static void receive_all(int socket, void *buffer, size_t length) { transfer(socket, buffer, length, 0); }

static void set_no_delay(int socket) {
  int one = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_in loopback(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/* -- the server's side ------------------------------------------------------------------------------------------------------------ */

static void *serve(void *argument) {
  int socket = (int)(long)argument;
  char *buffer = malloc(IO_BYTES);
  struct request request;
  for (;;) {
    receive_all(socket, &request, sizeof request);
    uint32_t done;
    if (request.write) {
      receive_all(socket, buffer, request.length);
      ssize_t n = pwrite(backing_fd, buffer, request.length, (off_t)request.offset);
      done = n < 0 ? 0 : (uint32_t)n;
      send_all(socket, &done, sizeof done);
    } else {
      ssize_t n = pread(backing_fd, buffer, request.length, (off_t)request.offset);
      done = n < 0 ? 0 : (uint32_t)n;
      send_all(socket, &done, sizeof done);
      send_all(socket, buffer, done);
    }
  }
  return NULL;
}

static void *accept_all(void *argument) {
  int listener = (int)(long)argument;
  for (;;) {
    int socket = accept(listener, NULL, NULL);
    if (socket < 0) continue;
    set_no_delay(socket);
    pthread_t thread;
    pthread_create(&thread, NULL, serve, (void *)(long)socket);
  }
  return NULL;
}

/* -- the client's side ------------------------------------------------------------------------------------------------------------ */

static void reply(uint64_t unique, int error, void *data, size_t length) {
  struct fuse_out_header header = {.len = (uint32_t)(sizeof header + length), .error = error, .unique = unique};
  struct iovec parts[2] = {{&header, sizeof header}, {data, length}};
  if (writev(fuse_fd, parts, length > 0 ? 2 : 1) < 0 && errno == ENODEV) exit(0);
}

static void fill_attributes(struct fuse_attr *attr, uint64_t node) {
  memset(attr, 0, sizeof *attr);
  attr->ino = node;
  if (node == 1) {
    attr->mode = S_IFDIR | 0755;
    attr->nlink = 2;
    return;
  }
  struct stat st;
  fstat(backing_fd, &st);
  attr->mode = S_IFREG | 0644;
  attr->nlink = 1;
  attr->size = (uint64_t)st.st_size;
  attr->blksize = 4096;
}

static void answer_init(uint64_t unique, const struct fuse_init_in *in) {
  struct fuse_init_out out = {.major = 7, .minor = 38, .max_readahead = in->max_readahead};
  out.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS;
  out.max_background = 64;
  out.congestion_threshold = 48;
  out.max_write = IO_BYTES;
  out.time_gran = 1;
  out.max_pages = IO_BYTES / 4096;
  reply(unique, 0, &out, sizeof out);
}

static void answer_read(int socket, uint64_t unique, const struct fuse_read_in *in, char *buffer) {
  struct request request = {0, in->size, in->offset};
  uint32_t length;
  send_all(socket, &request, sizeof request);
  receive_all(socket, &length, sizeof length);
  receive_all(socket, buffer, length);
  reply(unique, 0, buffer, length);
}

static void answer_write(int socket, uint64_t unique, struct fuse_write_in *in) {
  struct request request = {1, in->size, in->offset};
  uint32_t done;
  send_all(socket, &request, sizeof request);
  send_all(socket, in + 1, in->size);
  receive_all(socket, &done, sizeof done);
  struct fuse_write_out out = {.size = done};
  reply(unique, done == in->size ? 0 : -EIO, done == in->size ? &out : NULL, done == in->size ? sizeof out : 0);
}

static void answer(int socket, struct fuse_in_header *header, void *body, char *buffer) {
  uint64_t unique = header->unique;
  switch (header->opcode) {
  case FUSE_INIT:
    answer_init(unique, body);
    break;
  case FUSE_LOOKUP: {
    struct fuse_entry_out out = {.nodeid = 2, .generation = 1, .entry_valid = 3600, .attr_valid = 3600};
    fill_attributes(&out.attr, 2);
    reply(unique, 0, &out, sizeof out);
    break;
  }
  case FUSE_GETATTR:
  case FUSE_SETATTR: {
    struct fuse_attr_out out = {.attr_valid = 3600};
    fill_attributes(&out.attr, header->nodeid);
    reply(unique, 0, &out, sizeof out);
    break;
  }
  case FUSE_OPEN:
  case FUSE_OPENDIR: {
    struct fuse_open_out out = {.fh = 1};
    reply(unique, 0, &out, sizeof out);
    break;
  }
  case FUSE_READ:
    answer_read(socket, unique, body, buffer);
    break;
  case FUSE_WRITE:
    answer_write(socket, unique, body);
    break;
  case FUSE_FSYNC:
    reply(unique, fdatasync(backing_fd) == 0 ? 0 : -errno, NULL, 0);
    break;
  case FUSE_RELEASE:
  case FUSE_RELEASEDIR:
  case FUSE_FLUSH:
  case FUSE_ACCESS:
    reply(unique, 0, NULL, 0);
    break;
  case FUSE_FORGET:
  case FUSE_BATCH_FORGET:
    break;
  default:
    reply(unique, -ENOSYS, NULL, 0);
  }
}

static void *relay(void *argument) {
  (void)argument;
  struct sockaddr_in address = loopback();
  int server = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(server, (void *)&address, sizeof address) != 0) {
    perror("relay: connect");
    exit(1);
  }
  set_no_delay(server);
  size_t request_bytes = IO_BYTES + 8192;
  char *request, *buffer = malloc(IO_BYTES);
  if (buffer == NULL || posix_memalign((void **)&request, 4096, request_bytes) != 0) exit(1);
  for (;;) {
    ssize_t n = read(fuse_fd, request, request_bytes);
    if (n < 0 && errno == ENODEV) exit(0);
    if (n > 0) answer(server, (void *)request, request + sizeof(struct fuse_in_header), buffer);
  }
  return NULL;
}

int main(int count, char **words) {
  if (count != 5) {
    fprintf(stderr, "usage: relay BACKING_FILE MOUNTPOINT THREADS PORT\n");
    return 2;
  }
  backing_fd = open(words[1], O_RDWR);
  port = atoi(words[4]);
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = loopback();
  if (backing_fd < 0 || bind(listener, (void *)&address, sizeof address) != 0 || listen(listener, 64) != 0) {
    perror("relay");
    return 1;
  }
  pthread_t thread;
  pthread_create(&thread, NULL, accept_all, (void *)(long)listener);
  fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  char options[256];
  snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d", fuse_fd, IO_BYTES);
  if (mount("relay", words[2], "fuse.relay", MS_NOSUID | MS_NODEV, options) != 0) {
    perror("relay: mount");
    return 1;
  }
  for (int i = 0; i < atoi(words[3]); i++) pthread_create(&thread, NULL, relay, NULL);
  pthread_join(thread, NULL);
  return 0;
}
