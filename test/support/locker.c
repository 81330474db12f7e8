// A program that locks, reads and writes as it is told, line by line: one process with files of its own.
//
// It answers each line with one: "ok ...", or the name of an error. Run in the directory whose files it shall use. Commands:
//   open SLOT NAME r|w|rw   tmpfile SLOT DIRECTORY   link SLOT NAME   close SLOT   dup SLOT FROM
//   lock SLOT posix|ofd read|write|unlock START LENGTH [wait]   LENGTH 0: to the end
//   find SLOT posix|ofd read|write START LENGTH
//   flock SLOT sh|ex|un [wait]
//   lease SLOT read|write|unlock   breaking: waits until somebody else wants a lease given up, which "lease" does
//   read SLOT OFFSET LENGTH   write SLOT OFFSET TEXT   truncate SLOT SIZE   size SLOT   sync SLOT
//   alarm MS    the next thing that waits is interrupted after so long, by a signal that is handled and restarts nothing
//   restart MS  the same by a signal after which system calls go on
//   fork        a child answers from now on, with copies of the descriptors; the parent waits for it and goes on when it has ended
//   exit
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int slots[16];
static int interrupted;

static void on_alarm(int signal) {
  (void)signal;
  interrupted++;
}

static void answer(int result) {
  if (result >= 0) printf("ok\n");
  else printf("%s\n", strerrorname_np(errno));
}

static void start_timer(const char* ms, int flags) {
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = flags};
  sigaction(SIGALRM, &action, NULL);
  long value = strtol(ms, NULL, 10);
  struct itimerval timer = {.it_value = {.tv_sec = value / 1000, .tv_usec = value % 1000 * 1000}};
  interrupted = 0;
  setitimer(ITIMER_REAL, &timer, NULL);
  printf("ok\n");
}

static short type_of(const char* name) {
  return *name == 'r' ? F_RDLCK : *name == 'w' ? F_WRLCK : F_UNLCK;
}

static void lock(int fd, const char* kind, const char* type, const char* start, const char* length, const char* how) {
  struct flock range = {.l_type = type_of(type), .l_whence = SEEK_SET};
  range.l_start = strtoll(start, NULL, 10);
  range.l_len = strtoll(length, NULL, 10);
  int ofd = *kind == 'o';
  int waits = *how == 'w';
  answer(fcntl(fd, waits ? (ofd ? F_OFD_SETLKW : F_SETLKW) : ofd ? F_OFD_SETLK : F_SETLK, &range));
}

static void find(int fd, const char* kind, const char* type, const char* start, const char* length) {
  struct flock range = {.l_type = type_of(type), .l_whence = SEEK_SET};
  range.l_start = strtoll(start, NULL, 10);
  range.l_len = strtoll(length, NULL, 10);
  if (fcntl(fd, *kind == 'o' ? F_OFD_GETLK : F_GETLK, &range) < 0) return answer(-1);
  if (range.l_type == F_UNLCK) printf("ok free\n");
  else printf("ok %s %lld %lld %d\n", range.l_type == F_RDLCK ? "read" : "write", (long long)range.l_start, (long long)range.l_len, range.l_pid);
}

static void await_break(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGIO);
  answer(sigwaitinfo(&set, NULL));
}

static void fork_here(void) {
  fflush(stdout);
  pid_t child = fork();
  if (child != 0) {
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
  } else {
    printf("ok %d\n", getpid());
  }
}

static void transfer(char** word) {
  int fd = slots[atoi(word[1])];
  long long at = strtoll(word[2], NULL, 10);
  if (*word[0] == 'w') return answer(pwrite(fd, word[3], strlen(word[3]), at));
  size_t size = strtoull(word[3], NULL, 10);
  char* text = calloc(1, size + 1);
  ssize_t got = pread(fd, text, size, at);
  if (got < 0) answer(-1);
  else printf("ok %s\n", text);
  free(text);
}

static int act(char** word) {
  const char* what = word[0];
  int* slot = &slots[atoi(word[1]) & 15];
  if (!strcmp(what, "open")) {
    int flags = !strcmp(word[3], "r") ? O_RDONLY : !strcmp(word[3], "w") ? O_WRONLY | O_CREAT : O_RDWR | O_CREAT;
    answer(*slot = open(word[2], flags, 0666));
  } else if (!strcmp(what, "tmpfile")) answer(*slot = open(word[2], O_RDWR | O_TMPFILE, 0640));
  else if (!strcmp(what, "link")) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", *slot);
    answer(linkat(AT_FDCWD, path, AT_FDCWD, word[2], AT_SYMLINK_FOLLOW));
  } else if (!strcmp(what, "close")) answer(close(*slot));
  else if (!strcmp(what, "dup")) answer(*slot = dup(slots[atoi(word[2])]));
  else if (!strcmp(what, "lock")) lock(*slot, word[2], word[3], word[4], word[5], word[6]);
  else if (!strcmp(what, "find")) find(*slot, word[2], word[3], word[4], word[5]);
  else if (!strcmp(what, "flock")) {
    int operation = *word[2] == 's' ? LOCK_SH : *word[2] == 'e' ? LOCK_EX : LOCK_UN;
    answer(flock(*slot, operation | (*word[3] == 'w' ? 0 : LOCK_NB)));
  } else if (!strcmp(what, "lease")) answer(fcntl(*slot, F_SETLEASE, type_of(word[2])));
  else if (!strcmp(what, "breaking")) await_break();
  else if (!strcmp(what, "read") || !strcmp(what, "write")) transfer(word);
  else if (!strcmp(what, "truncate")) answer(ftruncate(*slot, strtoll(word[2], NULL, 10)));
  else if (!strcmp(what, "sync")) answer(fsync(*slot));
  else if (!strcmp(what, "size")) {
    struct stat stat;
    if (fstat(*slot, &stat) < 0) answer(-1);
    else printf("ok %lld\n", (long long)stat.st_size);
  } else if (!strcmp(what, "alarm")) start_timer(word[1], 0);
  else if (!strcmp(what, "restart")) start_timer(word[1], SA_RESTART);
  else if (!strcmp(what, "interrupted")) printf("ok %d\n", interrupted);
  else if (!strcmp(what, "fork")) fork_here();
  else if (!strcmp(what, "exit")) {
    answer(0);
    return 0;
  }
  else printf("what?\n");
  return 1;
}

int main(void) {
  char line[4096];
  setvbuf(stdin, NULL, _IONBF, 0);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGIO);
  sigprocmask(SIG_BLOCK, &set, NULL);
  printf("ok %d\n", getpid());
  fflush(stdout);
  for (;;) {
    if (fgets(line, sizeof line, stdin) == NULL) {
      if (errno != EINTR) break;
      clearerr(stdin);
      continue;
    }
    char* word[8];
    int count = 0;
    for (char* at = strtok(line, " \n"); at != NULL && count < 7; at = strtok(NULL, " \n")) word[count++] = at;
    while (count < 8) word[count++] = "";
    if (!act(word)) break;
    fflush(stdout);
  }
  return 0;
}
