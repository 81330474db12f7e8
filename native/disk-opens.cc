// Opening, making and releasing files and directories.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "disk.h"

namespace netdrive {
namespace {

// A name that comes and goes while it is being made: how often to look again.
constexpr int kCreateTries = 16;

int AccessFlags(uint32_t flags) {
  int access = O_RDONLY;
  if ((flags & kOpenWrite) != 0) access = (flags & kOpenRead) != 0 ? O_RDWR : O_WRONLY;
  if ((flags & kOpenAppend) != 0) access |= O_APPEND;
  if ((flags & kOpenTrunc) != 0) access |= O_TRUNC;
  if ((flags & kOpenSync) != 0) access |= O_SYNC;
  if ((flags & kOpenDsync) != 0) access |= O_DSYNC;
  if ((flags & kOpenNoatime) != 0) access |= O_NOATIME;
  return access;
}

// Only regular files are opened: a FIFO would wait, a device would do something.
int CheckRegular(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return 0;
    case S_IFDIR:
      return -EISDIR;
    case S_IFLNK:
      return -ELOOP;
    case S_IFCHR:
    case S_IFBLK:
      return -EACCES;
    default:
      return -ENXIO;
  }
}

}  // namespace

// To execute a file one need not be able to read it: the right to execute is checked, and the process reads.
int Disk::OpenForExecution(const Call& call, int path_fd) {
  if (syscall(SYS_faccessat2, path_fd, "", X_OK, AT_EACCESS | AT_EMPTY_PATH) < 0) return -errno;
  int fd = Reopen(path_fd, AccessFlags(call.slot.flags));
  bool writes = (call.slot.flags & (kOpenWrite | kOpenTrunc)) != 0;
  if (fd != -EACCES || writes || call.here) return fd == -EACCES && call.here ? static_cast<int>(kPending) : fd;
  if (int error = TakeIdentity(nullptr, false); error < 0) return error;
  return Reopen(path_fd, AccessFlags(call.slot.flags));
}

int64_t Disk::Register(Call& call, const NodePin& node, int fd, bool directory) {
  call.slot.reply_handle = table_.AddHandle(node.get(), fd, call.slot.flags, directory);
  if (call.slot.reply_handle != 0) return 0;
  close(fd);
  return -ENFILE;
}

int64_t Disk::OpenFile(Call& call) {
  uint32_t flags = call.slot.flags;
  bool writes = (flags & (kOpenWrite | kOpenTrunc)) != 0;
  bool truncates = (flags & kOpenTrunc) != 0;
  if (call.here && (!local_ || (overlay_ && writes))) return kPending;
  if (truncates && MayWaitForFile(call)) return kPending;
  NodePin node;
  int path_fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &path_fd, &stat); result < 0) return result;
  if (int error = CheckRegular(stat.stx_mode); error < 0) return error;
  if (table_.HandlesFull()) return -ENFILE;
  if (call.here && truncates && !IsSmall(path_fd)) return kPending;
  auto open = [&] {
    if ((flags & kOpenExec) != 0) return OpenForExecution(call, path_fd);
    return Reopen(path_fd, AccessFlags(flags));
  };
  int fd;
  if (call.here && !truncates) {
    BorrowedIdentity identity(Borrow(call), stat.stx_uid);
    if (identity.error() < 0) return identity.error();
    fd = open();
    // A lease of somebody else is to be broken first.
    if (fd == -EWOULDBLOCK || fd == kPending) return kPending;
  } else {
    if (int error = Become(call, (flags & kOpenKillSuidgid) != 0); error < 0) return error;
    fd = open();
    if (call.here && (fd == -EWOULDBLOCK || fd == kPending)) return kPending;
    if (fd == -EWOULDBLOCK) fd = ReopenWaiting(path_fd, AccessFlags(flags));
  }
  if (fd < 0) return fd;
  // Truncated, or counted without this open.
  bool changed = truncates || node->kept != kNotKept;
  if (changed && statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) {
    close(fd);
    return -EIO;
  }
  int64_t result = Register(call, node, fd, false);
  if (changed) ShowLinks(node.get(), &stat);
  FillAttr(stat, &call.slot.attr);
  return result;
}

int64_t Disk::Opendir(Call& call) {
  if (call.here && !local_) return kPending;
  NodePin node;
  int path_fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &path_fd, &stat); result < 0) return result;
  if (!S_ISDIR(stat.stx_mode)) return -ENOTDIR;
  if (table_.HandlesFull()) return -ENFILE;
  int fd;
  if (call.here) {
    BorrowedIdentity identity(Borrow(call), stat.stx_uid);
    if (identity.error() < 0) return identity.error();
    fd = Reopen(path_fd, O_RDONLY | O_DIRECTORY);
  } else {
    if (int error = Become(call); error < 0) return error;
    fd = Reopen(path_fd, O_RDONLY | O_DIRECTORY);
  }
  call.slot.flags = kOpenRead;
  return fd < 0 ? fd : Register(call, node, fd, true);
}

