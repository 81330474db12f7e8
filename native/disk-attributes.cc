// Attributes, access, symbolic link targets, extended attributes, file system status.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "disk.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

namespace netdrive {
namespace {

// Shorter targets are kept in the inode by the file systems of Disk::inline_links_. @see EXT4_N_BLOCKS in fs/ext4/ext4.h
constexpr uint64_t kInlineTargetMax = 59;

int ChangeMode(int fd, mode_t mode) {
  if (syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH) == 0) return 0;
  // Before Linux 6.6, and in sandboxes that do not know it.
  if (errno != ENOSYS && errno != EPERM) return -errno;
  return chmod(DescriptorPath(fd).text(), mode) < 0 ? -errno : 0;
}

}  // namespace

int64_t Disk::Getattr(Call& call) {
  if (call.here && !local_) return kPending;
  struct statx stat;
  if (call.slot.handle != 0) {
    HandleReference handle(&table_, table_.Reference(call.slot.handle), !call.here);
    if (!handle) return -EBADF;
    if (statx(handle->fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
    ShowLinks(handle->node, &stat);
  } else {
    NodePin node;
    int fd;
    if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  }
  FillAttr(stat, &call.slot.attr);
  return 0;
}

int Disk::SetTimes(const Slot& slot, int fd) {
  auto time = [&](uint32_t set, uint32_t now, double seconds, uint32_t nanoseconds) -> struct timespec {
    if ((slot.valid & now) != 0) return {0, UTIME_NOW};
    if ((slot.valid & set) != 0) return {static_cast<time_t>(seconds), static_cast<long>(nanoseconds)};
    return {0, UTIME_OMIT};
  };
  struct timespec times[2] = {time(kSetAtime, kSetAtimeNow, slot.atime_s, slot.atime_ns),
                              time(kSetMtime, kSetMtimeNow, slot.mtime_s, slot.mtime_ns)};
  if (times[0].tv_nsec == UTIME_OMIT && times[1].tv_nsec == UTIME_OMIT) return 0;
  // By system call: the library refuses an empty path with a flag it does not know.
  return syscall(SYS_utimensat, fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

// What the kernel does by itself for a caller without CAP_FSETID; here because the caller's kernel asked for it.
int Disk::KillSuidgid(int fd) {
  struct statx stat;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_MODE | STATX_TYPE, &stat) < 0) return -errno;
  mode_t kill = S_ISUID | ((stat.stx_mode & S_IXGRP) != 0 ? S_ISGID : 0);
  if (!S_ISREG(stat.stx_mode) || (stat.stx_mode & kill) == 0) return 0;
  if (int error = TakeIdentity(nullptr, false); error < 0) return error;
  return ChangeMode(fd, stat.stx_mode & 07777 & ~kill);
}

int64_t Disk::Setattr(Call& call) {
  const Slot& slot = call.slot;
  if (MayWaitForFile(call) || (call.here && (slot.valid & kSetSize) != 0)) return kPending;
  HandleReference handle(&table_, slot.handle == 0 ? nullptr : table_.Reference(slot.handle), !call.here);
  if (slot.handle != 0 && !handle) return -EBADF;
  NodePin node;
  struct statx stat;
  int fd;
  if (handle) {
    fd = handle->fd;
  } else if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) {
    return result;
  }
  if (int error = Become(call); error < 0) return error;
  // chown(2) of -1, -1 is not nothing: it clears these bits too, and is for the owner.
  if ((slot.valid & (kSetUid | kSetGid)) != 0 || slot.valid == kSetKillSuidgid) {
    uid_t uid = (slot.valid & kSetUid) != 0 ? slot.uid : static_cast<uid_t>(-1);
    gid_t gid = (slot.valid & kSetGid) != 0 ? slot.gid : static_cast<gid_t>(-1);
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0) return -errno;
  }
  if ((slot.valid & kSetMode) != 0) {
    if (int error = ChangeMode(fd, slot.mode & 07777); error < 0) return error;
  }
  bool kill = (slot.valid & kSetKillSuidgid) != 0;
  if ((slot.valid & kSetSize) != 0) {
    if (int error = Become(call, kill); error < 0) return error;
    auto size = static_cast<off_t>(slot.length);
    if ((handle ? ftruncate(fd, size) : truncate(DescriptorPath(fd).text(), size)) < 0) return -errno;
    if (int error = Become(call); error < 0) return error;
  }
  if (int error = SetTimes(slot, fd); error < 0) return error;
  if (kill && (slot.valid & kSetMode) == 0) {
    if (int error = KillSuidgid(fd); error < 0) return error;
  }
  if (statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
  ShowLinks(handle ? handle->node : node.get(), &stat);
  FillAttr(stat, &call.slot.attr);
  return 0;
}

int64_t Disk::Access(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  // AT_EACCESS: by the file system identity this thread has; without it the kernel would take the real one.
  if (syscall(SYS_faccessat2, fd, "", call.slot.mode, AT_EACCESS | AT_EMPTY_PATH) < 0) return -errno;
  return 0;
}

int64_t Disk::Readlink(Call& call) {
  if (call.here && !(local_ && inline_links_)) return kPending;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  if (!S_ISLNK(stat.stx_mode)) return -EINVAL;
  if (call.here && stat.stx_size > kInlineTargetMax) return kPending;
  ssize_t size = readlinkat(fd, "", reinterpret_cast<char*>(call.data), call.size);
  return size < 0 ? -errno : size;
}

// The calls by path go through /proc/self/fd, whose link leads to the very file, also if that is a symbolic link.
int64_t Disk::Getxattr(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  ssize_t size = getxattr(DescriptorPath(fd).text(), call.slot.name, call.data, call.size);
  return size < 0 ? -errno : size;
}

int64_t Disk::Listxattr(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  ssize_t size = listxattr(DescriptorPath(fd).text(), reinterpret_cast<char*>(call.data), call.size);
  return size < 0 ? -errno : size;
}

int64_t Disk::Setxattr(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  int flags = static_cast<int>(call.slot.flags);
  return setxattr(DescriptorPath(fd).text(), call.slot.name, call.data, call.size, flags) < 0 ? -errno : 0;
}

int64_t Disk::Removexattr(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  return removexattr(DescriptorPath(fd).text(), call.slot.name) < 0 ? -errno : 0;
}

int64_t Disk::Statfs(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  struct statfs fs;
  if (fstatfs(fd, &fs) < 0) return -errno;
  double values[8] = {static_cast<double>(fs.f_bsize),  static_cast<double>(fs.f_frsize),
                      static_cast<double>(fs.f_blocks), static_cast<double>(fs.f_bfree),
                      static_cast<double>(fs.f_bavail), static_cast<double>(fs.f_files),
                      static_cast<double>(fs.f_ffree),  static_cast<double>(fs.f_namelen)};
  memcpy(call.slot.statfs, values, sizeof values);
  return 0;
}

}  // namespace netdrive
