// Random reads and changes of one file, each read compared with a model in memory; what fsx does for other file systems.
//
//     fsx FILE SEED STEPS BYTES_MAX
//
// The file is used through three opens at once (buffered, O_DIRECT, O_SYNC) and through mappings. The same seed makes the same steps. A
// difference, or an error of any call, prints the last steps and what is wrong, and ends it with exit code 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, HISTORY = 16, LINE = 120 };

static const char *path;
static int buffered, direct, synchronous;
static uint8_t *model, *scratch;
static size_t size_max, size;
static uint32_t state;
static char history[HISTORY][LINE];
static long step;

// mulberry32; the numbers of test/conformance/cases/generator.ts.
static uint32_t draw(uint32_t limit) {
  uint32_t mixed = (state += 0x6d2b79f5);
  mixed = (mixed ^ (mixed >> 15)) * (1 | mixed);
  mixed ^= mixed + (mixed ^ (mixed >> 7)) * (61 | mixed);
  return (mixed ^ (mixed >> 14)) % limit;
}

static void note(const char *format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(history[step % HISTORY], LINE, format, values);
  va_end(values);
}

static void fail(const char *format, ...) {
  const int error = errno;
  va_list values;
  va_start(values, format);
  fprintf(stderr, "fsx: step %ld, %s: ", step, history[step % HISTORY]);
  vfprintf(stderr, format, values);
  va_end(values);
  fprintf(stderr, " (errno now: %s); the steps before:\n", strerror(error));
  for (long at = step < HISTORY ? 0 : step - HISTORY + 1; at < step; at++) fprintf(stderr, "  %ld %s\n", at, history[at % HISTORY]);
  exit(1);
}

// A length: often near a page, a request or a section, sometimes any.
static size_t draw_length(void) {
  static const size_t near[] = {1, 100, PAGE, 2 * PAGE, 65536, 131072, 1 << 20, (1 << 20) + PAGE};
  size_t length = draw(3) == 0 ? 1 + draw(size_max / 4) : near[draw(8)] + draw(3) - 1;
  if (length == 0) length = 1;
  return length < size_max / 2 ? length : size_max / 2;
}

static size_t align(size_t bytes) { return bytes / PAGE * PAGE; }

static void fill(uint8_t *bytes, size_t length) {
  const uint32_t seed = draw(UINT32_MAX);
  for (size_t at = 0; at < length; at++) bytes[at] = (uint8_t)((at * 2654435761u + seed) >> 13);
}

static void grow(size_t end) {
  if (end > size) size = end;
}

static void compare(const uint8_t *found, size_t at, size_t length) {
  for (size_t i = 0; i < length; i++) {
    if (found[i] != model[at + i]) fail("byte %zu is %02x and should be %02x", at + i, found[i], model[at + i]);
  }
}

static void write_by(int fd, const char *how, int is_aligned) {
  size_t length = draw_length();
  size_t at = draw(3) == 0 ? size : draw(size_max - length);
  if (is_aligned) {
    length = align(length + PAGE - 1);
    at = align(at);
  }
  if (at + length > size_max) return note("%s write of nothing", how);
  note("%s write of %zu at %zu, size %zu", how, length, at, size);
  fill(scratch, length);
  for (size_t done = 0; done < length;) {
    const ssize_t count = pwrite(fd, scratch + done, length - done, at + done);
    if (count <= 0) fail("wrote %zd", count);
    done += count;
  }
  memcpy(model + at, scratch, length);
  grow(at + length);
}

// Reads `length` bytes at `at`, or up to the end, and compares them.
static void check_range(int fd, size_t at, size_t length) {
  const size_t expected = at >= size ? 0 : size - at < length ? size - at : length;
  size_t done = 0;
  for (ssize_t count = 1; count != 0 && done < length; done += count) {
    count = pread(fd, scratch + done, length - done, at + done);
    if (count < 0) fail("read failed");
  }
  if (done != expected) fail("read %zu bytes and should %zu", done, expected);
  compare(scratch, at, done);
}

static void read_by(int fd, const char *how, int is_aligned) {
  size_t length = draw_length();
  size_t at = draw(size + PAGE);
  if (is_aligned) {
    length = align(length + PAGE - 1);
    at = align(at);
  }
  note("%s read of %zu at %zu, size %zu", how, length, at, size);
  check_range(fd, at, length);
}

