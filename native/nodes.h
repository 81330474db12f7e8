// The node table of a disk: which files have been named to clients, how to find them again, and the opens on them.
//
// A node has an O_PATH descriptor while it is in use lately; the others' are closed (least recently used first) and found again by file handle,
// through an open, or by parent and name. What has not been used for longest is dropped altogether.
//
// INVARIANT: a descriptor is handed out for a node only after its identity was checked against the node's key.
// INVARIANT: a pinned node is neither dropped nor is its descriptor closed.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace netdrive {

// NodeId as bytes: inode number, and a mix of what else tells two files with the same number apart.
struct NodeKey {
  uint64_t ino = 0;
  uint64_t generation = 0;
  bool operator==(const NodeKey&) const = default;
};
static_assert(sizeof(NodeKey) == 16);

struct NodeKeyHash {
  // By inode only: all nodes with one inode number share a bucket, see NodeTable::FindLive.
  size_t operator()(const NodeKey& key) const { return key.ino * 0x9e3779b97f4a7c15ull >> 7; }
};

struct Handle;

// Why a file without a name has a link in the folder of kept files; see disk-kept.cc.
enum Kept : uint8_t {
  kNotKept,
  // Its last name was removed while it was open.
  kKeptUnlinked,
  // It was made without a name, and may be given one.
  kKeptTemporary,
  // It was made without a name, for good.
  kKeptNameless,
};

struct Node {
  NodeKey key;
  NodeKey parent;
  std::string name;
  // As name_to_handle_at gave it: type (4 bytes), then the handle; empty if the file system has none.
  std::string file_handle;
  uint64_t device = 0;
  int fd = -1;
  uint32_t pins = 0;
  Handle* opens = nullptr;
  // The description that holds its fcntl locks, and the one of its flock; there while it has some.
  int lock_fds[2] = {-1, -1};
  // LockType of the flock.
  uint32_t flock = 0;
  Node* previous = nullptr;
  Node* next = nullptr;
  uint8_t list = 0;
  bool directory = false;
  bool located = false;
  // No name is left: gone with the last open.
  bool deleted = false;
  // What is asked first, without the table's mutex: nearly no file is kept.
  std::atomic<Kept> kept{kNotKept};
};

// The name of the node's link in the folder of kept files.
std::string KeptName(const NodeKey& key, Kept kept);

// Where a directory handle stands.
struct DirectoryStream {
  std::mutex mutex;
  std::vector<char> buffer;
  size_t at = 0;
  size_t end = 0;
  uint64_t position = 0;
};

struct Handle {
  uint32_t id = 0;
  int fd = -1;
  uint32_t flags = 0;
  // Guarded by the table's mutex.
  uint32_t references = 1;
  Node* node = nullptr;
  Handle* previous = nullptr;
  Handle* next = nullptr;
  DirectoryStream* stream = nullptr;
  // Up to where the disk was asked to write what it was given.
  std::atomic<uint64_t> writeback_begun = 0;
};

// What name_to_handle_at and statx say of a file.
struct Identity {
  NodeKey key;
  std::string file_handle;
};

// 0: the table's share of what the process may have (RLIMIT_NOFILE): half of it for nodes, a quarter for opens, divided by the
// tables there are.
struct NodeLimits {
  uint32_t nodes_max;
  uint32_t node_descriptors_max;
  uint32_t handles_max;
};

class NodeTable {
 public:
  explicit NodeTable(NodeLimits limits);
  NodeTable(const NodeTable&) = delete;
  NodeTable& operator=(const NodeTable&) = delete;
  ~NodeTable();

  // The node with `key`, pinned; null if unknown.
  Node* Pin(const NodeKey& key);
  void Pin(Node* node);
  void Unpin(Node* node);

  // The pinned node's descriptor, or -1.
  int Descriptor(Node* node);

  // A pinned node that is this very inode because one of its descriptors keeps it alive; null if there is none.
  Node* FindLive(uint64_t ino, uint64_t device);

  // The pinned node of a file that was just reached, made if need be.
  Node* Learn(const Identity& identity, const struct statx& stat);

  // Gives the node this O_PATH descriptor, or closes it if it has one.
  void Adopt(Node* node, int fd);

  // The node was just seen as `name` in `parent`.
  void Locate(Node* node, const NodeKey& parent, std::string_view name);
  // Where it was seen last; false if that is not known.
  bool Location(Node* node, NodeKey* parent, std::string* name);
  // The names from the root down to where it was seen last; false if one of them is not known.
  bool Path(const Node* node, std::string* path);
  // `name` in `parent` is not the node's any more.
  void Unlocate(Node* node, const NodeKey& parent, std::string_view name);
  void SetDeleted(Node* node, bool deleted);
  // Whether nobody has the node, which has no name left, open; it is deleted then.
  bool Orphaned(Node* node);
  // The node has a link in the folder of kept files, which goes with its last open. That of kNotKept is not there any more.
  void SetKept(Node* node, Kept kept) { node->kept = kept; }
  void SetKeptFolder(int fd) { kept_folder_ = fd; }
  bool HasOpens(Node* node);
  // A client will not use it without a new lookup: the next to go.
  void Forget(const NodeKey& key);

