// Records of nodes, and finding a node by its record in another process: a server that was killed opens its files again.
//
// A record: u8 format (1), the node's key, u16 bytes of its file handle, the handle (as in Node), u16 bytes of its path, the path below the
// directory that is served, at the time, without '/' at its start.
//
// INVARIANT: a node is only answered at a place below the directory that leads to it now, and only if its identity is the record's.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "disk.h"

namespace netdrive {
namespace {

constexpr uint8_t kFormat = 1;
// Entries a search looks at: some seconds.
constexpr size_t kSearchMax = 1 << 20;
constexpr size_t kSearchBytes = 1 << 16;

struct NodeRecord {
  NodeKey key;
  std::string_view file_handle;
  std::string_view path;
};

// Takes a string behind its length off the front of `from`; false if it is not there.
bool TakeString(std::string_view* from, std::string_view* to) {
  uint16_t bytes;
  if (from->size() < sizeof bytes) return false;
  memcpy(&bytes, from->data(), sizeof bytes);
  from->remove_prefix(sizeof bytes);
  if (from->size() < bytes) return false;
  *to = from->substr(0, bytes);
  from->remove_prefix(bytes);
  return true;
}

bool Parse(std::string_view bytes, NodeRecord* record) {
  if (bytes.size() < 1 + sizeof record->key || static_cast<uint8_t>(bytes[0]) != kFormat) return false;
  memcpy(&record->key, bytes.data() + 1, sizeof record->key);
  bytes.remove_prefix(1 + sizeof record->key);
  return TakeString(&bytes, &record->file_handle) && TakeString(&bytes, &record->path) && bytes.empty();
}

void Append(std::string* to, const void* bytes, size_t size) { to->append(static_cast<const char*>(bytes), size); }

void AppendString(std::string* to, std::string_view text) {
  auto bytes = static_cast<uint16_t>(text.size());
  Append(to, &bytes, sizeof bytes);
  to->append(text);
}

}  // namespace

bool Disk::PathBelow(int fd, std::string* path) {
  char place[PATH_MAX], root[PATH_MAX];
  NodePin root_pin(&table_, table_.Pin(table_.root_key));
  if (!root_pin) return false;
  DescriptorPath of_fd(fd), of_root(table_.Descriptor(root_pin.get()));
  ssize_t bytes = readlinkat(proc_fd_, of_fd.number(), place, sizeof place);
  ssize_t root_bytes = readlinkat(proc_fd_, of_root.number(), root, sizeof root);
  if (bytes <= 0 || root_bytes <= 0 || bytes == sizeof place || root_bytes == sizeof root) return false;
  std::string_view below(place, bytes), above(root, root_bytes);
  // The root of all ends with '/', and nothing else does.
  if (above != "/") {
    if (!below.starts_with(above)) return false;
    below.remove_prefix(above.size());
  }
  if (below.empty()) {
    path->clear();
    return true;
  }
  if (below[0] != '/') return false;
  path->assign(below.substr(1));
  return true;
}

int64_t Disk::ExactNames(uint32_t id) {
  HandleReference handle(&table_, table_.Reference(id), false);
  if (!handle) return -EBADF;
  int flags = 0;
  // Where there are no such flags, there is no directory that folds case either.
  if (!local_ || (ioctl(handle->fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_CASEFOLD_FL) != 0)) return -EOPNOTSUPP;
  return handle->fd;
}

int64_t Disk::Describe(uint32_t id, uint8_t* to, size_t size) {
  HandleReference handle(&table_, table_.Reference(id), false);
  return handle ? DescribeAs(handle->node, handle->fd, to, size) : -EBADF;
}

int64_t Disk::Describe(const NodeKey& key, uint8_t* to, size_t size) {
  NodePin node(&table_, table_.Pin(key));
  return node ? DescribeAs(node.get(), table_.Descriptor(node.get()), to, size) : -ESTALE;
}

// `fd`: any of the node's, or -1.
int64_t Disk::DescribeAs(Node* node, int fd, uint8_t* to, size_t size) {
  std::string path;
  // Asking the kernel takes six times as long.
  if (!table_.Path(node, &path) && (fd < 0 || !PathBelow(fd, &path))) path.clear();
  std::string record(1, static_cast<char>(kFormat));
  Append(&record, &node->key, sizeof node->key);
  AppendString(&record, node->file_handle);
  AppendString(&record, path);
  if (record.size() > size) return -ERANGE;
  memcpy(to, record.data(), record.size());
  return static_cast<int64_t>(record.size());
}

// Walks down from the directory that is served; each step is one name, and is checked as that of any client.
int64_t Disk::ReplyAtPath(Call& call, std::string_view path, const NodeKey& key) {
  NodePin at(&table_, table_.Pin(table_.root_key));
  if (!at) return -ESTALE;
  while (!path.empty()) {
    size_t end = path.find('/');
    std::string name(path.substr(0, end));
    bool last = end == std::string_view::npos;
    path.remove_prefix(last ? path.size() : end + 1);
    if (name.empty() || name == "." || name == ".." || name.size() > NAME_MAX) return -ENOENT;
    if (!last && path.empty()) return -ENOENT;
    int at_fd = table_.Descriptor(at.get());
    if (at_fd < 0) return -ESTALE;
    int fd = OpenEntry(at_fd, name.c_str(), false);
    if (fd < 0) return fd == -ENOTDIR || fd == -ELOOP ? -ENOENT : fd;
    OwnedDescriptor owned(fd);
    struct statx stat;
    if (statx(fd, "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
    Identity identity;
    if (int error = Identify(fd, "", stat, &identity); error < 0) return error;
    if (last) return identity.key == key ? ReplyEntry(call, owned.Release(), at->key, name.c_str()) : -ESTALE;
    if (!S_ISDIR(stat.stx_mode)) return -ENOENT;
    int error = 0;
    NodePin next = LearnDescriptor(owned.Release(), stat, &error);
    if (!next) return error;
    table_.Locate(next.get(), at->key, name);
    at = std::move(next);
  }
  if (key != table_.root_key) return -ESTALE;
  call.slot.id = table_.root_key;
  return Root(call);
}

// Looks through the whole directory for a name of this inode: the last means, when a file was moved and the kernel has forgotten where to. Of mounts below,
// and of more entries than kSearchMax, nothing is seen.
bool Disk::Search(uint64_t ino, std::string* path) {
  std::vector<std::string> pending = {"."};
  std::vector<char> entries(kSearchBytes);
  size_t seen = 0;
  while (!pending.empty()) {
    std::string at = std::move(pending.back());
    pending.pop_back();
    OwnedDescriptor directory(OpenForSearch(at.c_str()));
    if (directory.get() < 0) continue;
    for (;;) {
      long got = syscall(SYS_getdents64, directory.get(), entries.data(), entries.size());
      if (got <= 0) break;
      for (long offset = 0; offset < got;) {
        const auto* entry = reinterpret_cast<const struct dirent64*>(entries.data() + offset);
        offset += entry->d_reclen;
        std::string_view name = entry->d_name;
        if (name == "." || name == ".." || (at == "." && IsKeptFolder(table_.root_key, entry->d_name))) continue;
        if (++seen > kSearchMax) return false;
        if (entry->d_ino != ino && entry->d_type != DT_DIR) continue;
        std::string place = at == "." ? std::string(name) : at + "/" + std::string(name);
        if (entry->d_ino == ino) {
          *path = std::move(place);
          return true;
        }
        pending.push_back(std::move(place));
      }
    }
  }
  return false;
}

int Disk::OpenForSearch(const char* path) {
  NodePin root(&table_, table_.Pin(table_.root_key));
  struct open_how how = {};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  return openat2_ && root ? static_cast<int>(syscall(SYS_openat2, table_.Descriptor(root.get()), path, &how, sizeof how)) : -1;
}

// By file handle, which leads to the file wherever it was moved, and then to where that is; else where it was.
int64_t Disk::Recall(Call& call) {
  if (call.here) return kPending;
  NodeRecord record;
  if (!Parse({reinterpret_cast<char*>(call.data), call.size}, &record)) return -EINVAL;
  if (int error = TakeIdentity(nullptr, false); error < 0) return error;
  int64_t result = ReplyAtPath(call, record.path, record.key);
  if (result < 0 && RecallKept(call, record.key) == 0) return 0;
  if (result >= 0 || !file_handles_ || record.file_handle.empty()) return result;
  OwnedDescriptor found(OpenByFileHandle(record.file_handle));
  if (found.get() < 0) return found.get() == -ESTALE ? -ESTALE : result;
  struct statx stat;
  if (statx(found.get(), "", AT_EMPTY_PATH, STATX_NLINK | STATX_TYPE, &stat) < 0) return -errno;
  if (stat.stx_nlink == 0) return -ESTALE;
  std::string path;
  int64_t moved = PathBelow(found.get(), &path) ? ReplyAtPath(call, path, record.key) : -ESTALE;
  // The kernel always knows where a directory is.
  if (moved >= 0 || S_ISDIR(stat.stx_mode) || !Search(record.key.ino, &path)) return moved < 0 ? -ESTALE : moved;
  return ReplyAtPath(call, path, record.key);
}

}  // namespace netdrive
