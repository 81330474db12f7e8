// Calls that only a kernel mount can be asked: mappings, locks, fifos, sockets, splice, libc's directory streams, removed directories.
//
//     calls DIRECTORY
//
// Works in DIRECTORY and prints one line a result. Nothing printed depends on the machine, so that the output over a mount and over a
// plain directory must be the same. A child that does not end within 20 s is killed by its alarm, and shows as that.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define SAY(...) (printf(__VA_ARGS__), fflush(stdout))
#define TRY(label, call)                                                     \
  do {                                                                       \
    errno = 0;                                                               \
    long came = (long)(call);                                                \
    SAY("%s: %ld %s\n", label, came, came < 0 ? strerrorname_np(errno) : ""); \
  } while (0)

static sigjmp_buf fault_place;
static void on_fault(int number) { siglongjmp(fault_place, number); }

// Runs `body` in a child and says how it ended.
static void in_child(const char* label, void (*body)(void)) {
  pid_t pid = fork();
  if (pid == 0) {
    alarm(20);
    body();
    _exit(0);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  SAY("%s: child %s %d\n", label, WIFEXITED(status) ? "exit" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static int make(const char* name, size_t bytes, char fill) {
  int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
  char* data = malloc(bytes);
  memset(data, fill, bytes);
  if (write(fd, data, bytes) != (ssize_t)bytes) SAY("make %s failed\n", name);
  free(data);
  return fd;
}

static unsigned long sum(const char* name) {
  int fd = open(name, O_RDONLY);
  unsigned long total = 5381;
  unsigned char data[65536];
  ssize_t got;
  while ((got = read(fd, data, sizeof data)) > 0)
    for (ssize_t i = 0; i < got; i++) total = total * 33 + data[i];
  close(fd);
  return total;
}

static void shared_mapping(void) {
  int fd = make("shared", 4 * PAGE + 100, 'a');
  char* map = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) {
    TRY("shared mmap", -1);
    return;
  }
  map[0] = 'M', map[PAGE] = 'N', map[4 * PAGE + 99] = 'Z';
  map[4 * PAGE + 200] = 'x';  // Behind the end of the file: in the page, never in the file.
  char seen[3] = {0};
  pread(fd, seen, 1, 0), pread(fd, seen + 1, 1, PAGE);
  SAY("read sees the mapping: %s\n", seen);
  pwrite(fd, "W", 1, 2 * PAGE);
  SAY("the mapping sees a write: %c\n", map[2 * PAGE]);
  TRY("msync", msync(map, 5 * PAGE, MS_SYNC));
  SAY("shared: %lu\n", sum("shared"));
  struct stat st;
  fstat(fd, &st);
  SAY("size after msync: %ld\n", (long)st.st_size);
  TRY("grow", ftruncate(fd, 5 * PAGE));
  SAY("behind the old end: %d\n", map[4 * PAGE + 100]);
  TRY("shrink", ftruncate(fd, PAGE));
  int caught = sigsetjmp(fault_place, 1);
  if (caught == 0) {
    volatile char gone = map[3 * PAGE];
    (void)gone;
    SAY("no fault\n");
  } else {
    SAY("fault behind the end: %s\n", caught == SIGBUS ? "SIGBUS" : "other");
  }
  TRY("unlink", unlink("shared"));
  map[10] = 'U';
  TRY("msync unlinked", msync(map, PAGE, MS_SYNC));
  char last = 0;
  pread(fd, &last, 1, 10);
  SAY("unlinked and mapped: %c\n", last);
  munmap(map, 5 * PAGE);
  close(fd);
}

static void private_mapping(void) {
  int fd = make("private", 2 * PAGE, 'p');
  char* map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  map[0] = 'X';
  pwrite(fd, "YY", 2, 0);
  SAY("private keeps its own: %c %c\n", map[0], map[1] == 'p' ? 'X' : map[1] == 'Y' ? 'X' : '?');
  pwrite(fd, "Q", 1, PAGE);
  SAY("private sees pages it has not written: %c\n", map[PAGE]);
  SAY("private: %lu\n", sum("private"));
  munmap(map, 2 * PAGE);
  close(fd);
  fd = open("private", O_RDONLY);
  TRY("shared writable of read-only", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
  TRY("private writable of read-only", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
  close(fd);
}

static void map_in_child(void) {
  int fd = open("between", O_RDWR);
  char* map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  while (((volatile char*)map)[0] != '1') usleep(100);
  map[1] = '2';
}

static void mapping_between_processes(void) {
  int fd = make("between", PAGE, '0');
  char* map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  map[0] = '1';
  in_child("mapping between processes", map_in_child);
  SAY("what the child wrote: %c\n", map[1]);
  munmap(map, PAGE);
  close(fd);
}

static void try_locks(void) {
  int fd = open("locked", O_RDWR);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
  TRY("child: locked range", fcntl(fd, F_SETLK, &lock));
  TRY("child: who", fcntl(fd, F_GETLK, &lock));
  SAY("child: type %d start %ld len %ld mine %d\n", lock.l_type, (long)lock.l_start, (long)lock.l_len, lock.l_pid == getppid());
  lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 10};
  TRY("child: free range", fcntl(fd, F_SETLK, &lock));
  lock = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 50, .l_len = 1};
  TRY("child: shared range", fcntl(fd, F_SETLK, &lock));
  TRY("child: flock", flock(open("flocked", O_RDONLY), LOCK_EX | LOCK_NB));
  TRY("child: shared flock", flock(open("flocked2", O_RDONLY), LOCK_SH | LOCK_NB));
  lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
  int other = open("locked", O_RDWR);
  TRY("child: open file description lock", fcntl(other, F_OFD_SETLK, &lock));
}

static void locks(void) {
  int fd = make("locked", 1000, 'l');
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 20};
  TRY("lock", fcntl(fd, F_SETLK, &lock));
  lock = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 50, .l_len = 10};
  TRY("shared lock", fcntl(fd, F_SETLK, &lock));
  int flocked = make("flocked", 10, 'f'), flocked2 = make("flocked2", 10, 'f');
  TRY("flock", flock(flocked, LOCK_EX));
  TRY("shared flock", flock(flocked2, LOCK_SH));
  in_child("locks", try_locks);
  // Closing any descriptor of the file gives up its POSIX locks.
  close(open("locked", O_RDONLY));
  flock(flocked, LOCK_UN);
  in_child("locks after", try_locks);
  close(fd), close(flocked), close(flocked2);
}

