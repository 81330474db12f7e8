// Pages of directory entries, written as src/vfs/dirent-page.ts lays them out.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "disk.h"

namespace netdrive {
namespace {

// As getdents64(2) returns it.
struct RawEntry {
  uint64_t ino;
  int64_t cookie;
  uint16_t bytes;
  uint8_t type;
  char name[];
};
constexpr size_t kRawNameAt = 19;

// The fixed part of a record of a page.
struct EntryHead {
  uint16_t bytes;
  uint16_t name_bytes;
  uint8_t type;
  uint8_t has_entry;
  uint16_t id_bytes;
  uint64_t cookie;
  uint64_t ino;
};
static_assert(sizeof(EntryHead) == 24, "DIRENT_HEAD_BYTES of src/vfs/dirent-page.ts");

// What is read at a time and not yet answered is kept with the handle: little if small pages are asked for.
constexpr size_t kRawBytesMin = 1024;
constexpr size_t kRawBytesMax = 32768;

const RawEntry* Peek(const DirectoryStream& stream) {
  return reinterpret_cast<const RawEntry*>(stream.buffer.data() + stream.at);
}

bool IsDots(const char* name) { return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0)); }

}  // namespace

int64_t Disk::Readdir(Call& call) {
  if (call.here) return kPending;
  HandleReference handle(&table_, table_.Reference(call.slot.handle), true);
  if (!handle) return -EBADF;
  if (handle->stream == nullptr) return -ENOTDIR;
  if (int error = Become(call); error < 0) return error;
  DirectoryStream& stream = *handle->stream;
  std::lock_guard lock(stream.mutex);
  uint64_t cookie = call.slot.cookie;
  if (cookie == 0 || cookie != stream.position) {
    stream.at = stream.end = 0;
    errno = 0;
    // A cookie uses all 64 bits: a negative answer is no error as such.
    if (lseek(handle->fd, static_cast<off_t>(cookie), SEEK_SET) < 0 && errno != 0) return -errno;
    stream.position = cookie;
  }
  int64_t result = FillPage(call, handle->fd, handle->node->key, &stream);
  if (stream.at == stream.end) {
    stream.at = stream.end = 0;
    std::vector<char>().swap(stream.buffer);
  }
  return result;
}

int64_t Disk::FillPage(Call& call, int fd, const NodeKey& directory, DirectoryStream* stream) {
  size_t filled = 0;
  // An entry takes about a quarter of its record.
  size_t raw_bytes = std::clamp(call.size / 4, kRawBytesMin, kRawBytesMax);
  for (;;) {
    if (stream->at == stream->end) {
      stream->buffer.resize(raw_bytes);
      long got = syscall(SYS_getdents64, fd, stream->buffer.data(), stream->buffer.size());
      // What was found before is answered first; the next call meets the error again.
      if (got < 0) return filled > 0 ? static_cast<int64_t>(filled) : -errno;
      if (got == 0) return filled;
      stream->at = 0;
      stream->end = got;
    }
    const RawEntry* raw = Peek(*stream);
    if (IsKeptFolder(directory, raw->name)) {
      stream->at += raw->bytes;
      stream->position = raw->cookie;
      continue;
    }
    size_t used = AppendEntry(call, fd, directory, raw->name, raw->type, raw->cookie, raw->ino, filled);
    if (used == 0) return filled > 0 ? static_cast<int64_t>(filled) : -EINVAL;
    filled += used;
    stream->at += raw->bytes;
    stream->position = raw->cookie;
  }
}

// Appends a record at `filled` of the page; 0 if there is no room.
size_t Disk::AppendEntry(Call& call, int fd, const NodeKey& directory, const char* name, uint8_t type, uint64_t cookie,
                         uint64_t ino, size_t filled) {
  size_t name_bytes = strlen(name);
  bool with_entry = call.slot.flags != 0 && !IsDots(name);
  // The room for the whole entry is asked for before it is looked at: an entry answered with its id counts as looked up.
  size_t bytes = sizeof(EntryHead) + name_bytes + (with_entry ? sizeof(AttrRecord) + sizeof(NodeKey) : 0);
  if (filled + ((bytes + 7) & ~size_t{7}) > call.size) return 0;
  AttrRecord attr;
  NodeKey key;
  bool has_entry = with_entry && LearnEntry(fd, directory, name, &attr, &key);
  if (!has_entry) bytes = sizeof(EntryHead) + name_bytes;
  size_t padded = (bytes + 7) & ~size_t{7};
  // What is above the directory that is served is nobody's business.
  if (directory == table_.root_key && IsDots(name)) ino = directory.ino;
  EntryHead head = {
      .bytes = static_cast<uint16_t>(padded),
      .name_bytes = static_cast<uint16_t>(name_bytes),
      .type = type,
      .has_entry = has_entry,
      .id_bytes = static_cast<uint16_t>(has_entry ? sizeof key : 0),
      .cookie = cookie,
      .ino = ino,
  };
  uint8_t* to = call.data + filled;
  memcpy(to, &head, sizeof head);
  to += sizeof head;
  if (has_entry) {
    memcpy(to, &attr, sizeof attr);
    memcpy(to + sizeof attr, &key, sizeof key);
    to += sizeof attr + sizeof key;
  }
  memcpy(to, name, name_bytes);
  memset(to + name_bytes, 0, padded - bytes);
  return padded;
}

// Attributes and id of an entry, under the caller's identity: without the right to search the directory there are none.
bool Disk::LearnEntry(int fd, const NodeKey& directory, const char* name, AttrRecord* attr, NodeKey* key) {
  struct statx stat;
  if (statx(fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kStatxMask, &stat) < 0) return false;
  // Another mount begins here: it is shown, and not entered.
  if ((stat.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) return false;
  Identity identity;
  if (Identify(fd, name, stat, &identity) < 0) return false;
  NodePin node(&table_, table_.Learn(identity, stat));
  table_.Locate(node.get(), directory, name);
  FillAttr(stat, attr);
  *key = identity.key;
  return true;
}

}  // namespace netdrive
