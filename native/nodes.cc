// The node table: lists, bounds, opens, and letting go.
#include "nodes.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "jobs.h"

namespace netdrive {
namespace {

constexpr uint32_t kHandleIndexBits = 20;
constexpr uint32_t kHandleIndexMask = (1u << kHandleIndexBits) - 1;
constexpr size_t kFreeEntriesMin = 4096;
// How many that may not go are passed over when one is to go.
constexpr int kPassOverMax = 8;
// How many nodes a sweep looks at before it lets others to the table.
constexpr size_t kSweepSome = 128;
// The table grows without moving everything at once up to this many.
constexpr uint32_t kReservedMax = 1 << 20;
// Names of a path that is looked for here; the kernel knows longer ones.
constexpr size_t kPathDepthMax = 64;
// More is never asked of the process's limit.
constexpr rlim_t kDescriptorsMax = 1 << 20;

std::atomic<uint32_t> tables{0};

}  // namespace

NodeTable::NodeTable(NodeLimits limits) : limits_(limits) {
  struct rlimit limit;
  bool known = getrlimit(RLIMIT_NOFILE, &limit) == 0;
  process_descriptors_max_ = known ? static_cast<uint32_t>(std::min<rlim_t>(limit.rlim_cur, kDescriptorsMax)) : 1024;
  // Passed over by whoever looks for a node to let go.
  marker_.pins = 1;
  nodes_.reserve(std::min(limits.nodes_max, kReservedMax));
  tables++;
}

NodeTable::~NodeTable() {
  WaitForCloses();
  LeaveShare();
}

void NodeTable::LeaveShare() {
  if (std::exchange(shares_, false)) tables--;
}

uint32_t NodeTable::DescriptorsMax() const {
  if (limits_.node_descriptors_max > 0) return limits_.node_descriptors_max;
  return std::max(1u, process_descriptors_max_ / 2 / std::max(1u, tables.load()));
}

uint32_t NodeTable::HandlesMax() const {
  if (limits_.handles_max > 0) return limits_.handles_max;
  return std::max(1u, process_descriptors_max_ / 4 / std::max(1u, tables.load()));
}

void NodeTable::WaitForCloses() { Pool::Get().WaitForCloses(&closing_); }

void NodeTable::HelpClosing() { Pool::Get().HelpClosing(&closing_); }

void NodeTable::Link(Node* node, uint8_t list, bool front) {
  List& to = lists_[list];
  node->list = list;
  node->previous = front ? nullptr : to.last;
  node->next = front ? to.first : nullptr;
  (node->previous == nullptr ? to.first : node->previous->next) = node;
  (node->next == nullptr ? to.last : node->next->previous) = node;
}

void NodeTable::Unlink(Node* node) {
  if (node->list == kNone) return;
  List& from = lists_[node->list];
  (node->previous == nullptr ? from.first : node->previous->next) = node->next;
  (node->next == nullptr ? from.last : node->next->previous) = node->previous;
  node->list = kNone;
}

void NodeTable::Touch(Node* node) {
  if (node->key == root_key) return;
  uint8_t list = node->fd >= 0 ? kWarm : node->directory ? kColdDirectory : kColdFile;
  if (node->list == list && lists_[list].first == node) return;
  Unlink(node);
  Link(node, list, true);
}

Node* NodeTable::Pin(const NodeKey& key) {
  std::lock_guard lock(mutex_);
  auto found = nodes_.find(key);
  if (found == nodes_.end()) return nullptr;
  Node* node = &found->second;
  if (node->deleted && node->opens == nullptr) return nullptr;
  node->pins++;
  Touch(node);
  return node;
}

void NodeTable::Pin(Node* node) {
  std::lock_guard lock(mutex_);
  node->pins++;
}

void NodeTable::Unpin(Node* node) {
  std::lock_guard lock(mutex_);
  node->pins--;
  EraseIfGone(node);
}

int NodeTable::Descriptor(Node* node) {
  std::lock_guard lock(mutex_);
  return node->fd;
}

Node* NodeTable::FindLive(uint64_t ino, uint64_t device) {
  std::lock_guard lock(mutex_);
  if (nodes_.empty()) return nullptr;
  size_t bucket = nodes_.bucket(NodeKey{ino, 0});
  for (auto at = nodes_.begin(bucket); at != nodes_.end(bucket); ++at) {
    Node* node = &at->second;
    if (node->key.ino != ino || node->device != device) continue;
    if (node->fd < 0 && node->opens == nullptr) continue;
    node->pins++;
    Touch(node);
    return node;
  }
  return nullptr;
}

Node* NodeTable::Learn(const Identity& identity, const struct statx& stat) {
  std::lock_guard lock(mutex_);
  auto [found, added] = nodes_.try_emplace(identity.key);
  Node* node = &found->second;
  node->pins++;
  if (added) {
    node->key = identity.key;
    node->file_handle = identity.file_handle;
    node->device = makedev(stat.stx_dev_major, stat.stx_dev_minor);
    node->directory = S_ISDIR(stat.stx_mode);
  }
  if (stat.stx_nlink > 0) node->deleted = false;
  Touch(node);
  if (added) TrimNodes();
  return node;
}

void NodeTable::Adopt(Node* node, int fd) {
  {
    std::lock_guard lock(mutex_);
    if (node->fd < 0) {
      node->fd = fd;
      node_descriptors_++;
      Touch(node);
      TrimDescriptors();
      return;
    }
  }
  // The node's own descriptor keeps the inode: this is never the last reference.
  close(fd);
}

void NodeTable::Locate(Node* node, const NodeKey& parent, std::string_view name) {
  std::lock_guard lock(mutex_);
  if (node->key == root_key) return;
  if (!node->located || node->parent != parent || node->name != name) {
    node->parent = parent;
    node->name.assign(name);
    node->located = true;
  }
  node->deleted = false;
}

bool NodeTable::Location(Node* node, NodeKey* parent, std::string* name) {
  std::lock_guard lock(mutex_);
  *parent = node->parent;
  *name = node->name;
  return node->located;
}

bool NodeTable::Path(const Node* node, std::string* path) {
  std::lock_guard lock(mutex_);
  const std::string* names[kPathDepthMax];
  size_t depth = 0;
  while (node->key != root_key) {
    auto parent = nodes_.find(node->parent);
    if (!node->located || depth == kPathDepthMax || parent == nodes_.end()) return false;
    names[depth++] = &node->name;
    node = &parent->second;
  }
  path->clear();
  while (depth > 0) {
    if (!path->empty()) path->push_back('/');
    path->append(*names[--depth]);
  }
  return true;
}

void NodeTable::Unlocate(Node* node, const NodeKey& parent, std::string_view name) {
  std::lock_guard lock(mutex_);
  if (node->located && node->parent == parent && node->name == name) node->located = false;
}

void NodeTable::SetDeleted(Node* node, bool deleted) {
  std::lock_guard lock(mutex_);
  if (node->key != root_key) node->deleted = deleted;
}

bool NodeTable::Orphaned(Node* node) {
  std::lock_guard lock(mutex_);
  if (node->opens != nullptr) return false;
  if (node->key != root_key) node->deleted = true;
  return true;
}

void NodeTable::Forget(const NodeKey& key) {
  std::lock_guard lock(mutex_);
  auto found = nodes_.find(key);
  if (found == nodes_.end() || key == root_key) return;
  Node* node = &found->second;
  if (node->pins > 0 || node->opens != nullptr || !Findable(*node)) return;
  if (node->fd >= 0) CloseDescriptor(node, false);
  Unlink(node);
  Link(node, node->directory ? kColdDirectory : kColdFile, false);
}

bool NodeTable::HasOpens(Node* node) {
  std::lock_guard lock(mutex_);
  return node->opens != nullptr;
}

bool NodeTable::Findable(const Node& node) const {
  return node.opens != nullptr || !node.file_handle.empty() || node.located;
}

// With mutex_ held; the node is not pinned.
void NodeTable::CloseDescriptor(Node* node, bool urgent) {
  HandOver();
  Pool::Get().CloseLater(node->fd, &closing_, urgent);
  node->fd = -1;
  node_descriptors_--;
}

void NodeTable::TrimDescriptors() {
  for (int passed = 0; node_descriptors_ > DescriptorsMax() && passed < kPassOverMax;) {
    Node* node = lists_[kWarm].last;
    if (node == nullptr) return;
    if (node->pins > 0 || !Findable(*node)) {
      Unlink(node);
      Link(node, kWarm, true);
      passed++;
      continue;
    }
    CloseDescriptor(node, false);
    Touch(node);
  }
}

void NodeTable::TrimNodes() {
  // Directories last: all below them is found through them.
  for (uint8_t list : {kColdFile, kWarm, kColdDirectory}) {
    for (int passed = 0; nodes_.size() > limits_.nodes_max && passed < kPassOverMax;) {
      Node* node = lists_[list].last;
      if (node == nullptr) break;
      if (node->pins > 0 || node->opens != nullptr) {
        Unlink(node);
        Link(node, list, true);
        passed++;
        continue;
      }
      Erase(node);
    }
  }
}

bool NodeTable::EraseIfGone(Node* node) {
  if (!node->deleted || node->pins > 0 || node->opens != nullptr) return false;
  Erase(node);
  return true;
}

void NodeTable::Erase(Node* node) {
  if (node->fd >= 0) CloseDescriptor(node, node->deleted);
  Unlink(node);
  // By a copy: erase by reference into the element itself is not allowed to be relied on.
  NodeKey key = node->key;
  nodes_.erase(key);
}

bool NodeTable::HandlesFull() {
  std::lock_guard lock(mutex_);
  return handles_ >= HandlesMax();
}

uint32_t NodeTable::AddHandle(Node* node, int fd, uint32_t flags, bool directory) {
  std::lock_guard lock(mutex_);
  if (handles_ >= HandlesMax()) return 0;
  if (free_entries_.size() < kFreeEntriesMin && entries_.size() < kHandleIndexMask) {
    free_entries_.push_back(static_cast<uint32_t>(entries_.size()));
    entries_.emplace_back();
  }
  if (free_entries_.empty()) return 0;
  uint32_t index = free_entries_.front();
  free_entries_.pop_front();
  Entry& entry = entries_[index];
  entry.generation++;
  Handle* handle = new Handle;
  handle->id = entry.generation << kHandleIndexBits | (index + 1);
  handle->fd = fd;
  handle->flags = flags;
  handle->node = node;
  if (directory) handle->stream = new DirectoryStream;
  handle->next = node->opens;
  if (node->opens != nullptr) node->opens->previous = handle;
  node->opens = handle;
  entry.handle = handle;
  handles_++;
  return handle->id;
}

Handle* NodeTable::Reference(uint32_t id) {
  std::lock_guard lock(mutex_);
  uint32_t index = (id & kHandleIndexMask) - 1;
  if (index >= entries_.size()) return nullptr;
  Handle* handle = entries_[index].handle;
  if (handle == nullptr || handle->id != id) return nullptr;
  handle->references++;
  return handle;
}

Handle* NodeTable::ReferenceAny(Node* node) {
  std::lock_guard lock(mutex_);
  if (node->opens != nullptr) node->opens->references++;
  return node->opens;
}

int NodeTable::LockDescriptor(Node* node, int kind) {
  std::lock_guard lock(mutex_);
  return node->lock_fds[kind];
}

int NodeTable::ReplaceLockDescriptor(Node* node, int kind, int fd) {
  std::lock_guard lock(mutex_);
  return std::exchange(node->lock_fds[kind], fd);
}

Handle* NodeTable::Take(uint32_t id) {
  std::lock_guard lock(mutex_);
  uint32_t index = (id & kHandleIndexMask) - 1;
  if (index >= entries_.size()) return nullptr;
  Handle* handle = entries_[index].handle;
  if (handle == nullptr || handle->id != id) return nullptr;
  entries_[index].handle = nullptr;
  free_entries_.push_back(index);
  return handle;
}

void NodeTable::Drop(Handle* handle, bool close_here) {
  {
    std::lock_guard lock(mutex_);
    if (--handle->references > 0) return;
    Node* node = handle->node;
    (handle->previous == nullptr ? node->opens : handle->previous->next) = handle->next;
    if (handle->next != nullptr) handle->next->previous = handle->previous;
    handles_--;
    // Locks end with the last open. Closing these is quick: the handle's descriptor keeps the inode.
    for (int& fd : node->lock_fds) {
      if (node->opens == nullptr && fd >= 0) close(std::exchange(fd, -1));
    }
    if (!close_here) {
      HandOver();
      Pool::Get().CloseLater(handle->fd, &closing_, true);
    }
    if (node->opens == nullptr && node->kept != kNotKept && kept_folder_ >= 0) {
      HandOver();
      Pool::Get().RemoveLater(kept_folder_, KeptName(node->key, node->kept), &closing_);
      node->kept = kNotKept;
      node->deleted = true;
    }
    EraseIfGone(node);
  }
  if (close_here) close(handle->fd);
  delete handle->stream;
  delete handle;
}

void NodeTable::CloseLater(int fd) {
  HandOver();
  Pool::Get().CloseLater(fd, &closing_, true);
}

// A marker walks the list of nodes that have descriptors, from the longest unused on, some at a time: nobody waits long for the lock.
void NodeTable::Sweep() {
  {
    std::lock_guard lock(mutex_);
    if (marker_.list != kNone) return;
    Link(&marker_, kWarm, false);
  }
  std::vector<Node*> some;
  do {
    some.clear();
    {
      std::lock_guard lock(mutex_);
      while (some.size() < kSweepSome && marker_.previous != nullptr) {
        Node* node = marker_.previous;
        node->pins++;
        some.push_back(node);
        MoveMarkerBefore(node);
      }
    }
    for (Node* node : some) {
      struct statx stat;
      int fd = Descriptor(node);
      if (fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_NLINK, &stat) == 0 && stat.stx_nlink == 0) Orphaned(node);
      Unpin(node);
    }
  } while (!some.empty());
  std::lock_guard lock(mutex_);
  Unlink(&marker_);
}

void NodeTable::MoveMarkerBefore(Node* node) {
  Unlink(&marker_);
  marker_.list = kWarm;
  marker_.previous = node->previous;
  marker_.next = node;
  (node->previous == nullptr ? lists_[kWarm].first : node->previous->next) = &marker_;
  node->previous = &marker_;
}

void NodeTable::Clear() {
  std::vector<Handle*> handles;
  {
    std::lock_guard lock(mutex_);
    for (Entry& entry : entries_) {
      if (entry.handle != nullptr) handles.push_back(entry.handle);
      entry.handle = nullptr;
    }
    entries_.clear();
    free_entries_.clear();
  }
  for (Handle* handle : handles) Drop(handle, true);
  std::lock_guard lock(mutex_);
  for (auto& [key, node] : nodes_) {
    if (node.fd >= 0) close(node.fd);
  }
  node_descriptors_ = 0;
  nodes_.clear();
  for (List& list : lists_) list = List{};
  LeaveShare();
}

NodeTable::Counters NodeTable::Count() {
  std::lock_guard lock(mutex_);
  return {static_cast<int64_t>(nodes_.size()), node_descriptors_, handles_, closing_.load(), handed_over_.load()};
}

}  // namespace netdrive
