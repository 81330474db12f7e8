// Locks on the disk, which keep programs beside the server out.
//
// All locks of clients on a node are held by two open file descriptions of its own: one for fcntl's ranges (OFD locks, which belong to the description),
// one for flock. So clients never conflict with each other here, and none loses a lock because another closes the file.
// What clients may do to each other is decided above; only what their locks come to together arrives here. With the process's own identity: whoever
// locks has opened the file with his.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "disk.h"

namespace netdrive {
namespace {

struct flock LockOf(uint32_t type, uint64_t start, uint64_t end) {
  struct flock lock = {};
  lock.l_type = type == kLockWrite ? F_WRLCK : type == kLockRead ? F_RDLCK : F_UNLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  // 0: to the end, however far the file grows.
  lock.l_len = end == kLockEnd ? 0 : static_cast<off_t>(end - start + 1);
  return lock;
}

bool Writes(int fd) { return (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY; }

// The next line of `file`, shared locks of a range only: its first byte in `start`, its last in `end`. False at the end.
bool NextSharedLock(FILE* file, uint64_t* start, uint64_t* end) {
  char line[256], last[32];
  while (fgets(line, sizeof line, file) != nullptr) {
    // lock: 1: OFDLCK ADVISORY READ -1 fe:00:131 0 EOF
    if (sscanf(line, "lock: %*d: OFDLCK ADVISORY READ %*d %*s %" SCNu64 " %31s", start, last) != 2) continue;
    *end = strcmp(last, "EOF") == 0 ? kLockEnd : strtoull(last, nullptr, 10);
    return true;
  }
  return false;
}

// Gives up all locks that a description holds, and closes the descriptor: it may not be the last one of the description.
void GiveUpLocks(int fd, int kind) {
  if (kind != 0) {
    flock(fd, LOCK_UN);
  } else {
    struct flock all = LockOf(kUnlock, 0, kLockEnd);
    fcntl(fd, F_OFD_SETLK, &all);
  }
  close(fd);
}

}  // namespace

// A description for locks on the file of `handle`: for reading only if that will do, because a file open for writing can't be executed, and closing it
// is news to those who watch it.
int Disk::OpenForLocks(const Call& call, Handle* handle, bool writes) {
  int flags = writes ? O_RDWR : O_RDONLY;
  int fd = call.here ? Reopen(handle->fd, flags) : ReopenWaiting(handle->fd, flags);
  // A lease of somebody else is to be broken first.
  if (fd == -EWOULDBLOCK && call.here) return static_cast<int>(kPending);
  if (fd >= 0 || (fd != -EACCES && fd != -EPERM && fd != -EROFS)) return fd;
  // The file's mode has changed since it was opened, or it was opened for the other. The handle's own description will do as well: nobody else locks with it.
  fd = fcntl(handle->fd, F_DUPFD_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
}

int Disk::Flock(const Call& call, Handle* handle) {
  uint32_t type = call.slot.mode;
  Node* node = handle->node;
  int fd = table_.LockDescriptor(node, 1);
  if (fd < 0) {
    if (type == kUnlock) return 0;
    fd = OpenForLocks(call, handle, false);
    if (fd < 0) return fd;
    table_.ReplaceLockDescriptor(node, 1, fd);
    node->flock = kUnlock;
  }
  int operation = type == kLockWrite ? LOCK_EX : type == kLockRead ? LOCK_SH : LOCK_UN;
  if (flock(fd, operation | LOCK_NB) == 0) {
    node->flock = type;
    return 0;
  }
  int error = -errno;
  // An exchange that fails loses what there was. Somebody who waits for it could come in between, which nobody could do anything about.
  if (node->flock == kLockRead) flock(fd, LOCK_SH | LOCK_NB);
  return error;
}

// Takes all locks of `from`, which can only be shared ones, with `to`, so that at no moment they are not held.
int Disk::MoveLocks(int from, int to) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", from);
  FILE* file = fopen(path, "re");
  if (file == nullptr) return -errno;
  int error = 0;
  for (uint64_t start, end; error == 0 && NextSharedLock(file, &start, &end);) {
    struct flock lock = LockOf(kLockRead, start, end);
    if (fcntl(to, F_OFD_SETLK, &lock) < 0) error = -errno;
  }
  fclose(file);
  return error;
}

int Disk::LockRange(const Call& call, Handle* handle) {
  const Slot& slot = call.slot;
  Node* node = handle->node;
  int fd = table_.LockDescriptor(node, 0);
  bool writes = slot.mode == kLockWrite;
  if (fd < 0 && slot.mode == kUnlock) return 0;
  if (fd < 0 || (writes && !Writes(fd))) {
    int better = OpenForLocks(call, handle, writes);
    if (better < 0) return better;
    // One that is no better may be of the very description that has the locks.
    if (writes && !Writes(better)) {
      close(better);
      return -ENOLCK;
    }
    if (int error = fd < 0 ? 0 : MoveLocks(fd, better); error < 0) {
      GiveUpLocks(better, 0);
      return error == -EBADF ? -ENOLCK : error;
    }
    table_.ReplaceLockDescriptor(node, 0, better);
    if (fd >= 0) GiveUpLocks(fd, 0);
    fd = better;
  }
  struct flock lock = LockOf(slot.mode, slot.lock_start, slot.lock_end);
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return 0;
  // The description can't be had that this lock would need.
  return errno == EBADF ? -ENOLCK : -errno;
}

int64_t Disk::LockNode(Call& call) {
  if (call.here && !local_) return kPending;
  const Slot& slot = call.slot;
  HandleReference handle(&table_, table_.Reference(slot.handle), !call.here);
  if (!handle) return -EBADF;
  if (slot.mode > kLockWrite || slot.lock_start > slot.lock_end || slot.lock_end > kLockEnd) return -EINVAL;
  if (!call.here) {
    if (int error = TakeIdentity(nullptr, false); error < 0) return error;
  }
  int kind = slot.flags != 0;
  int error = 0;
  if (slot.mode == kUnlock && slot.lock_start == 0 && slot.lock_end == kLockEnd) {
    int fd = table_.ReplaceLockDescriptor(handle->node, kind, -1);
    if (fd >= 0) GiveUpLocks(fd, kind);
  } else {
    error = kind != 0 ? Flock(call, handle.get()) : LockRange(call, handle.get());
  }
  if (error < 0) return error;
  struct statx stat;
  if (statx(handle->fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
  ShowLinks(handle->node, &stat);
  FillAttr(stat, &call.slot.attr);
  return 0;
}

int64_t Disk::FindNodeLock(Call& call) {
  if (call.here && !local_) return kPending;
  Slot& slot = call.slot;
  HandleReference handle(&table_, table_.Reference(slot.handle), !call.here);
  if (!handle) return -EBADF;
  if (slot.mode == kUnlock || slot.mode > kLockWrite || slot.lock_start > slot.lock_end || slot.lock_end > kLockEnd) {
    return -EINVAL;
  }
  uint32_t type = slot.mode;
  slot.mode = kUnlock;
  // Nothing asks for a flock without taking it.
  if (slot.flags != 0) return 0;
  // Locks held for clients do not count: they are of the description that asks.
  int fd = table_.LockDescriptor(handle->node, 0);
  struct flock lock = LockOf(type, slot.lock_start, slot.lock_end);
  if (fcntl(fd >= 0 ? fd : handle->fd, F_OFD_GETLK, &lock) < 0) return -errno;
  if (lock.l_type == F_UNLCK) return 0;
  slot.mode = lock.l_type == F_WRLCK ? kLockWrite : kLockRead;
  slot.lock_start = static_cast<uint64_t>(lock.l_start);
  slot.lock_end = lock.l_len == 0 ? kLockEnd : static_cast<uint64_t>(lock.l_start) + static_cast<uint64_t>(lock.l_len) - 1;
  return 0;
}

}  // namespace netdrive