  // Registers an open of a pinned node; the table owns `fd` from now on. 0 if there are too many.
  uint32_t AddHandle(Node* node, int fd, uint32_t flags, bool directory);
  bool HandlesFull();
  // The handle with one more reference; null if unknown.
  Handle* Reference(uint32_t id);
  // Any open of a pinned node, with one more reference; null if there is none.
  Handle* ReferenceAny(Node* node);
  // The descriptor of a node that is kept by an open for its locks of a kind, or -1.
  int LockDescriptor(Node* node, int kind);
  // Puts another in its place (-1: none), and returns the one before, for the caller to close.
  int ReplaceLockDescriptor(Node* node, int kind, int fd);

  // Makes the id invalid and gives the table's reference to the caller.
  Handle* Take(uint32_t id);
  // Drops a reference. The last one closes the descriptor: here if `close_here`, else on a worker.
  void Drop(Handle* handle, bool close_here);

  // Closes `fd` on a worker.
  void CloseLater(int fd);

  // Lets go of files that others have deleted: a descriptor of ours would keep their blocks. May block.
  void Sweep();

  // Closes all that is open, on a worker, and leaves its share of descriptors to the other tables.
  void Clear();

  // Never closed on a worker's account by anyone else: waits for all closes handed over.
  void WaitForCloses();

  // On a worker that needs what deleted files hold; see Pool::HelpClosing.
  void HelpClosing();

  struct Counters {
    int64_t nodes, node_descriptors, handles, closing, handed_over;
  };
  Counters Count();

  NodeKey root_key;

 private:
  enum : uint8_t { kNone, kWarm, kColdFile, kColdDirectory, kLists };
  struct List {
    Node* first = nullptr;
    Node* last = nullptr;
  };

  void Link(Node* node, uint8_t list, bool front);
  void Unlink(Node* node);
  // To the front of the list it belongs to.
  void Touch(Node* node);
  bool Findable(const Node& node) const;
  // `urgent` if it may be what keeps a deleted file's blocks.
  void CloseDescriptor(Node* node, bool urgent);
  void TrimDescriptors();
  void TrimNodes();
  void MoveMarkerBefore(Node* node);
  bool EraseIfGone(Node* node);
  void Erase(Node* node);

  uint32_t DescriptorsMax() const;
  uint32_t HandlesMax() const;

  // Is not one of the tables that share the process's descriptors any more.
  void LeaveShare();

  NodeLimits limits_;
  bool shares_ = true;
  uint32_t process_descriptors_max_;
  std::mutex mutex_;
  std::unordered_map<NodeKey, Node, NodeKeyHash> nodes_;
  List lists_[kLists];
  // Where a sweep stands in the list of nodes with descriptors.
  Node marker_;
  uint32_t node_descriptors_ = 0;
  struct Entry {
    Handle* handle = nullptr;
    uint32_t generation = 0;
  };
  std::vector<Entry> entries_;
  // First in, first out, and only reused when many are free: an id comes again after millions of opens at the earliest.
  std::deque<uint32_t> free_entries_;
  uint32_t handles_ = 0;
  // The folder of kept files, -1 while nothing is removed from it.
  std::atomic<int> kept_folder_{-1};
  // A descriptor, or a name, goes to a worker that lets go of it.
  void HandOver() {
    closing_.fetch_add(1);
    handed_over_.fetch_add(1);
  }

  // What workers have yet to let go of, and what they were ever given.
  std::atomic<int64_t> closing_{0};
  std::atomic<int64_t> handed_over_{0};
};

// A pin for a scope.
class NodePin {
 public:
  NodePin() = default;
  NodePin(NodeTable* table, Node* node) : table_(table), node_(node) {}
  NodePin(NodePin&& other) noexcept : table_(other.table_), node_(other.node_) { other.node_ = nullptr; }
  NodePin& operator=(NodePin&& other) noexcept {
    if (this != &other) {
      Reset();
      table_ = other.table_;
      node_ = other.node_;
      other.node_ = nullptr;
    }
    return *this;
  }
  ~NodePin() { Reset(); }
  void Reset() {
    if (node_ != nullptr) table_->Unpin(node_);
    node_ = nullptr;
  }
  Node* get() const { return node_; }
  Node* operator->() const { return node_; }
  explicit operator bool() const { return node_ != nullptr; }

 private:
  NodeTable* table_ = nullptr;
  Node* node_ = nullptr;
};

// A reference to an open for a scope.
class HandleReference {
 public:
  HandleReference(NodeTable* table, Handle* handle, bool close_here)
      : table_(table), handle_(handle), close_here_(close_here) {}
  HandleReference(const HandleReference&) = delete;
  HandleReference& operator=(const HandleReference&) = delete;
  ~HandleReference() {
    if (handle_ != nullptr) table_->Drop(handle_, close_here_);
  }
  Handle* get() const { return handle_; }
  Handle* operator->() const { return handle_; }
  Handle& operator*() const { return *handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  NodeTable* table_;
  Handle* handle_;
  bool close_here_;
};

}  // namespace netdrive
