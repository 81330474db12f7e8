// Finding nodes: entries of directories, and the descriptors of nodes that were named before.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "disk.h"

namespace netdrive {
namespace {

// One component, inside the directory, on the same mount, nothing followed.
constexpr uint64_t kResolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
// Freeing as much takes the JavaScript thread less time than waking a worker would.
constexpr uint64_t kFreedHereBlocks = 2048;
// How far up the tree a lost node is looked for.
constexpr size_t kDepthMax = 65536;
// A name that leads to ever new nodes: how often to look again.
constexpr int kLookTries = 16;

struct FileHandle {
  struct file_handle head;
  char bytes[MAX_HANDLE_SZ];
};

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
  return hash ^ hash >> 29;
}

}  // namespace

int Disk::OpenEntry(int parent, const char* name, bool cached_only) {
  if (!openat2_) return OpenEntryWithoutOpenat2(parent, name);
  struct open_how how = {};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = kResolve | (cached_only ? RESOLVE_CACHED : 0);
  int fd = static_cast<int>(syscall(SYS_openat2, parent, name, &how, sizeof how));
  return fd < 0 ? -errno : fd;
}

// The same for kernels before 5.6, and sandboxes: a name without '/' cannot leave the directory but by a link, which is not followed, or
// by a mount, which is recognised.
int Disk::OpenEntryWithoutOpenat2(int parent, const char* name) {
  int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -errno;
  struct statx stat;
  int error = statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &stat) < 0 ? -errno : 0;
  if (error == 0 && (stat.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) error = -EXDEV;
  if (error == 0) return fd;
  close(fd);
  return error;
}

int Disk::OpenNew(int parent, const char* name, uint64_t flags, mode_t mode) {
  flags |= O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  int fd;
  if (openat2_) {
    struct open_how how = {};
    how.flags = flags;
    how.mode = mode;
    how.resolve = kResolve;
    fd = static_cast<int>(syscall(SYS_openat2, parent, name, &how, sizeof how));
  } else {
    fd = openat(parent, name, static_cast<int>(flags), mode);
  }
  return fd < 0 ? -errno : fd;
}

int Disk::Identify(int fd, const char* name, const struct statx& stat, Identity* identity) const {
  uint64_t generation = 0;
  if ((stat.stx_mask & STATX_BTIME) != 0) {
    generation = static_cast<uint64_t>(stat.stx_btime.tv_sec) * 1'000'000'000 + stat.stx_btime.tv_nsec;
  }
  identity->file_handle.clear();
  if (handle_flags_ >= 0) {
    // The birth time alone does not do: its clock ticks in milliseconds, and an inode number may be used again at once.
    FileHandle handle;
    handle.head.handle_bytes = sizeof handle.bytes;
    int mount_id;
    int flags = handle_flags_ | (*name == 0 ? AT_EMPTY_PATH : 0);
    if (name_to_handle_at(fd, name, &handle.head, &mount_id, flags) == 0) {
      int32_t type = handle.head.handle_type;
      identity->file_handle.assign(reinterpret_cast<char*>(&type), sizeof type);
      identity->file_handle.append(reinterpret_cast<char*>(handle.head.f_handle), handle.head.handle_bytes);
      for (unsigned i = 0; i < handle.head.handle_bytes; i += 8) {
        uint64_t part = 0;
        memcpy(&part, handle.head.f_handle + i, std::min(8u, handle.head.handle_bytes - i));
        generation = Mix(generation, part);
      }
    } else if (errno != EOPNOTSUPP && errno != EOVERFLOW && errno != EINVAL) {
      return -errno;
    }
  }
  identity->key = {stat.stx_ino, generation};
  return 0;
}

int64_t Disk::Find(const Call& call, const NodeKey& key, NodePin* pin, int* fd) {
  Node* node = table_.Pin(key);
  if (node == nullptr) return -ESTALE;
  *pin = NodePin(&table_, node);
  *fd = table_.Descriptor(node);
  if (*fd >= 0) return 0;
  int64_t result = FindAgain(call, node);
  if (result < 0) return result;
  *fd = table_.Descriptor(node);
  return *fd < 0 ? -ESTALE : 0;
}

int64_t Disk::FindAlive(const Call& call, NodePin* pin, int* fd, struct statx* stat) {
  int64_t result = Find(call, call.slot.id, pin, fd);
  if (result < 0) return result;
  if (statx(*fd, "", AT_EMPTY_PATH, kStatxMask, stat) < 0) return -errno;
  ShowLinks(pin->get(), stat);
  if (stat->stx_nlink == 0 && table_.Orphaned(pin->get())) return -ESTALE;
  return 0;
}

int64_t Disk::FindAgain(const Call& call, Node* node) {
  if (int64_t result = FindByOpen(node); result != -ENOENT) return result;
  if (MayWait(call)) return kPending;
  // As the process: the caller's rights were checked when the node was named, and are again by what is asked of it.
  if (int error = TakeIdentity(nullptr, false); error < 0) return error;
  if (FindByFileHandle(node) == 0) return 0;
  return FindByName(node);
}

int64_t Disk::FindByOpen(Node* node) {
  HandleReference open(&table_, table_.ReferenceAny(node), false);
  if (!open) return -ENOENT;
  int fd = Reopen(open->fd, O_PATH);
  return fd < 0 ? fd : AdoptIfSame(node, fd);
}

