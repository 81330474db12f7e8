// A disk: the operations of the FileSystem contract over one directory, each a composite of system calls.
//
// JavaScript fills a slot (one per request, in memory both sides see), and submits it. What cannot block runs at once on the JavaScript
// thread; the rest answers kPending, runs on the pool, and its completion comes in a batch. It knows no protocol: a slot holds what the
// system calls need.
#pragma once

#include <linux/openat2.h>
#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>

#include "addon.h"
#include "arguments.h"
#include "attributes.h"
#include "identity.h"
#include "jobs.h"
#include "nodes.h"

namespace netdrive {

// Not an errno: "this would block here", and what submit() answers for a request that went to the pool.
constexpr int64_t kPending = -4096;

// Buffers of one write. WRITEV_BUFFERS_MAX of src/vfs/file-system.ts.
constexpr size_t kBuffersMax = 8;

// One request and its reply. Offsets are those of SLOT in src/sys/disk-engine.ts, which checks them against `slotLayout` when it loads.
struct Slot {
  uint32_t operation;
  uint32_t credential;
  uint32_t handle;
  uint32_t target_handle;
  double offset;
  double target_offset;
  double length;
  uint32_t flags;
  uint32_t mode;
  uint32_t umask;
  uint32_t valid;
  uint32_t uid;
  uint32_t gid;
  double atime_s;
  double mtime_s;
  uint32_t atime_ns;
  uint32_t mtime_ns;
  uint32_t rdev_major;
  uint32_t rdev_minor;
  uint64_t cookie;
  NodeKey id;
  NodeKey target_id;
  uint32_t name_bytes;
  uint32_t target_name_bytes;
  char name[256];
  char target_name[256];
  // The reply.
  AttrRecord attr;
  NodeKey reply_id;
  uint32_t reply_handle;
  uint32_t reserved;
  double statfs[8];
  // Of a lock: first and last byte; also of the lock found.
  uint64_t lock_start;
  uint64_t lock_end;
  // The directory whose names were changed, afterwards; its mode is 0 if it could not be looked at.
  AttrRecord directory;
  char padding[56];
};
static_assert(sizeof(Slot) == 1024);

// OpenFlag of src/vfs/file-system.ts.
enum OpenFlag : uint32_t {
  kOpenRead = 1 << 0,
  kOpenWrite = 1 << 1,
  kOpenAppend = 1 << 2,
  kOpenTrunc = 1 << 3,
  kOpenExcl = 1 << 4,
  kOpenSync = 1 << 5,
  kOpenDsync = 1 << 6,
  kOpenDirect = 1 << 7,
  kOpenNoatime = 1 << 8,
  kOpenExec = 1 << 9,
  kOpenKillSuidgid = 1 << 10,
};

// Which fields of a slot setattr applies.
enum SetattrBit : uint32_t {
  kSetMode = 1 << 0,
  kSetUid = 1 << 1,
  kSetGid = 1 << 2,
  kSetSize = 1 << 3,
  kSetAtime = 1 << 4,
  kSetMtime = 1 << 5,
  kSetAtimeNow = 1 << 6,
  kSetMtimeNow = 1 << 7,
  kSetKillSuidgid = 1 << 8,
  kSetByHandle = 1 << 9,
};

// Types of a lock in `mode`; `flags` is 1 for flock(2), 0 for fcntl(2).
enum LockType : uint32_t { kUnlock, kLockRead, kLockWrite };
constexpr uint64_t kLockEnd = INT64_MAX;

// One run of an operation, on either thread.
struct Call {
  Slot& slot;
  // The Buffer that came with the request.
  uint8_t* data;
  size_t size;
  const Credential* credential;
  // True on the JavaScript thread: answer kPending instead of blocking.
  bool here;
  // An open on its way from its first run to its second: release.
  Handle* carried = nullptr;
  // Bytes a first run has done: read.
  size_t done = 0;
  // The Buffers that came after `data`: write. kBuffersMax - 1 at most.
  std::span<const Bytes> more = {};
  // With `here`: no request of the disk is on a worker, or waits for one. Whatever holds a file's lock for long runs there.
  bool alone = false;
};

struct DiskOptions {
  std::string directory;
  bool apply_credentials;
  // Do without openat2(2), as where it is missing.
  bool without_openat2;
  // Files that are open keep existing for the next process when their last name goes.
  bool keep_unlinked;
  NodeLimits limits;
};

class Disk {
 public:
  // Whether system calls on it wait for no network and no daemon, and close(2) has nothing to report.
  bool local() const { return local_; }
  explicit Disk(const DiskOptions& options) : table_(options.limits), options_(options) {}
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  ~Disk();

  // Opens the directory. 0 or a negative errno. May block.
  int Open();
  void Close();

  // Runs a request: a result >= 0, a negative errno, or kPending if `call.here`.
  int64_t Run(Call& call);

  // Whether the operation is expected to wait for the disk for long: it may not take all workers.
  static bool Slow(uint32_t operation);

  // Closes what a request opened whose caller is gone.
  void Discard(uint32_t handle);

