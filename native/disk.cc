// Opening and closing a disk, and the table of its operations.
#include "disk.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

namespace netdrive {

// In the order of OPERATION in src/sys/disk-engine.ts.
const Disk::Operation Disk::kOperations[] = {
    &Disk::Root,        &Disk::Lookup,   &Disk::Getattr,  &Disk::Setattr,   &Disk::Access,        &Disk::Readlink,
    &Disk::Symlink,     &Disk::Mknod,    &Disk::Mkdir,    &Disk::Unlink,    &Disk::Rmdir,         &Disk::Link,
    &Disk::Rename,      &Disk::OpenFile, &Disk::Create,   &Disk::Tmpfile,   &Disk::Read,          &Disk::Write,
    &Disk::Flush,       &Disk::Fsync,    &Disk::Release,  &Disk::Fallocate, &Disk::Lseek,         &Disk::CopyFileRange,
    &Disk::Opendir,     &Disk::Readdir,  &Disk::Getxattr, &Disk::Listxattr, &Disk::Setxattr,      &Disk::Removexattr,
    &Disk::Statfs,      &Disk::Syncfs,   &Disk::CloseAll, &Disk::Sweep,     &Disk::LockNode,      &Disk::FindNodeLock,
    &Disk::Recall,      &Disk::SweepKept, &Disk::SyncNode,
};

DescriptorPath::DescriptorPath(int fd) {
  constexpr std::string_view kPrefix = "/proc/self/fd/";
  memcpy(text_, kPrefix.data(), kPrefix.size());
  char* end = std::to_chars(text_ + kPrefix.size(), text_ + sizeof text_ - 1, fd).ptr;
  *end = 0;
}

OwnedDescriptor::~OwnedDescriptor() {
  if (fd_ >= 0) close(fd_);
}

Disk::~Disk() { Close(); }

int Disk::Open() {
  if (options_.apply_credentials && !MayTakeIdentities()) return -EPERM;
  proc_fd_ = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (proc_fd_ < 0) return -errno;
  int fd = open(options_.directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -errno;
  OwnedDescriptor root(fd);
  struct statfs fs;
  struct statx stat;
  if (fstatfs(fd, &fs) < 0 || statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
  // File systems whose system calls on known inodes do not wait for a network or a daemon.
  auto type = static_cast<uint32_t>(fs.f_type);
  overlay_ = type == OVERLAYFS_SUPER_MAGIC;
  memory_ = type == TMPFS_MAGIC || type == RAMFS_MAGIC;
  inline_links_ = type == EXT4_SUPER_MAGIC || type == XFS_SUPER_MAGIC || type == TMPFS_MAGIC;
  local_ = overlay_ || inline_links_ || type == BTRFS_SUPER_MAGIC || type == F2FS_SUPER_MAGIC || type == RAMFS_MAGIC;
  sync_fd_ = Reopen(fd, O_RDONLY | O_DIRECTORY);

  int probe = OpenEntry(fd, ".", true);
  if (probe >= 0) close(probe);
  // RESOLVE_CACHED is younger than openat2 (Linux 5.12).
  openat2_ = !options_.without_openat2 && probe != -ENOSYS && probe != -EPERM;
  cached_lookups_ = openat2_ && probe != -EINVAL;

  handle_flags_ = 0;
  Identity identity;
  if (Identify(fd, "", stat, &identity) < 0 || identity.file_handle.empty()) {
#ifdef AT_HANDLE_FID
    handle_flags_ = AT_HANDLE_FID;
#else
    handle_flags_ = 0x200;
#endif
    if (Identify(fd, "", stat, &identity) < 0 || identity.file_handle.empty()) handle_flags_ = -1;
  }
  if (int error = Identify(fd, "", stat, &identity); error < 0) return error;
  table_.root_key = identity.key;
  NodePin node(&table_, table_.Learn(identity, stat));
  // Only root may open by handle, and only some file systems can.
  if (sync_fd_ >= 0 && handle_flags_ == 0) {
    file_handles_ = true;
    int again = static_cast<int>(FindByFileHandle(node.get()));
    file_handles_ = again >= 0;
  }
  if (table_.Descriptor(node.get()) < 0) table_.Adopt(node.get(), root.Release());
  if (local_) Pool::Get().AddSweep({[](void* table) { static_cast<NodeTable*>(table)->Sweep(); }, &table_});
  return 0;
}

void Disk::Close() {
  Pool::Get().RemoveSweep(&table_);
  CloseKept();
  table_.Clear();
  table_.WaitForCloses();
  if (sync_fd_ >= 0) close(sync_fd_);
  if (proc_fd_ >= 0) close(proc_fd_);
  sync_fd_ = proc_fd_ = -1;
}

// The last request. Closing many descriptors, some of them of deleted files, may take its time.
int64_t Disk::CloseAll(Call& call) {
  if (call.here) return kPending;
  Close();
  return 0;
}

int64_t Disk::Run(Call& call) {
  Slot& slot = call.slot;
  constexpr size_t kCount = sizeof kOperations / sizeof *kOperations;
  if (slot.operation >= kCount || slot.name_bytes >= sizeof slot.name) return -EINVAL;
  if (slot.target_name_bytes >= sizeof slot.target_name) return -EINVAL;
  slot.name[slot.name_bytes] = 0;
  slot.target_name[slot.target_name_bytes] = 0;
  const Operation operation = kOperations[slot.operation];
  if (int error = CheckName(slot, operation); error < 0) return error;
  ReturnedIdentity returned(call.here);
  int64_t result = (this->*operation)(call);
  // In a directory that was removed nothing is found; of the whole share that is worth another word.
  if (result == -ENOENT && slot.id == table_.root_key && RootGone()) return -ESTALE;
  return result;
}

int64_t Disk::Sweep(Call& call) {
  if (call.here) return kPending;
  table_.Sweep();
  return 0;
}

bool Disk::RootGone() {
  NodePin root(&table_, table_.Pin(table_.root_key));
  struct statx stat;
  return root && statx(table_.Descriptor(root.get()), "", AT_EMPTY_PATH, STATX_NLINK, &stat) == 0 && stat.stx_nlink == 0;
}

bool Disk::Slow(uint32_t operation) {
  if (operation >= sizeof kOperations / sizeof *kOperations) return false;
  Operation which = kOperations[operation];
  return which == &Disk::Fsync || which == &Disk::Syncfs || which == &Disk::SyncNode || which == &Disk::CopyFileRange || which == &Disk::Fallocate ||
         which == &Disk::CloseAll || which == &Disk::Recall;
}

void Disk::Discard(uint32_t id) {
  Handle* handle = table_.Take(id);
  if (handle != nullptr) table_.Drop(handle, false);
}

int Disk::Reopen(int path_fd, int flags) {
  DescriptorPath path(path_fd);
  int fd = openat(proc_fd_, path.number(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int Disk::ReopenWaiting(int path_fd, int flags) {
  DescriptorPath path(path_fd);
  int fd = openat(proc_fd_, path.number(), flags | O_CLOEXEC | O_NOCTTY);
  return fd < 0 ? -errno : fd;
}

}  // namespace netdrive
