// Operations on names: lookup, and what makes, links, moves and removes entries.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "disk.h"

namespace netdrive {
namespace {

constexpr size_t kTargetMax = 4095;

}  // namespace

int64_t Disk::WithDirectory(Call& call, const NodePin& parent, int parent_fd, int64_t result) {
  if (result < 0) return result;
  struct statx stat;
  if (statx(parent_fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) {
    call.slot.directory.mode = 0;
    return result;
  }
  ShowLinks(parent.get(), &stat);
  FillAttr(stat, &call.slot.directory);
  return result;
}

int64_t Disk::Root(Call& call) {
  if (call.here && !local_) return kPending;
  call.slot.id = table_.root_key;
  NodePin node;
  int fd;
  struct statx stat;
  if (int64_t result = FindAlive(call, &node, &fd, &stat); result < 0) return result;
  FillAttr(stat, &call.slot.attr);
  call.slot.reply_id = table_.root_key;
  return 0;
}

int64_t Disk::Lookup(Call& call) {
  if (call.here && !(local_ && cached_lookups_)) return kPending;
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, call.slot.id, &parent, &parent_fd); result < 0) return result;
  if (!call.here) {
    if (int error = Become(call); error < 0) return error;
    return ReplyNamed(call, parent, parent_fd);
  }
  struct statx stat;
  const Credential* caller = Borrow(call);
  if (caller != nullptr && caller->uid == 0) caller = nullptr;
  if (caller != nullptr && statx(parent_fd, "", AT_EMPTY_PATH, STATX_UID, &stat) < 0) return -errno;
  BorrowedIdentity identity(caller, caller != nullptr ? stat.stx_uid : 0);
  if (identity.error() < 0) return identity.error();
  // In memory a name that is not known is not there: looking waits for nothing.
  int64_t result = ReplyNamed(call, parent, parent_fd, !memory_);
  return result == -EAGAIN ? kPending : result;
}

int64_t Disk::Symlink(Call& call) {
  if (MayWait(call)) return kPending;
  if (call.size == 0) return -ENOENT;
  if (call.size > kTargetMax) return -ENAMETOOLONG;
  if (memchr(call.data, 0, call.size) != nullptr) return -EINVAL;
  std::string target(reinterpret_cast<char*>(call.data), call.size);
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, call.slot.id, &parent, &parent_fd); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  if (symlinkat(target.c_str(), parent_fd, call.slot.name) < 0) return -errno;
  return WithDirectory(call, parent, parent_fd, ReplyNamed(call, parent, parent_fd));
}

int64_t Disk::Mknod(Call& call) {
  if (MayWait(call)) return kPending;
  const Slot& slot = call.slot;
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, slot.id, &parent, &parent_fd); result < 0) return result;
  if (call.here && !KeepsMode(call, parent_fd)) return kPending;
  if (int error = Become(call); error < 0) return error;
  mode_t mode = ApplyUmask(slot.mode, slot.umask);
  if (mknodat(parent_fd, slot.name, mode, makedev(slot.rdev_major, slot.rdev_minor)) < 0) return -errno;
  return WithDirectory(call, parent, parent_fd, ReplyNamed(call, parent, parent_fd));
}

int64_t Disk::Mkdir(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, call.slot.id, &parent, &parent_fd); result < 0) return result;
  if (call.here && !KeepsMode(call, parent_fd)) return kPending;
  if (int error = Become(call); error < 0) return error;
  if (mkdirat(parent_fd, call.slot.name, ApplyUmask(call.slot.mode, call.slot.umask)) < 0) return -errno;
  return WithDirectory(call, parent, parent_fd, ReplyNamed(call, parent, parent_fd));
}

