/*
 * load: the measured loops of the benches, in C, because the overhead of anything else would hide the differences between the peers.
 *
 *     load fill FILE BYTES                         writes the pattern (an 8-byte word tells its own offset); not measured
 *     load files DIR PREFIX COUNT BYTES            makes COUNT files of the pattern in DIR; not measured
 *     load stat DIR PREFIX COUNT                   lstat of PREFIX0, PREFIX1, ...
 *     load read-small DIR PREFIX COUNT BYTES       open, read, close of each
 *     load create DIR PREFIX COUNT BYTES           create, write BYTES at once, close
 *     load list DIR                                readdir, then lstat of every name: what ls -l does
 *     load read FILE BLOCK_BYTES BYTES_MAX SECONDS_MAX           sequential, from the start; 0: no limit
 *     load write FILE BLOCK_BYTES BYTES direct|sync|buffered    sequential, then fsync, then close
 *     load check FILE BLOCK_BYTES BYTES            whether `write` has written it; not measured
 *     load random FILE READS THREADS SEED       4 KiB reads of different places, no place twice
 *     load warm BYTES                           holds so much memory, says so, and gives it away as others take memory; not measured
 *
 * Each prints one line of key=value: count or bytes, elapsed_ns of the loop, and for loops over operations p50_ns, p99_ns and max_ns of one
 * operation. Everything read is checked against the pattern at one word per 4 KiB page. The exit code is 1, with a line on standard error,
 * when anything fails.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define THREADS_MAX 256

static void fail(const char *what, const char *name) {
  fprintf(stderr, "load: %s %s: %s\n", what, name, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t number(const char *text) {
  char *end;
  errno = 0;
  uint64_t value = strtoull(text, &end, 10);
  if (errno != 0 || *end != 0 || end == text) {
    errno = EINVAL;
    fail("number", text);
  }
  return value;
}

/* The word at an offset (a multiple of 8): no two pages are alike, nothing compresses. */
static uint64_t pattern(uint64_t offset) {
  uint64_t x = offset + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static void make_pattern(char *buffer, size_t length, uint64_t offset) {
  for (size_t at = 0; at < length; at += 8) {
    uint64_t word = pattern(offset + at);
    memcpy(buffer + at, &word, length - at < 8 ? length - at : 8);
  }
}

/* Looks at the first word of every page that begins in the buffer. */
static void check_pattern(const char *buffer, size_t length, uint64_t offset) {
  for (size_t at = (PAGE - offset % PAGE) % PAGE; at + 8 <= length; at += PAGE) {
    uint64_t word;
    memcpy(&word, buffer + at, 8);
    if (word != pattern(offset + at)) {
      fprintf(stderr, "load: wrong data at offset %" PRIu64 "\n", offset + at);
      exit(1);
    }
  }
}

static void *aligned(size_t length) {
  void *buffer;
  if (posix_memalign(&buffer, PAGE, length + PAGE) != 0) fail("memory", "");
  memset(buffer, 0, length);
  return buffer;
}

static void write_all(int fd, const char *buffer, size_t length, const char *name) {
  while (length > 0) {
    ssize_t n = write(fd, buffer, length);
    if (n < 0) fail("write", name);
    buffer += n;
    length -= (size_t)n;
  }
}

static int by_value(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static void print_operations(uint64_t *took_ns, size_t count, uint64_t elapsed_ns) {
  qsort(took_ns, count, sizeof *took_ns, by_value);
  printf("count=%zu elapsed_ns=%" PRIu64 " p50_ns=%" PRIu64 " p99_ns=%" PRIu64 " max_ns=%" PRIu64 "\n", count, elapsed_ns,
         took_ns[count / 2], took_ns[count * 99 / 100], took_ns[count - 1]);
}

/* -- many small files ------------------------------------------------------------------------------------------------------------- */

enum operation { MAKE, STAT, READ_SMALL, CREATE };

static void one_file(enum operation operation, const char *name, char *buffer, size_t bytes) {
  struct stat st;
  if (operation == STAT) {
    if (lstat(name, &st) != 0) fail("lstat", name);
    return;
  }
  int fd = open(name, operation == READ_SMALL ? O_RDONLY : O_WRONLY | O_CREAT | O_EXCL, 0644);
  if (fd < 0) fail("open", name);
  if (operation == READ_SMALL) {
    ssize_t n = read(fd, buffer, bytes + 1);
    if (n != (ssize_t)bytes) fail("short read", name);
    check_pattern(buffer, bytes, 0);
  } else {
    write_all(fd, buffer, bytes, name);
  }
  if (close(fd) != 0) fail("close", name);
}

static void many_files(enum operation operation, const char *directory, const char *prefix, size_t count, size_t bytes) {
  if (chdir(directory) != 0) fail("chdir", directory);
  if (count == 0) return;
  uint64_t *took_ns = calloc(count, sizeof *took_ns);
  char *buffer = aligned(bytes + 1);
  make_pattern(buffer, bytes, 0);
  char name[256];
  uint64_t start_ns = now_ns();
  for (size_t i = 0; i < count; i++) {
    snprintf(name, sizeof name, "%s%zu", prefix, i);
    uint64_t begin_ns = now_ns();
    one_file(operation, name, buffer, bytes);
    took_ns[i] = now_ns() - begin_ns;
  }
  print_operations(took_ns, count, now_ns() - start_ns);
}

static void list(const char *directory) {
  uint64_t start_ns = now_ns();
  DIR *open_directory = opendir(directory);
  if (open_directory == NULL) fail("opendir", directory);
  size_t count = 0;
  struct dirent *entry;
  /* glibc's readdir buffer holds more than one reply, so names and lstat calls are interleaved as in ls -f -l or find -ls. */
  while (errno = 0, (entry = readdir(open_directory)) != NULL) {
    struct stat st;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (fstatat(dirfd(open_directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) fail("lstat", entry->d_name);
    count++;
  }
  if (errno != 0) fail("readdir", directory);
  closedir(open_directory);
  printf("count=%zu elapsed_ns=%" PRIu64 "\n", count, now_ns() - start_ns);
}

/* -- one large file --------------------------------------------------------------------------------------------------------------- */

static void fill(const char *name, uint64_t bytes) {
  size_t block = 1 << 20;
  char *buffer = aligned(block);
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) fail("open", name);
  for (uint64_t at = 0; at < bytes; at += block) {
    size_t length = bytes - at < block ? (size_t)(bytes - at) : block;
    make_pattern(buffer, length, at);
    write_all(fd, buffer, length, name);
  }
  if (close(fd) != 0) fail("close", name);
}

static void read_sequential(const char *name, size_t block, uint64_t bytes_max, uint64_t seconds_max) {
  char *buffer = aligned(block);
  uint64_t start_ns = now_ns(), at = 0;
  int fd = open(name, O_RDONLY);
  if (fd < 0) fail("open", name);
  while (bytes_max == 0 || at < bytes_max) {
    ssize_t n = read(fd, buffer, block);
    if (n < 0) fail("read", name);
    if (n == 0) break;
    check_pattern(buffer, (size_t)n, at);
    at += (uint64_t)n;
    if (seconds_max > 0 && now_ns() - start_ns > seconds_max * 1000000000u) break;
  }
  uint64_t elapsed_ns = now_ns() - start_ns;
  if (close(fd) != 0) fail("close", name);
  printf("bytes=%" PRIu64 " elapsed_ns=%" PRIu64 "\n", at, elapsed_ns);
}

static void write_sequential(const char *name, size_t block, uint64_t bytes, const char *mode) {
  int flags = strcmp(mode, "direct") == 0 ? O_DIRECT : strcmp(mode, "sync") == 0 ? O_SYNC : 0;
  /* Made once: the pattern must not be part of what is measured, so every block repeats the first one. */
  char *buffer = aligned(block);
  make_pattern(buffer, block, 0);
  uint64_t start_ns = now_ns();
  int fd = open(name, O_WRONLY | O_CREAT | flags, 0644);
  if (fd < 0) fail("open", name);
  for (uint64_t at = 0; at < bytes; at += block)
    write_all(fd, buffer, bytes - at < block ? (size_t)(bytes - at) : block, name);
  uint64_t written_ns = now_ns() - start_ns;
  if (fsync(fd) != 0) fail("fsync", name);
  if (close(fd) != 0) fail("close", name);
  printf("bytes=%" PRIu64 " elapsed_ns=%" PRIu64 " written_ns=%" PRIu64 "\n", bytes, now_ns() - start_ns, written_ns);
}

/* Every block is the first one, see above. */
static void check_written(const char *name, size_t block, uint64_t bytes) {
  char *buffer = aligned(block);
  int fd = open(name, O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) fail("open", name);
  if ((uint64_t)st.st_size != bytes) {
    fprintf(stderr, "load: %s has %" PRIu64 " bytes, not %" PRIu64 "\n", name, (uint64_t)st.st_size, bytes);
    exit(1);
  }
  for (uint64_t at = 0; at < bytes; at += block) {
    size_t length = bytes - at < block ? (size_t)(bytes - at) : block;
    for (size_t got = 0; got < length;) {
      ssize_t n = read(fd, buffer + got, length - got);
      if (n <= 0) fail("read", name);
      got += (size_t)n;
    }
    check_pattern(buffer, length, 0);
  }
  close(fd);
}

/* -- random reads ----------------------------------------------------------------------------------------------------------------- */

static struct {
  int fd;
  const char *name;
  uint64_t pages, step, first, reads;
  size_t threads;
  uint64_t *took_ns;
} job;

/* Page number of the i-th read: a walk with a step that has no factor in common with the number of pages visits none twice. */
static uint64_t page_of(uint64_t i) {
  return (uint64_t)(((__uint128_t)i * job.step + job.first) % job.pages);
}

static void *random_thread(void *argument) {
  char *buffer = aligned(PAGE);
  for (uint64_t i = (uint64_t)(uintptr_t)argument; i < job.reads; i += job.threads) {
    uint64_t offset = page_of(i) * PAGE, begin_ns = now_ns();
    if (pread(job.fd, buffer, PAGE, (off_t)offset) != PAGE) fail("pread", job.name);
    job.took_ns[i] = now_ns() - begin_ns;
    check_pattern(buffer, PAGE, offset);
  }
  return NULL;
}

static uint64_t common_factor(uint64_t a, uint64_t b) {
  while (b != 0) {
    uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

static void read_random(const char *name, uint64_t reads, size_t threads, uint64_t seed) {
  struct stat st;
  job.name = name;
  job.fd = open(name, O_RDONLY);
  if (job.fd < 0 || fstat(job.fd, &st) != 0) fail("open", name);
  job.pages = (uint64_t)st.st_size / PAGE;
  job.reads = reads;
  job.threads = threads;
  if (threads < 1 || threads > THREADS_MAX || reads < 1 || reads > job.pages) {
    errno = EINVAL;
    fail("reads or threads", name);
  }
  job.first = pattern(seed) % job.pages;
  job.step = pattern(seed + 1) % job.pages | 1;
  while (common_factor(job.step, job.pages) != 1) job.step += 2;
  job.took_ns = calloc(reads, sizeof *job.took_ns);
  /* Without it the kernel might read ahead where two places happen to be neighbours. */
  posix_fadvise(job.fd, 0, 0, POSIX_FADV_RANDOM);
  pthread_t ids[THREADS_MAX];
  uint64_t start_ns = now_ns();
  for (size_t i = 0; i < threads; i++)
    if (pthread_create(&ids[i], NULL, random_thread, (void *)(uintptr_t)i) != 0) fail("thread", name);
  for (size_t i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  print_operations(job.took_ns, reads, now_ns() - start_ns);
}

/* -- memory ----------------------------------------------------------------------------------------------------------------------- */

#define WARM_STEP (2u << 20)
/* How much is given away before somebody has taken it. */
#define WARM_AHEAD (512u << 20)

static uint64_t free_bytes(void) {
  struct sysinfo info;
  if (sysinfo(&info) != 0) fail("sysinfo", "");
  return (uint64_t)info.freeram * info.mem_unit;
}

static void warm(uint64_t wanted) {
  uint64_t bytes = wanted < free_bytes() / 2 ? wanted : free_bytes() / 2;
  bytes -= bytes % WARM_STEP;
  char *memory = mmap(NULL, bytes + WARM_STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("memory", "");
  madvise(memory, bytes, MADV_HUGEPAGE);
  for (uint64_t at = 0; at < bytes; at += PAGE) *(volatile char *)(memory + at) = 1;
  printf("bytes=%" PRIu64 "\n", bytes);
  fflush(stdout);
  uint64_t before = free_bytes(), given = 0;
  while (given < bytes) {
    uint64_t now = free_bytes(), taken = before + given > now ? before + given - now : 0;
    for (; given < bytes && given < taken + WARM_AHEAD; given += WARM_STEP) munmap(memory + given, WARM_STEP);
    struct timespec pause = {0, 2000000};
    nanosleep(&pause, NULL);
  }
}

int main(int count, char **words) {
  const char *what = count > 1 ? words[1] : "";
  if (strcmp(what, "fill") == 0 && count == 4)
    fill(words[2], number(words[3]));
  else if (strcmp(what, "files") == 0 && count == 6)
    many_files(MAKE, words[2], words[3], number(words[4]), number(words[5]));
  else if (strcmp(what, "stat") == 0 && count == 5)
    many_files(STAT, words[2], words[3], number(words[4]), 0);
  else if (strcmp(what, "read-small") == 0 && count == 6)
    many_files(READ_SMALL, words[2], words[3], number(words[4]), number(words[5]));
  else if (strcmp(what, "create") == 0 && count == 6)
    many_files(CREATE, words[2], words[3], number(words[4]), number(words[5]));
  else if (strcmp(what, "list") == 0 && count == 3)
    list(words[2]);
  else if (strcmp(what, "read") == 0 && count == 6)
    read_sequential(words[2], number(words[3]), number(words[4]), number(words[5]));
  else if (strcmp(what, "write") == 0 && count == 6)
    write_sequential(words[2], number(words[3]), number(words[4]), words[5]);
  else if (strcmp(what, "check") == 0 && count == 5)
    check_written(words[2], number(words[3]), number(words[4]));
  else if (strcmp(what, "random") == 0 && count == 6)
    read_random(words[2], number(words[3]), number(words[4]), number(words[5]));
  else if (strcmp(what, "warm") == 0 && count == 3)
    warm(number(words[2]));
  else {
    fprintf(stderr, "load: see the head of load.c\n");
    return 2;
  }
  return 0;
}