  // Writes a record of an open's node, or of a node that was named, with which Recall finds it in another process. The bytes written, or a negative
  // errno. Does not block.
  // The descriptor of an open directory in which names that are not the same bytes are not the same name; an error if there is none. The handle's.
  int64_t ExactNames(uint32_t handle);
  int64_t Describe(uint32_t handle, uint8_t* to, size_t size);
  int64_t Describe(const NodeKey& key, uint8_t* to, size_t size);

  NodeTable& table() { return table_; }

 private:
  using Operation = int64_t (Disk::*)(Call&);
  static const Operation kOperations[];

  // disk-names.cc
  int64_t Root(Call&);
  int64_t Lookup(Call&);
  int64_t Symlink(Call&);
  int64_t Mknod(Call&);
  int64_t Mkdir(Call&);
  int64_t Unlink(Call&);
  int64_t Rmdir(Call&);
  int64_t Link(Call&);
  int64_t Rename(Call&);
  // disk-opens.cc
  int64_t OpenFile(Call&);
  int64_t Create(Call&);
  int64_t Tmpfile(Call&);
  int64_t Flush(Call&);
  int64_t Release(Call&);
  // disk-files.cc
  int64_t Read(Call&);
  int64_t Write(Call&);
  int64_t Fsync(Call&);
  int64_t Fallocate(Call&);
  int64_t Lseek(Call&);
  int64_t CopyFileRange(Call&);
  int64_t Syncfs(Call&);
  int64_t SyncNode(Call&);
  // disk-locks.cc
  int64_t LockNode(Call&);
  int64_t FindNodeLock(Call&);
  // disk-attributes.cc
  int64_t Getattr(Call&);
  int64_t Setattr(Call&);
  int64_t Access(Call&);
  int64_t Readlink(Call&);
  int64_t Getxattr(Call&);
  int64_t Listxattr(Call&);
  int64_t Setxattr(Call&);
  int64_t Removexattr(Call&);
  int64_t Statfs(Call&);
  // disk-pages.cc
  int64_t Opendir(Call&);
  int64_t CloseAll(Call&);
  int64_t Sweep(Call&);
  int64_t Readdir(Call&);
  // disk-recall.cc
  int64_t Recall(Call&);
  int64_t DescribeAs(Node* node, int fd, uint8_t* to, size_t size);
  // Where a descriptor's file is below the directory that is served, as far as the kernel knows; false if it is not below.
  bool PathBelow(int fd, std::string* path);
  bool Search(uint64_t ino, std::string* path);
  int OpenForSearch(const char* path);
  // Answers the entry at `path` if it is the node `key`.
  int64_t ReplyAtPath(Call& call, std::string_view path, const NodeKey& key);

  // disk-kept.cc
  bool IsKeptFolder(const NodeKey& directory, const char* name) const;
  int CheckName(const Slot& slot, Operation operation) const;
  int KeptFolder(bool make);
  bool MakeKept(Node* node, int fd, Kept kept);
  void RemoveKept(Node* node);
  bool KeepVictim(const Call& call, const NodePin& victim, int fd, int parent_fd);
  void SettleKept(Node* victim, int error);
  int CheckLinkable(Node* node);
  // Takes the link in the folder of kept files out of the count.
  void ShowLinks(Node* node, struct statx* stat);
  // The end of a request that changes names in `parent`: `result`, and what became of the directory if that is a success.
  int64_t WithDirectory(Call& call, const NodePin& parent, int parent_fd, int64_t result);
  int64_t RecallKept(Call& call, const NodeKey& key);
  int64_t SweepKept(Call&);
  int SyncKept();
  void CloseKept();

  // Whether the JavaScript thread is to leave the request to a worker because the file system may make it wait.
  bool MayWait(const Call& call) const { return call.here && !memory_; }
  // The same of a request that takes the lock of a file.
  bool MayWaitForFile(const Call& call) const { return call.here && !(memory_ && call.alone); }
  // Whether the name that is about to go is the last one of a file that is open, as far as is known without asking.
  bool MayKeep(const NodePin& victim) {
    return options_.keep_unlinked && victim && table_.HasOpens(victim.get());
  }

