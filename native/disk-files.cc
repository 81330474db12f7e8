// Operations on open files.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "disk.h"

namespace netdrive {
namespace {

// One job copies at most this much, so that a worker is not kept for long; the caller asks again.
constexpr size_t kCopyBytesMax = 32 << 20;

// Copying more takes the JavaScript thread longer than waking a worker.
constexpr size_t kWriteHereBytesMax = 64 << 10;

// A stream of writes is sent to the disk this much at a time while it comes, so that an fsync at its end finds little to wait for (512 MiB on ext4: 7 ms
// instead of 150). Files smaller than this are left to the kernel, which writes them when it likes: many are gone before.
constexpr uint64_t kWritebackBytes = 16 << 20;

// Takes `size` bytes off the front of [first, end). Returns the first part that is left.
struct iovec* Advance(struct iovec* first, const struct iovec* end, size_t size) {
  while (first < end && size >= first->iov_len) size -= (first++)->iov_len;
  if (first < end) {
    first->iov_base = static_cast<uint8_t*>(first->iov_base) + size;
    first->iov_len -= size;
  }
  return first;
}

// struct cachestat_range and struct cachestat of linux/mman.h since Linux 6.5.
struct CacheRange {
  uint64_t offset, length;
};
struct CacheFigures {
  uint64_t cached, dirty, writeback, evicted, recently_evicted;
};
constexpr long kCachestat = 451;

// Whether nothing of the range is on swap.
bool InMemory(int fd, off_t offset, size_t size) {
  CacheRange range = {static_cast<uint64_t>(offset), size};
  CacheFigures figures;
  return syscall(kCachestat, fd, &range, &figures, 0) == 0 && figures.evicted == 0;
}

// A write up to `end` has been done: starts to write back what lies before it, if that is enough. Waits for nothing.
void StartWriteback(Handle& handle, uint64_t end) {
  uint64_t begun = handle.writeback_begun.load(std::memory_order_relaxed);
  if (end < begun + kWritebackBytes || !handle.writeback_begun.compare_exchange_strong(begun, end)) return;
  // Writes of a stream are done by several workers, so some below `begun` may have come after it was reached.
  uint64_t from = begun - std::min(begun, kWritebackBytes);
  sync_file_range(handle.fd, static_cast<off64_t>(from), static_cast<off64_t>(end - from), SYNC_FILE_RANGE_WRITE);
}

// Whether a write is small, and nothing of where it goes is on swap.
bool WritesToMemory(const Call& call, const Handle& handle) {
  size_t size = call.size;
  for (const Bytes& bytes : call.more) size += bytes.size;
  if (size > kWriteHereBytesMax) return false;
  auto offset = static_cast<off_t>(call.slot.offset);
  if ((handle.flags & kOpenAppend) != 0) {
    struct statx stat;
    if (statx(handle.fd, "", AT_EMPTY_PATH, STATX_SIZE, &stat) < 0) return false;
    offset = static_cast<off_t>(stat.stx_size);
  }
  return InMemory(handle.fd, offset, size);
}

}  // namespace

int64_t Disk::Read(Call& call) {
  HandleReference handle(&table_, table_.Reference(call.slot.handle), !call.here);
  if (!handle) return -EBADF;
  auto offset = static_cast<off_t>(call.slot.offset);
  if (call.here) {
    if (memory_) {
      // tmpfs knows no RWF_NOWAIT.
      if (!InMemory(handle->fd, offset, call.size)) return kPending;
      ssize_t got = pread(handle->fd, call.data, call.size, offset);
      return got < 0 ? -errno : got;
    }
    struct iovec part = {call.data, call.size};
    ssize_t got = preadv2(handle->fd, &part, 1, offset, RWF_NOWAIT);
    if (got < 0) return errno == EAGAIN || errno == EOPNOTSUPP || errno == EINTR ? kPending : -errno;
    if (static_cast<size_t>(got) == call.size) return got;
    call.done = got;
    if (!local_) return kPending;
    struct statx stat;
    if (statx(handle->fd, "", AT_EMPTY_PATH, STATX_SIZE, &stat) < 0) return -errno;
    return static_cast<uint64_t>(offset) + got >= stat.stx_size ? got : kPending;
  }
  while (call.done < call.size) {
    ssize_t got = pread(handle->fd, call.data + call.done, call.size - call.done, offset + call.done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -errno;
    if (got == 0) break;
    call.done += got;
  }
  return call.done;
}

int64_t Disk::Write(Call& call) {
  if (MayWaitForFile(call)) return kPending;
  HandleReference handle(&table_, table_.Reference(call.slot.handle), !call.here);
  if (!handle) return -EBADF;
  if (call.here && !WritesToMemory(call, *handle)) return kPending;
  bool kills = (call.slot.valid & kSetKillSuidgid) != 0;
  if (int error = Become(call, kills); error < 0) return error;
  auto offset = static_cast<off_t>(call.slot.offset);
  struct iovec parts[kBuffersMax] = {{call.data, call.size}};
  struct iovec* end = parts + 1;
  size_t size = call.size;
  for (const Bytes& bytes : call.more) {
    *end++ = {bytes.data, bytes.size};
    size += bytes.size;
  }
  struct iovec* first = parts;
  size_t done = 0;
  bool has_waited = false;
  do {
    // With O_APPEND the kernel ignores the offset.
    ssize_t put = pwritev(handle->fd, first, static_cast<int>(end - first), offset + done);
    if (put < 0 && errno == EINTR) continue;
    // A file that was removed and closed a moment ago may be closed only now.
    if (put < 0 && errno == ENOSPC && !std::exchange(has_waited, true)) {
      if (call.here) return done > 0 ? static_cast<int64_t>(done) : kPending;
      table_.HelpClosing();
      if (int error = Become(call, kills); error < 0) return done > 0 ? static_cast<int64_t>(done) : error;
      continue;
    }
    if (put < 0) return done > 0 ? static_cast<int64_t>(done) : -errno;
    if (put == 0) break;
    done += put;
    first = Advance(first, end, put);
  } while (done < size);
  // Where an append lands is not known here.
  if ((handle->flags & kOpenAppend) == 0) StartWriteback(*handle, offset + done);
  return done;
}

int64_t Disk::Fsync(Call& call) {
  if (MayWait(call)) return kPending;
  HandleReference handle(&table_, table_.Reference(call.slot.handle), !call.here);
  if (!handle) return -EBADF;
  return (call.slot.flags != 0 ? fdatasync(handle->fd) : fsync(handle->fd)) < 0 ? -errno : 0;
}

int64_t Disk::Fallocate(Call& call) {
  if (call.here) return kPending;
  HandleReference handle(&table_, table_.Reference(call.slot.handle), true);
  if (!handle) return -EBADF;
  if (int error = Become(call); error < 0) return error;
  auto offset = static_cast<off_t>(call.slot.offset);
  auto length = static_cast<off_t>(call.slot.length);
  return fallocate(handle->fd, static_cast<int>(call.slot.mode), offset, length) < 0 ? -errno : 0;
}

int64_t Disk::Lseek(Call& call) {
  if (call.here) return kPending;
  HandleReference handle(&table_, table_.Reference(call.slot.handle), true);
  if (!handle) return -EBADF;
  // Where the descriptor stands is of no use to anyone: all I/O names its offset.
  off_t at = lseek(handle->fd, static_cast<off_t>(call.slot.offset), call.slot.flags == 0 ? SEEK_DATA : SEEK_HOLE);
  return at < 0 ? -errno : at;
}

int64_t Disk::CopyFileRange(Call& call) {
  if (call.here) return kPending;
  HandleReference from(&table_, table_.Reference(call.slot.handle), true);
  HandleReference to(&table_, table_.Reference(call.slot.target_handle), true);
  if (!from || !to) return -EBADF;
  if (int error = Become(call); error < 0) return error;
  auto from_at = static_cast<off64_t>(call.slot.offset);
  auto to_at = static_cast<off64_t>(call.slot.target_offset);
  size_t length = std::min(static_cast<size_t>(call.slot.length), kCopyBytesMax);
  ssize_t copied = copy_file_range(from->fd, &from_at, to->fd, &to_at, length, 0);
  return copied < 0 ? -errno : copied;
}

int64_t Disk::Syncfs(Call& call) {
  if (call.here) return kPending;
  // A directory that may not be read has no descriptor for syncfs: everything then.
  if (sync_fd_ < 0) {
    sync();
    return 0;
  }
  return syncfs(sync_fd_) < 0 ? -errno : 0;
}

// What was done to a node reaches the disk: the names in a directory, a file's data and attributes; and what is kept of open files.
int64_t Disk::SyncNode(Call& call) {
  if (call.here) return kPending;
  if (int error = TakeIdentity(nullptr, false); error < 0) return error;
  if (int error = SyncKept(); error < 0) return error;
  NodePin node;
  int path_fd;
  if (int64_t result = Find(call, call.slot.id, &node, &path_fd); result < 0) return result;
  struct statx stat;
  if (statx(path_fd, "", AT_EMPTY_PATH, STATX_TYPE, &stat) < 0) return -errno;
  if (S_ISREG(stat.stx_mode) || S_ISDIR(stat.stx_mode)) {
    OwnedDescriptor fd(Reopen(path_fd, O_RDONLY));
    if (fd.get() >= 0) return fsync(fd.get()) < 0 ? -errno : 0;
  }
  // Of what may not be read, or is no file, there is no descriptor that could be synced.
  return Syncfs(call);
}

}  // namespace netdrive