static void write_fifo(void) {
  int fd = open("fifo", O_WRONLY);
  write(fd, "through the fifo", 16);
}

static void fifo_and_socket(void) {
  TRY("mkfifo", mkfifo("fifo", 0644));
  TRY("nobody reads", open("fifo", O_WRONLY | O_NONBLOCK));
  int keep = open("fifo", O_RDONLY | O_NONBLOCK);
  in_child("fifo", write_fifo);
  char text[32] = {0};
  TRY("read fifo", read(keep, text, sizeof text));
  SAY("fifo: %s\n", text);
  close(keep);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
  int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
  TRY("bind", bind(server, (struct sockaddr*)&address, sizeof address));
  TRY("bind again", bind(client, (struct sockaddr*)&address, sizeof address));
  TRY("listen", listen(server, 1));
  TRY("connect", connect(client, (struct sockaddr*)&address, sizeof address));
  int end = accept(server, NULL, NULL);
  write(client, "hello", 5);
  memset(text, 0, sizeof text);
  TRY("socket read", read(end, text, 5));
  SAY("socket: %s\n", text);
  close(server), close(client), close(end);
}

static void vectors_and_splices(void) {
  int fd = make("vector", 0, 0);
  struct iovec parts[3] = {{"one ", 4}, {"two ", 4}, {"three", 5}};
  TRY("writev", writev(fd, parts, 3));
  TRY("pwritev", pwritev(fd, parts, 2, 100));
  char a[8] = {0}, b[8] = {0};
  struct iovec targets[2] = {{a, 4}, {b, 7}};
  TRY("preadv", preadv(fd, targets, 2, 0));
  SAY("vector: %s|%s|%lu\n", a, b, sum("vector"));
  close(fd);
  int big = make("big", 300000, 'b'), to = make("sent", 0, 0), pipes[2];
  off_t at = 0;
  TRY("sendfile", sendfile(to, big, &at, 300000));
  SAY("sent: %lu\n", sum("sent"));
  TRY("pipe", pipe(pipes));
  loff_t from = 5, into = 7;
  TRY("splice out of a file", splice(big, &from, pipes[1], NULL, 20000, 0));
  TRY("splice into a file", splice(pipes[0], NULL, to, &into, 20000, 0));
  SAY("spliced: %lu\n", sum("sent"));
  TRY("fadvise", posix_fadvise(big, 0, 0, POSIX_FADV_DONTNEED));
  TRY("readahead", readahead(big, 0, 100000));
  TRY("sync_file_range", sync_file_range(to, 0, 100000, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
  TRY("syncfs", syncfs(to));
  close(big), close(to), close(pipes[0]), close(pipes[1]);
}

static void direct_io(void) {
  char* block = NULL;
  if (posix_memalign((void**)&block, PAGE, 2 * PAGE)) return;
  memset(block, 'D', 2 * PAGE);
  int fd = open("direct", O_RDWR | O_CREAT | O_DIRECT, 0644), cached = open("direct", O_RDWR);
  TRY("direct write", pwrite(fd, block, 2 * PAGE, 0));
  char one = 0;
  TRY("cached read", pread(cached, &one, 1, PAGE));
  SAY("cached read after direct write: %c\n", one);
  TRY("cached write", pwrite(cached, "C", 1, 10));
  TRY("direct read", pread(fd, block, PAGE, 0));
  SAY("direct read after cached write: %c%c\n", block[9], block[10]);
  TRY("direct read at the end", pread(fd, block, 2 * PAGE, PAGE));
  TRY("direct read behind the end", pread(fd, block, PAGE, 4 * PAGE));
  close(fd), close(cached), free(block);
}

static void directory_stream(void) {
  mkdir("stream", 0755);
  for (int i = 0; i < 300; i++) {
    char name[64];
    snprintf(name, sizeof name, "stream/a-rather-long-name-for-an-entry-%d", i);
    close(open(name, O_CREAT | O_WRONLY, 0644));
  }
  DIR* dir = opendir("stream");
  long places[400];
  char names[400][256];
  int count = 0, wrong = 0;
  for (struct dirent* entry; places[count] = telldir(dir), (entry = readdir(dir)) != NULL; count++)
    snprintf(names[count], sizeof names[count], "%s", entry->d_name);
  for (int i = count - 1; i >= 0; i -= 7) {
    seekdir(dir, places[i]);
    struct dirent* entry = readdir(dir);
    wrong += entry == NULL || strcmp(entry->d_name, names[i]) != 0;
  }
  rewinddir(dir);
  int again = 0;
  while (readdir(dir) != NULL) again++;
  SAY("stream: %d entries, %d wrong after seekdir, %d after rewinddir\n", count, wrong, again);
  closedir(dir);
}

static void removed_directories(void) {
  mkdir("gone", 0755);
  int here = open(".", O_RDONLY | O_DIRECTORY), gone = open("gone", O_RDONLY | O_DIRECTORY);
  TRY("fchdir", fchdir(gone));
  TRY("rmdir of the working directory", unlinkat(here, "gone", AT_REMOVEDIR));
  char path[4096];
  TRY("getcwd", getcwd(path, sizeof path) == NULL ? -1 : 0);
  TRY("create in it", open("x", O_CREAT | O_WRONLY, 0644));
  TRY("mkdir in it", mkdir("x", 0755));
  TRY("list it", readdir(opendir(".")) == NULL ? 0 : 1);
  struct stat st;
  TRY("stat it", stat(".", &st));
  SAY("links: %ld\n", (long)st.st_nlink);
  TRY("back", fchdir(here));
  close(gone), close(here);
}

static void* append(void* arg) {
  int fd = open("appended", O_WRONLY | O_APPEND);
  char line[64];
  for (int i = 0; i < 300; i++) {
    int bytes = snprintf(line, sizeof line, "%c%04d............\n", (char)(intptr_t)arg, i);
    if (write(fd, line, bytes) != bytes) SAY("short append\n");
  }
  close(fd);
  return NULL;
}

static void threads(void) {
  close(make("appended", 0, 0));
  pthread_t all[6];
  for (intptr_t i = 0; i < 6; i++) pthread_create(&all[i], NULL, append, (void*)('a' + i));
  for (int i = 0; i < 6; i++) pthread_join(all[i], NULL);
  struct stat st;
  stat("appended", &st);
  SAY("six threads appended: %ld\n", (long)st.st_size);
}

static void run_script(void) {
  execl("./script", "script", "argument", NULL);
  _exit(errno);
}

static void executing(void) {
  int fd = make("script", 0, 0);
  dprintf(fd, "#!/bin/sh\necho script ran with $1\n");
  close(fd);
  in_child("not executable", run_script);
  chmod("script", 0755);
  in_child("executable", run_script);
  fd = open("script", O_RDWR);
  in_child("open for writing", run_script);
  close(fd);
  struct stat st;
  TRY("statx of the root", stat("/", &st));
}

static void rest(void) {
  int fd = make("rest", 10, 'r');
  struct statvfs vfs;
  TRY("fstatvfs", fstatvfs(fd, &vfs));
  SAY("name max %lu, path max %ld, link max over 100: %d\n", vfs.f_namemax, pathconf(".", _PC_PATH_MAX), pathconf(".", _PC_LINK_MAX) > 100);
  TRY("dup", close(dup(fd)));
  TRY("after dup", write(fd, "x", 1));
  TRY("ftruncate of a negative size", ftruncate(fd, -1));
  TRY("lseek far", lseek(fd, (off_t)1 << 40, SEEK_SET) == (off_t)1 << 40 ? 0 : -1);
  TRY("posix_fallocate", posix_fallocate(fd, 0, 100000));
  TRY("size after it", lseek(fd, 0, SEEK_END));
  TRY("tcgetattr", isatty(fd) - 1);
  TRY("openat through a file", openat(fd, "x", O_RDONLY));
  TRY("O_DIRECTORY of a file", open("rest", O_RDONLY | O_DIRECTORY));
  char self[64];
  snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  TRY("link of an open file by /proc", linkat(AT_FDCWD, self, AT_FDCWD, "by-proc", AT_SYMLINK_FOLLOW));
  close(fd);
}

int main(int count, char** args) {
  if (count != 2 || chdir(args[1]) != 0) return 2;
  struct sigaction action = {.sa_handler = on_fault};
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
  shared_mapping();
  private_mapping();
  mapping_between_processes();
  locks();
  fifo_and_socket();
  vectors_and_splices();
  direct_io();
  directory_stream();
  removed_directories();
  threads();
  executing();
  rest();
  return 0;
}