int64_t Disk::CreateNew(Call& call, const NodePin& parent, int parent_fd) {
  const Slot& slot = call.slot;
  int flags = AccessFlags(slot.flags & ~kOpenTrunc) | O_CREAT | O_EXCL;
  int fd = OpenNew(parent_fd, slot.name, flags, ApplyUmask(slot.mode & 07777, slot.umask));
  if (fd < 0) return fd;
  OwnedDescriptor owned(fd);
  struct statx stat;
  Identity identity;
  if (statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
  if (int error = Identify(fd, "", stat, &identity); error < 0) return error;
  NodePin node(&table_, table_.Learn(identity, stat));
  table_.Locate(node.get(), parent->key, slot.name);
  FillAttr(stat, &call.slot.attr);
  call.slot.reply_id = node->key;
  return Register(call, node, owned.Release(), false);
}

int64_t Disk::CreateExisting(Call& call, const NodePin& parent, int parent_fd) {
  int path_fd = OpenEntry(parent_fd, call.slot.name, false);
  if (path_fd < 0) return path_fd;
  OwnedDescriptor owned(path_fd);
  struct statx stat;
  if (statx(path_fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
  if (int error = CheckRegular(stat.stx_mode); error < 0) return error;
  int fd = ReopenWaiting(path_fd, AccessFlags(call.slot.flags));
  if (fd < 0) return fd;
  OwnedDescriptor opened(fd);
  // The attributes after truncation.
  if (int64_t result = ReplyEntry(call, owned.Release(), parent->key, call.slot.name); result < 0) return result;
  NodePin node(&table_, table_.Pin(call.slot.reply_id));
  if (!node) return -ESTALE;
  return Register(call, node, opened.Release(), false);
}

int64_t Disk::Create(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, call.slot.id, &parent, &parent_fd); result < 0) return result;
  if (table_.HandlesFull()) return -ENFILE;
  if (call.here && !KeepsMode(call, parent_fd)) return kPending;
  uint32_t flags = call.slot.flags;
  if (int error = Become(call, (flags & kOpenKillSuidgid) != 0); error < 0) return error;
  if ((flags & kOpenExcl) != 0) return WithDirectory(call, parent, parent_fd, CreateNew(call, parent, parent_fd));
  for (int i = 0; i < kCreateTries; i++) {
    int64_t result = CreateNew(call, parent, parent_fd);
    // What is there already is looked at before it is opened: it may be anything.
    if (result != -EEXIST && result != -ELOOP && result != -EXDEV) return WithDirectory(call, parent, parent_fd, result);
    if (call.here) return kPending;
    result = CreateExisting(call, parent, parent_fd);
    if (result != -ENOENT) return WithDirectory(call, parent, parent_fd, result);
  }
  return -EBUSY;
}

int64_t Disk::Tmpfile(Call& call) {
  if (call.here) return kPending;
  const Slot& slot = call.slot;
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, slot.id, &parent, &parent_fd); result < 0) return result;
  if (table_.HandlesFull()) return -ENFILE;
  bool nameless = (slot.flags & kOpenExcl) != 0;
  bool kept = options_.keep_unlinked && TakeIdentity(nullptr, false) == 0 && KeptFolder(true) >= 0;
  if (int error = Become(call); error < 0) return error;
  // What must not get a name gets none from clients, though the kernel would give it one.
  int flags = AccessFlags(slot.flags & ~kOpenTrunc) | O_TMPFILE | (nameless && !kept ? O_EXCL : 0);
  int fd = OpenNew(parent_fd, ".", flags, ApplyUmask(slot.mode & 07777, slot.umask));
  if (fd < 0) return fd;
  OwnedDescriptor owned(fd);
  struct statx stat;
  Identity identity;
  if (statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
  if (int error = Identify(fd, "", stat, &identity); error < 0) return error;
  NodePin node(&table_, table_.Learn(identity, stat));
  if (kept && !MakeKept(node.get(), fd, nameless ? kKeptNameless : kKeptTemporary)) return -EIO;
  FillAttr(stat, &call.slot.attr);
  call.slot.reply_id = node->key;
  int64_t result = Register(call, node, owned.Release(), false);
  if (result < 0) RemoveKept(node.get());
  return result;
}

int64_t Disk::Flush(Call& call) {
  HandleReference handle(&table_, table_.Reference(call.slot.handle), !call.here);
  if (!handle) return -EBADF;
  // On a local disk close(2) has nothing to report.
  if (local_) return 0;
  if (call.here) return kPending;
  int fd = fcntl(handle->fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return -errno;
  return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

int64_t Disk::Release(Call& call) {
  if (call.carried == nullptr) {
    call.carried = table_.Take(call.slot.handle);
    if (call.carried == nullptr) return -EBADF;
  }
  Handle* handle = call.carried;
  // Only where it has nothing to write, and is not the last reference to the inode, closing cannot wait; in memory what there is to free may be much.
  bool idle = memory_ || (local_ && (handle->flags & (kOpenWrite | kOpenTrunc)) == 0);
  if (call.here && !idle) return kPending;
  struct statx stat;
  bool known = statx(handle->fd, "", AT_EMPTY_PATH, STATX_NLINK, &stat) == 0;
  bool deleted = known && stat.stx_nlink == 0;
  if (call.here && table_.Descriptor(handle->node) < 0) {
    if (!memory_ || !known || (deleted && !IsSmall(handle->fd))) return kPending;
  }
  if (deleted) table_.SetDeleted(handle->node, true);
  table_.Drop(handle, true);
  return 0;
}

}  // namespace netdrive
