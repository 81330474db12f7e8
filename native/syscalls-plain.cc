// System calls as they are: synchronous, by descriptor and path, answering a result or a negative errno.
//
// For the conformance suite's "plain directory" and "kernel mount" targets and for tests, in a child process; the drive
// itself uses the disk engine (disk.h). They block the thread that calls them.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <grp.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "arguments.h"
#include "attributes.h"
#include "syscalls.h"

namespace netdrive {
namespace {

int64_t Result(int64_t result) { return result < 0 ? -errno : result; }

int64_t Openat(Arguments& a) {
  return Result(openat(a.Int(0), a.Path(1).c_str(), a.Int(2), static_cast<mode_t>(a.Unsigned(3))));
}

int64_t Close(Arguments& a) { return Result(close(a.Int(0))); }

int64_t Pread(Arguments& a) {
  Bytes target = a.Buffer(1);
  if (!a.ok()) return 0;
  return Result(pread(a.Int(0), target.data, target.size, a.Integer(2)));
}

int64_t Pwrite(Arguments& a) {
  Bytes data = a.Buffer(1);
  if (!a.ok()) return 0;
  return Result(pwrite(a.Int(0), data.data, data.size, a.Integer(2)));
}

int64_t Write(Arguments& a) {
  Bytes data = a.Buffer(1);
  if (!a.ok()) return 0;
  return Result(write(a.Int(0), data.data, data.size));
}

int64_t Statx(Arguments& a) {
  Bytes record = a.Buffer(3);
  if (!a.ok() || record.size < sizeof(AttrRecord)) return -EINVAL;
  struct statx stat;
  if (statx(a.Int(0), a.Path(1).c_str(), a.Int(2), kStatxMask, &stat) < 0) return -errno;
  AttrRecord attr;
  FillAttr(stat, &attr);
  memcpy(record.data, &attr, sizeof attr);
  return 0;
}

int64_t Renameat2(Arguments& a) {
  return Result(
      syscall(SYS_renameat2, a.Int(0), a.Path(1).c_str(), a.Int(2), a.Path(3).c_str(), a.Unsigned(4)));
}

int64_t Linkat(Arguments& a) {
  return Result(linkat(a.Int(0), a.Path(1).c_str(), a.Int(2), a.Path(3).c_str(), a.Int(4)));
}

int64_t Symlinkat(Arguments& a) { return Result(symlinkat(a.Path(0).c_str(), a.Int(1), a.Path(2).c_str())); }

int64_t Readlinkat(Arguments& a) {
  Bytes target = a.Buffer(2);
  if (!a.ok()) return 0;
  return Result(readlinkat(a.Int(0), a.Path(1).c_str(), reinterpret_cast<char*>(target.data), target.size));
}

int64_t Mknodat(Arguments& a) {
  return Result(mknodat(a.Int(0), a.Path(1).c_str(), a.Unsigned(2), makedev(a.Unsigned(3), a.Unsigned(4))));
}

int64_t Mkdirat(Arguments& a) { return Result(mkdirat(a.Int(0), a.Path(1).c_str(), a.Unsigned(2))); }

int64_t Unlinkat(Arguments& a) { return Result(unlinkat(a.Int(0), a.Path(1).c_str(), a.Int(2))); }

int64_t Lgetxattr(Arguments& a) {
  Bytes target = a.Buffer(2);
  if (!a.ok()) return 0;
  return Result(lgetxattr(a.Path(0).c_str(), a.Path(1).c_str(), target.data, target.size));
}

int64_t Lsetxattr(Arguments& a) {
  Bytes value = a.Buffer(2);
  if (!a.ok()) return 0;
  return Result(lsetxattr(a.Path(0).c_str(), a.Path(1).c_str(), value.data, value.size, a.Int(3)));
}

int64_t Llistxattr(Arguments& a) {
  Bytes target = a.Buffer(1);
  if (!a.ok()) return 0;
  return Result(llistxattr(a.Path(0).c_str(), reinterpret_cast<char*>(target.data), target.size));
}

int64_t Lremovexattr(Arguments& a) { return Result(lremovexattr(a.Path(0).c_str(), a.Path(1).c_str())); }

int64_t Fallocate(Arguments& a) { return Result(fallocate(a.Int(0), a.Int(1), a.Integer(2), a.Integer(3))); }

int64_t Lseek(Arguments& a) { return Result(lseek(a.Int(0), a.Integer(1), a.Int(2))); }

int64_t CopyFileRange(Arguments& a) {
  off64_t from = a.Integer(1);
  off64_t to = a.Integer(3);
  return Result(copy_file_range(a.Int(0), &from, a.Int(2), &to, static_cast<size_t>(a.Integer(4)), 0));
}

// Seconds as numbers (they may be negative), nanoseconds 0..999999999 or UTIME_NOW / UTIME_OMIT.
int64_t Utimensat(Arguments& a) {
  struct timespec times[2] = {{a.Integer(2), static_cast<long>(a.Integer(3))},
                              {a.Integer(4), static_cast<long>(a.Integer(5))}};
  // By system call: the library's wrapper refuses a null path, which means the descriptor itself.
  std::string path = a.Path(1);
  return Result(syscall(SYS_utimensat, a.Int(0), path.empty() ? nullptr : path.c_str(), times, a.Int(6)));
}

int64_t Fchmodat(Arguments& a) { return Result(fchmodat(a.Int(0), a.Path(1).c_str(), a.Unsigned(2), 0)); }

int64_t Fchownat(Arguments& a) {
  return Result(fchownat(a.Int(0), a.Path(1).c_str(), a.Unsigned(2), a.Unsigned(3), a.Int(4)));
}

int64_t Truncate(Arguments& a) { return Result(truncate(a.Path(0).c_str(), a.Integer(1))); }

int64_t Ftruncate(Arguments& a) { return Result(ftruncate(a.Int(0), a.Integer(1))); }

int64_t Fsync(Arguments& a) { return Result(a.Int(1) != 0 ? fdatasync(a.Int(0)) : fsync(a.Int(0))); }

int64_t Syncfs(Arguments& a) { return Result(syncfs(a.Int(0))); }

// Takes a file's clean pages out of the page cache. posix_fadvise returns its error.
int64_t DropPages(Arguments& a) { return -posix_fadvise(a.Int(0), 0, 0, POSIX_FADV_DONTNEED); }

int64_t Faccessat(Arguments& a) {
  return Result(faccessat(a.Int(0), a.Path(1).c_str(), a.Int(2), a.Int(3)));
}

int64_t Umask(Arguments& a) { return umask(a.Unsigned(0)); }

// Takes another identity for good: supplementary groups, then group, then user, all of real, effective and saved.
int64_t SetIdentity(Arguments& a) {
  Bytes groups = a.Buffer(2);
  if (!a.ok()) return 0;
  std::vector<gid_t> list(groups.size / sizeof(gid_t));
  memcpy(list.data(), groups.data, list.size() * sizeof(gid_t));
  uid_t uid = a.Unsigned(0);
  gid_t gid = a.Unsigned(1);
  // The library's wrappers change all threads, so the whole process takes it.
  if (setgroups(list.size(), list.data()) < 0 || setresgid(gid, gid, gid) < 0) return -errno;
  return Result(setresuid(uid, uid, uid));
}

// Copies between a file and a Buffer through a shared (flags MAP_SHARED) or private mapping; `offset` is a multiple of
// the page size. Writing syncs the mapping.
int64_t Mmap(Arguments& a) {
  Bytes bytes = a.Buffer(1);
  bool write = a.Int(3) != 0;
  if (!a.ok() || bytes.size == 0) return -EINVAL;
  void* map = mmap(nullptr, bytes.size, write ? PROT_READ | PROT_WRITE : PROT_READ, a.Int(4), a.Int(0), a.Integer(2));
  if (map == MAP_FAILED) return -errno;
  if (write) {
    memcpy(map, bytes.data, bytes.size);
  } else {
    memcpy(bytes.data, map, bytes.size);
  }
  int64_t result = write ? Result(msync(map, bytes.size, MS_SYNC)) : 0;
  munmap(map, bytes.size);
  return result;
}

// Raw linux_dirent64 records from where the descriptor stands.
int64_t Getdents(Arguments& a) {
  Bytes target = a.Buffer(1);
  if (!a.ok()) return 0;
  return Result(syscall(SYS_getdents64, a.Int(0), target.data, target.size));
}

// lseek of a directory with a cookie of all 64 bits, as two halves.
int64_t SeekDirectory(Arguments& a) {
  uint64_t cookie = static_cast<uint64_t>(a.Unsigned(2)) << 32 | a.Unsigned(1);
  return lseek(a.Int(0), static_cast<off_t>(cookie), SEEK_SET) < 0 && errno != 0 ? -errno : 0;
}

int64_t Statfs(Arguments& a) {
  Bytes target = a.Buffer(1);
  if (!a.ok() || target.size < 8 * sizeof(double)) return -EINVAL;
  struct statfs fs;
  if (statfs(a.Path(0).c_str(), &fs) < 0) return -errno;
  double values[8] = {static_cast<double>(fs.f_bsize),  static_cast<double>(fs.f_frsize),
                      static_cast<double>(fs.f_blocks), static_cast<double>(fs.f_bfree),
                      static_cast<double>(fs.f_bavail), static_cast<double>(fs.f_files),
                      static_cast<double>(fs.f_ffree),  static_cast<double>(fs.f_namelen)};
  memcpy(target.data, values, sizeof values);
  return 0;
}

using PlainCall = int64_t (*)(Arguments&);

template <PlainCall call>
napi_value Wrap(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  errno = 0;
  int64_t result = call(arguments);
  if (!arguments.ok()) return arguments.Wrong();
  return Number(env, result);
}

struct Row {
  const char* name;
  napi_callback function;
};

constexpr Row kRows[] = {
    {"openat", Wrap<Openat>},
    {"close", Wrap<Close>},
    {"pread", Wrap<Pread>},
    {"pwrite", Wrap<Pwrite>},
    {"write", Wrap<Write>},
    {"statx", Wrap<Statx>},
    {"renameat2", Wrap<Renameat2>},
    {"linkat", Wrap<Linkat>},
    {"symlinkat", Wrap<Symlinkat>},
    {"readlinkat", Wrap<Readlinkat>},
    {"mknodat", Wrap<Mknodat>},
    {"mkdirat", Wrap<Mkdirat>},
    {"unlinkat", Wrap<Unlinkat>},
    {"lgetxattr", Wrap<Lgetxattr>},
    {"lsetxattr", Wrap<Lsetxattr>},
    {"llistxattr", Wrap<Llistxattr>},
    {"lremovexattr", Wrap<Lremovexattr>},
    {"fallocate", Wrap<Fallocate>},
    {"lseek", Wrap<Lseek>},
    {"copyFileRange", Wrap<CopyFileRange>},
    {"utimensat", Wrap<Utimensat>},
    {"fchmodat", Wrap<Fchmodat>},
    {"fchownat", Wrap<Fchownat>},
    {"truncate", Wrap<Truncate>},
    {"ftruncate", Wrap<Ftruncate>},
    {"fsync", Wrap<Fsync>},
    {"syncfs", Wrap<Syncfs>},
    {"dropPages", Wrap<DropPages>},
    {"faccessat", Wrap<Faccessat>},
    {"umask", Wrap<Umask>},
    {"setIdentity", Wrap<SetIdentity>},
    {"mmap", Wrap<Mmap>},
    {"getdents", Wrap<Getdents>},
    {"seekDirectory", Wrap<SeekDirectory>},
    {"statfs", Wrap<Statfs>},
};

}  // namespace

napi_value RegisterPlainSyscalls(napi_env env, napi_value exports) {
  napi_value plain;
  NETDRIVE_CHECK(env, napi_create_object(env, &plain));
  for (const Row& row : kRows) {
    if (Export(env, plain, row.name, row.function) == nullptr) return nullptr;
  }
  NETDRIVE_CHECK(env, napi_set_named_property(env, exports, "plain", plain));
  return exports;
}

}  // namespace netdrive