static void use_mapping(int is_write) {
  const size_t at = align(draw(size + 1));
  size_t length = draw_length();
  if (at >= size) return note("mapping of nothing");
  if (length > size - at) length = size - at;
  note("mapped %s of %zu at %zu, size %zu", is_write ? "write" : "read", length, at, size);
  uint8_t *mapping = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, buffered, at);
  if (mapping == MAP_FAILED) fail("mmap");
  if (is_write) {
    fill(model + at, length);
    memcpy(mapping, model + at, length);
    if (draw(2) == 0 && msync(mapping, length, MS_SYNC) != 0) fail("msync");
  } else {
    compare(mapping, at, length);
  }
  if (munmap(mapping, length) != 0) fail("munmap");
}

static void truncate_it(void) {
  const size_t to = draw(2) == 0 ? draw(size_max) : draw(size + 1);
  note("truncate from %zu to %zu", size, to);
  if (ftruncate(buffered, to) != 0) fail("ftruncate");
  // What is beyond the end is always zero in the model.
  if (to < size) memset(model + to, 0, size - to);
  size = to;
}

static void punch(void) {
  const size_t at = draw(size + 1);
  const size_t length = draw_length();
  note("hole of %zu at %zu, size %zu", length, at, size);
  if (fallocate(buffered, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length) != 0) fail("fallocate");
  if (at < size) memset(model + at, 0, length < size - at ? length : size - at);
}

static void copy(void) {
  const size_t length = draw_length();
  if (2 * length >= size) return note("copy of nothing");
  const size_t from = draw(size - 2 * length);
  const size_t to = from + length + draw(size - from - 2 * length + 1);
  note("copy of %zu from %zu to %zu, size %zu", length, from, to, size);
  loff_t in = from, out = to;
  for (size_t done = 0; done < length;) {
    const ssize_t count = copy_file_range(buffered, &in, buffered, &out, length - done, 0);
    if (count <= 0) fail("copied %zd", count);
    done += count;
  }
  memcpy(model + to, model + from, length);
}

static int open_as(int flags) {
  const int fd = open(path, flags | O_RDWR | O_CREAT, 0644);
  if (fd < 0) fail("open");
  return fd;
}

static void reopen(void) {
  note("reopen");
  if (close(buffered) != 0 || close(direct) != 0 || close(synchronous) != 0) fail("close");
  buffered = open_as(0);
  direct = open_as(O_DIRECT);
  synchronous = open_as(O_SYNC);
}

static void check_size(void) {
  struct stat found;
  note("size %zu", size);
  if (fstat(buffered, &found) != 0) fail("fstat");
  if ((size_t)found.st_size != size) fail("it is %lld", (long long)found.st_size);
}

static void sync_it(void) {
  note("fsync");
  if (fsync(buffered) != 0) fail("fsync");
}

static void act(void) {
  const uint32_t kind = draw(100);
  if (kind < 25) write_by(buffered, "buffered", 0);
  else if (kind < 31) write_by(direct, "direct", 1);
  else if (kind < 35) write_by(synchronous, "synchronous", 0);
  else if (kind < 60) read_by(buffered, "buffered", 0);
  else if (kind < 68) read_by(direct, "direct", 1);
  else if (kind < 73) use_mapping(0);
  else if (kind < 79) use_mapping(1);
  else if (kind < 86) truncate_it();
  else if (kind < 89) punch();
  else if (kind < 92) copy();
  else if (kind < 95) sync_it();
  else if (kind < 97) reopen();
  else check_size();
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  path = argv[1];
  state = (uint32_t)atol(argv[2]);
  const long steps = atol(argv[3]);
  size_max = align(atol(argv[4]));
  model = calloc(size_max + 2 * PAGE, 1);
  if (model == NULL || posix_memalign((void **)&scratch, PAGE, size_max + 2 * PAGE) != 0) return 2;
  buffered = open_as(O_TRUNC);
  direct = open_as(O_DIRECT);
  synchronous = open_as(O_SYNC);
  for (step = 0; step < steps; step++) act();
  reopen();
  note("the whole at the end");
  check_range(buffered, 0, size_max);
  printf("%ld steps, %zu bytes\n", steps, size);
  return 0;
}