  // disk-find.cc. `*fd` is the descriptor of the node `key`, which stays valid while `*pin` lives.
  int64_t Find(const Call& call, const NodeKey& key, NodePin* pin, int* fd);
  int64_t FindAgain(const Call& call, Node* node);
  int64_t FindByOpen(Node* node);
  int64_t FindByFileHandle(Node* node);
  // An O_PATH descriptor of a file by what name_to_handle_at said of it.
  int OpenByFileHandle(std::string_view file_handle);
  int64_t FindByName(Node* node);
  int64_t AdoptIfSame(Node* node, int fd);
  // As Find, with the file's status; ESTALE if it has no name left and nobody has it open.
  int64_t FindAlive(const Call& call, NodePin* pin, int* fd, struct statx* stat);
  // Who the file at `name` of directory `fd` is (or, if `name` is empty, of `fd` itself).
  int Identify(int fd, const char* name, const struct statx& stat, Identity* identity) const;
  // A descriptor of the entry `name` of the directory `parent`, under the identity the thread has.
  int OpenEntry(int parent, const char* name, bool cached_only);
  int OpenEntryWithoutOpenat2(int parent, const char* name);
  // A descriptor of a file that this makes: `flags` has O_CREAT | O_EXCL, or O_TMPFILE and the name is ".".
  int OpenNew(int parent, const char* name, uint64_t flags, mode_t mode);
  // Takes `fd` (O_PATH), answers attributes and id in the slot. ENOENT: the name it was opened by leads elsewhere, or nowhere, by now.
  int64_t ReplyEntry(Call& call, int fd, const NodeKey& parent, const char* name);
  Node* FindLive(const struct statx& stat);
  bool RootGone();
  NodePin LearnDescriptor(int fd, const struct statx& stat, int* error);
  // Answers what has the name of the slot, under the identity the thread has. EAGAIN: `cached_only`, and it is not.
  int64_t ReplyNamed(Call& call, const NodePin& parent, int parent_fd, bool cached_only = false);
  // Whether the file's blocks are freed at once.
  static bool IsSmall(int fd);
  // Closes what may have been the last reference to a file whose name is gone: one that is not small by a worker.
  void LetGo(const Call& call, int fd);
  // On the JavaScript thread, before a node is made in a directory: whether it will have the mode it is to have.
  static bool KeepsMode(const Call& call, int parent_fd);
  // The node behind a name that is about to go; empty if there is none.
  NodePin Victim(int parent_fd, const char* name, int* fd);
  void AfterRemoval(const NodePin& node, int fd, const NodeKey& parent, const char* name);

  // Takes the caller's identity on a worker.
  int Become(const Call& call, bool kill_suidgid = false) {
    return TakeIdentity(options_.apply_credentials ? call.credential : nullptr, kill_suidgid);
  }
  // For BorrowedIdentity: null if nothing is to change.
  const Credential* Borrow(const Call& call) const {
    return options_.apply_credentials ? call.credential : nullptr;
  }
  // A descriptor for I/O on the file of an O_PATH descriptor, or a negative errno.
  int Reopen(int path_fd, int flags);
  // The same on a worker, of a regular file: waits until a lease on it of a program beside the disk is given up.
  int ReopenWaiting(int path_fd, int flags);
  int OpenForExecution(const Call& call, int path_fd);
  int64_t Register(Call& call, const NodePin& node, int fd, bool directory);
  int64_t CreateNew(Call& call, const NodePin& parent, int parent_fd);
  int64_t CreateExisting(Call& call, const NodePin& parent, int parent_fd);
  int OpenForLocks(const Call& call, Handle* handle, bool writes);
  int Flock(const Call& call, Handle* handle);
  int LockRange(const Call& call, Handle* handle);
  static int MoveLocks(int from, int to);
  int SetTimes(const Slot& slot, int fd);
  int KillSuidgid(int fd);
  int64_t FillPage(Call& call, int fd, const NodeKey& directory, DirectoryStream* stream);
  size_t AppendEntry(Call& call, int fd, const NodeKey& directory, const char* name, uint8_t type, uint64_t cookie,
                     uint64_t ino, size_t filled);
  bool LearnEntry(int fd, const NodeKey& directory, const char* name, AttrRecord* attr, NodeKey* key);

  NodeTable table_;
  DiskOptions options_;
  int root_fd_ = -1;
  // The directory opened for reading, if that is allowed: for syncfs and as the mount of file handles.
  int sync_fd_ = -1;
  int proc_fd_ = -1;
  std::mutex kept_mutex_;
  // The folder of kept files, once there is one.
  int kept_fd_ = -1;
  std::mutex kept_sync_mutex_;
  // Links were made in it, or it itself was, since it was synced last.
  std::atomic<bool> kept_changed_ = false;
  bool local_ = false;
  bool overlay_ = false;
  // Its files are in memory, or on swap. Names and attributes wait for nothing there, and are worked on by the JavaScript thread.
  bool memory_ = false;
  bool openat2_ = true;
  bool cached_lookups_ = false;
  bool file_handles_ = false;
  // Flags for name_to_handle_at, or -1 if the file system knows no handles.
  int handle_flags_ = -1;
  // Short symbolic links are in the inode: reading them never waits.
  bool inline_links_ = false;
};

// Makes a path to a descriptor below /proc/self/fd, for calls that have no other way to take an O_PATH descriptor.
class DescriptorPath {
 public:
  explicit DescriptorPath(int fd);
  const char* text() const { return text_; }
  // Only the number, relative to /proc/self/fd.
  const char* number() const { return text_ + sizeof "/proc/self/fd/" - 1; }

 private:
  char text_[32];
};

// A descriptor closed at the end of a scope.
class OwnedDescriptor {
 public:
  explicit OwnedDescriptor(int fd) : fd_(fd) {}
  ~OwnedDescriptor();
  OwnedDescriptor(const OwnedDescriptor&) = delete;
  OwnedDescriptor& operator=(const OwnedDescriptor&) = delete;
  int get() const { return fd_; }
  int Release() {
    int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

// exports.createDiskEngine; disk-binding.cc.
napi_value RegisterDisk(napi_env env, napi_value exports);

}  // namespace netdrive