int Disk::OpenByFileHandle(std::string_view file_handle) {
  FileHandle handle;
  int32_t type;
  if (!file_handles_ || file_handle.size() <= sizeof type) return -ESTALE;
  if (file_handle.size() - sizeof type > sizeof handle.bytes) return -ESTALE;
  memcpy(&type, file_handle.data(), sizeof type);
  handle.head.handle_type = type;
  handle.head.handle_bytes = static_cast<unsigned>(file_handle.size() - sizeof type);
  memcpy(handle.head.f_handle, file_handle.data() + sizeof type, handle.head.handle_bytes);
  int fd = open_by_handle_at(sync_fd_, &handle.head, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int64_t Disk::FindByFileHandle(Node* node) {
  int fd = OpenByFileHandle(node->file_handle);
  return fd < 0 ? fd : AdoptIfSame(node, fd);
}

// Walks up to an ancestor that has a descriptor, and down again; each step is checked.
int64_t Disk::FindByName(Node* node) {
  struct Step {
    NodePin pin;
    NodeKey parent;
    std::string name;
  };
  std::vector<Step> steps;
  table_.Pin(node);
  NodePin at(&table_, node);
  while (table_.Descriptor(at.get()) < 0) {
    Step step;
    if (steps.size() >= kDepthMax || !table_.Location(at.get(), &step.parent, &step.name)) return -ESTALE;
    Node* parent = table_.Pin(step.parent);
    if (parent == nullptr) return -ESTALE;
    step.pin = std::move(at);
    steps.push_back(std::move(step));
    at = NodePin(&table_, parent);
  }
  while (!steps.empty()) {
    Step& step = steps.back();
    int fd = OpenEntry(table_.Descriptor(at.get()), step.name.c_str(), false);
    if (fd < 0) return fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -EIO ? fd : -ESTALE;
    if (int64_t result = AdoptIfSame(step.pin.get(), fd); result < 0) return result;
    at = std::move(step.pin);
    steps.pop_back();
  }
  return 0;
}

int64_t Disk::AdoptIfSame(Node* node, int fd) {
  OwnedDescriptor owned(fd);
  struct statx stat;
  Identity identity;
  if (statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
  if (int error = Identify(fd, "", stat, &identity); error < 0) return error;
  if (identity.key != node->key) return -ESTALE;
  table_.Adopt(node, owned.Release());
  return 0;
}

// On a local disk an inode number is not used again while a descriptor of ours keeps the inode.
Node* Disk::FindLive(const struct statx& stat) {
  if (!local_) return nullptr;
  return table_.FindLive(stat.stx_ino, makedev(stat.stx_dev_major, stat.stx_dev_minor));
}

NodePin Disk::LearnDescriptor(int fd, const struct statx& stat, int* error) {
  OwnedDescriptor owned(fd);
  Node* node = FindLive(stat);
  if (node == nullptr) {
    Identity identity;
    *error = Identify(fd, "", stat, &identity);
    if (*error < 0) return NodePin();
    node = table_.Learn(identity, stat);
  }
  table_.Adopt(node, owned.Release());
  return NodePin(&table_, node);
}

int64_t Disk::ReplyEntry(Call& call, int fd, const NodeKey& parent, const char* name) {
  struct statx stat;
  if (statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) {
    int error = -errno;
    close(fd);
    return error;
  }
  int error = 0;
  NodePin node = LearnDescriptor(fd, stat, &error);
  if (!node) return error;
  // Deleted between being opened and being looked at.
  if (stat.stx_nlink == 0) {
    table_.Orphaned(node.get());
    return -ENOENT;
  }
  table_.Locate(node.get(), parent, name);
  FillAttr(stat, &call.slot.attr);
  call.slot.reply_id = node->key;
  return 0;
}

int64_t Disk::ReplyNamed(Call& call, const NodePin& parent, int parent_fd, bool cached_only) {
  for (int i = 0; i < kLookTries; i++) {
    int fd = OpenEntry(parent_fd, call.slot.name, cached_only);
    if (fd < 0) return fd;
    int64_t result = ReplyEntry(call, fd, parent->key, call.slot.name);
    // What had the name was replaced or removed meanwhile: what has it now?
    if (result != -ENOENT) return result;
  }
  return -ESTALE;
}

// A default access control list takes the umask's place.
bool Disk::KeepsMode(const Call& call, int parent_fd) {
  if (!KeepsUmask(call.slot.umask)) return false;
  ssize_t size = getxattr(DescriptorPath(parent_fd).text(), "system.posix_acl_default", nullptr, 0);
  return size < 0 && (errno == ENODATA || errno == EOPNOTSUPP);
}

bool Disk::IsSmall(int fd) {
  struct statx stat;
  return statx(fd, "", AT_EMPTY_PATH, STATX_BLOCKS, &stat) == 0 && stat.stx_blocks <= kFreedHereBlocks;
}

void Disk::LetGo(const Call& call, int fd) {
  if (fd < 0) return;
  if (!call.here || IsSmall(fd)) {
    close(fd);
  } else {
    table_.CloseLater(fd);
  }
}

NodePin Disk::Victim(int parent_fd, const char* name, int* fd) {
  *fd = OpenEntry(parent_fd, name, false);
  struct statx stat;
  if (*fd < 0 || statx(*fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return NodePin();
  Node* node = FindLive(stat);
  Identity identity;
  if (node == nullptr && Identify(*fd, "", stat, &identity) == 0) node = table_.Pin(identity.key);
  return NodePin(&table_, node);
}

void Disk::AfterRemoval(const NodePin& node, int fd, const NodeKey& parent, const char* name) {
  if (!node) return;
  table_.Unlocate(node.get(), parent, name);
  struct statx stat;
  // Asked, not assumed: another program may have put something else at the name in between.
  if (statx(fd, "", AT_EMPTY_PATH, STATX_NLINK, &stat) < 0) return;
  if (stat.stx_nlink == 0) table_.SetDeleted(node.get(), true);
}

}  // namespace netdrive