int64_t Disk::Unlink(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, call.slot.id, &parent, &parent_fd); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  int fd;
  NodePin victim = Victim(parent_fd, call.slot.name, &fd);
  OwnedDescriptor owned(fd);
  if (call.here && MayKeep(victim)) return kPending;
  bool kept = KeepVictim(call, victim, fd, parent_fd);
  int error = unlinkat(parent_fd, call.slot.name, 0) < 0 ? -errno : 0;
  if (kept) SettleKept(victim.get(), error);
  if (error < 0) return error;
  AfterRemoval(victim, fd, parent->key, call.slot.name);
  int64_t result = WithDirectory(call, parent, parent_fd, 0);
  LetGo(call, owned.Release());
  return result;
}

int64_t Disk::Rmdir(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin parent;
  int parent_fd;
  if (int64_t result = Find(call, call.slot.id, &parent, &parent_fd); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  int fd;
  NodePin victim = Victim(parent_fd, call.slot.name, &fd);
  OwnedDescriptor owned(fd);
  if (unlinkat(parent_fd, call.slot.name, AT_REMOVEDIR) < 0) return -errno;
  AfterRemoval(victim, fd, parent->key, call.slot.name);
  return WithDirectory(call, parent, parent_fd, 0);
}

int64_t Disk::Link(Call& call) {
  if (MayWait(call)) return kPending;
  NodePin source, parent;
  int source_fd, parent_fd;
  if (int64_t result = Find(call, call.slot.id, &source, &source_fd); result < 0) return result;
  if (int64_t result = Find(call, call.slot.target_id, &parent, &parent_fd); result < 0) return result;
  if (int error = CheckLinkable(source.get()); error < 0) return error;
  if (int error = Become(call); error < 0) return error;
  DescriptorPath path(source_fd);
  // The link below /proc leads to the very file, also if that is a symbolic link, which is not followed then.
  if (linkat(proc_fd_, path.number(), parent_fd, call.slot.name, AT_SYMLINK_FOLLOW) < 0) return -errno;
  RemoveKept(source.get());
  return WithDirectory(call, parent, parent_fd, ReplyNamed(call, parent, parent_fd));
}

int64_t Disk::Rename(Call& call) {
  if (MayWait(call)) return kPending;
  const Slot& slot = call.slot;
  NodePin parent, new_parent;
  int parent_fd, new_parent_fd;
  if (int64_t result = Find(call, slot.id, &parent, &parent_fd); result < 0) return result;
  if (int64_t result = Find(call, slot.target_id, &new_parent, &new_parent_fd); result < 0) return result;
  if (int error = Become(call); error < 0) return error;
  int moved_fd, replaced_fd;
  NodePin moved = Victim(parent_fd, slot.name, &moved_fd);
  OwnedDescriptor moved_owned(moved_fd);
  NodePin replaced = Victim(new_parent_fd, slot.target_name, &replaced_fd);
  OwnedDescriptor replaced_owned(replaced_fd);
  if (call.here && MayKeep(replaced)) return kPending;
  bool replaces = (slot.flags & (RENAME_EXCHANGE | RENAME_NOREPLACE)) == 0 && moved.get() != replaced.get();
  bool kept = replaces && KeepVictim(call, replaced, replaced_fd, new_parent_fd);
  long renamed = syscall(SYS_renameat2, parent_fd, slot.name, new_parent_fd, slot.target_name, slot.flags);
  int error = renamed < 0 ? -errno : 0;
  if (kept) SettleKept(replaced.get(), error);
  if (error < 0) return error;
  // Two names of one file: rename(2) does nothing.
  if (moved && moved.get() == replaced.get()) return 0;
  if (replaced) {
    if ((slot.flags & RENAME_EXCHANGE) != 0) {
      table_.Locate(replaced.get(), parent->key, slot.name);
    } else {
      AfterRemoval(replaced, replaced_fd, new_parent->key, slot.target_name);
    }
  }
  if (moved) table_.Locate(moved.get(), new_parent->key, slot.target_name);
  LetGo(call, replaced_owned.Release());
  return 0;
}

}  // namespace netdrive
