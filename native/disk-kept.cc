// Files that are open and have no name, kept for the case that the process dies: their opens are found again by the next one.
//
// Each has a link in a folder at the top of the directory that is served, named by its identity. It is made before the last name goes, or when a file
// is made without a name, and removed with the last open; what a death leaves over, Sweep removes once the opens are back. To clients the folder is not
// there, and the link does not count.
//
// INVARIANT: a name is removed as it would be without all this, by the same system call of the same caller; whatever else fails is not told.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cinttypes>
#include <cstdio>

#include "disk.h"

namespace netdrive {
namespace {

constexpr std::string_view kFolder = ".netdrive-kept";
constexpr size_t kKeyDigits = 32;
// In the order of Kept.
constexpr char kLetters[] = {0, 'u', 't', 'n'};
constexpr size_t kEntriesBytes = 1 << 15;

// The node and why it is kept, of a link's name; false if it is none.
bool ParseName(std::string_view name, NodeKey* key, Kept* kept) {
  if (name.size() != kKeyDigits + 1) return false;
  const char* middle = name.data() + kKeyDigits / 2;
  const char* end = name.data() + kKeyDigits;
  if (std::from_chars(name.data(), middle, key->ino, 16).ptr != middle) return false;
  if (std::from_chars(middle, end, key->generation, 16).ptr != end) return false;
  for (Kept which : {kKeptUnlinked, kKeptTemporary, kKeptNameless}) {
    if (*end != kLetters[which]) continue;
    *kept = which;
    return true;
  }
  return false;
}

// Whether a directory that ignores case could take `name` for the folder's: of what such a one leaves out of a name, or has as another form of an ASCII
// letter, nothing counts but the Kelvin sign, and that is a k.
bool MeansFolder(std::string_view name) {
  constexpr std::string_view kKelvin = "\u212a";
  size_t matched = 0;
  while (!name.empty()) {
    bool kelvin = name.starts_with(kKelvin);
    char letter = kelvin ? 'k' : name.front();
    name.remove_prefix(kelvin ? kKelvin.size() : 1);
    if ((letter & 0x80) != 0) continue;
    if (letter >= 'A' && letter <= 'Z') letter += 'a' - 'A';
    if (matched == kFolder.size() || letter != kFolder[matched++]) return false;
  }
  return matched == kFolder.size();
}

}  // namespace

std::string KeptName(const NodeKey& key, Kept kept) {
  char digits[kKeyDigits + 1];
  snprintf(digits, sizeof digits, "%016" PRIx64 "%016" PRIx64, key.ino, key.generation);
  return std::string(digits) + kLetters[kept];
}

bool Disk::IsKeptFolder(const NodeKey& directory, const char* name) const {
  return directory == table_.root_key && MeansFolder(name);
}

// What an operation that names the folder is told, 0 if it does not.
int Disk::CheckName(const Slot& slot, Operation operation) const {
  if (slot.name_bytes < kFolder.size() && slot.target_name_bytes < kFolder.size()) return 0;
  bool of_id = IsKeptFolder(slot.id, slot.name);
  bool of_target = IsKeptFolder(slot.target_id, slot.target_name);
  if (operation == &Disk::Lookup || operation == &Disk::Unlink || operation == &Disk::Rmdir) return of_id ? -ENOENT : 0;
  if (operation == &Disk::Symlink || operation == &Disk::Mknod || operation == &Disk::Mkdir ||
      operation == &Disk::Create) {
    return of_id ? -EACCES : 0;
  }
  if (operation == &Disk::Link) return IsKeptFolder(slot.target_id, slot.name) ? -EACCES : 0;
  if (operation == &Disk::Rename) return of_id ? -ENOENT : of_target ? -EACCES : 0;
  return 0;
}

// The folder's descriptor, or -1. One that anybody else may have made, or may look into, is not used, nor one that another disk has: its links are
// not ours to judge.
int Disk::KeptFolder(bool make) {
  std::lock_guard lock(kept_mutex_);
  if (kept_fd_ >= 0) return kept_fd_;
  NodePin root(&table_, table_.Pin(table_.root_key));
  if (!root) return -1;
  int root_fd = table_.Descriptor(root.get());
  if (make && mkdirat(root_fd, kFolder.data(), 0700) < 0 && errno != EEXIST) return -1;
  OwnedDescriptor folder(OpenEntry(root_fd, kFolder.data(), false));
  struct statx stat;
  if (folder.get() < 0 || statx(folder.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stat) < 0) return -1;
  if (!S_ISDIR(stat.stx_mode) || stat.stx_uid != geteuid() || (stat.stx_mode & 077) != 0) return -1;
  OwnedDescriptor own(Reopen(folder.get(), O_RDONLY | O_DIRECTORY));
  if (own.get() < 0 || flock(own.get(), LOCK_EX | LOCK_NB) < 0) return -1;
  kept_fd_ = own.Release();
  table_.SetKeptFolder(kept_fd_);
  return kept_fd_;
}

// Links a file, by any descriptor of it, into the folder. With the process's identity.
bool Disk::MakeKept(Node* node, int fd, Kept kept) {
  if (TakeIdentity(nullptr, false) < 0) return false;
  int folder = KeptFolder(true);
  if (folder < 0) return false;
  DescriptorPath path(fd);
  std::string name = KeptName(node->key, kept);
  // A link of that name is one of this very file.
  if (linkat(proc_fd_, path.number(), folder, name.c_str(), AT_SYMLINK_FOLLOW) < 0 && errno != EEXIST) return false;
  table_.SetKept(node, kept);
  kept_changed_ = true;
  return true;
}

void Disk::RemoveKept(Node* node) {
  Kept kept = node->kept.exchange(kNotKept);
  if (kept == kNotKept || TakeIdentity(nullptr, false) < 0) return;
  unlinkat(KeptFolder(false), KeptName(node->key, kept).c_str(), 0);
}

// Before a name goes: if it is the last one of an open file, that is kept. The thread has the caller's identity before and after.
bool Disk::KeepVictim(const Call& call, const NodePin& victim, int fd, int parent_fd) {
  if (!options_.keep_unlinked || !victim || victim->kept != kNotKept || !table_.HasOpens(victim.get())) return false;
  struct statx stat;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_NLINK, &stat) < 0) return false;
  if (!S_ISREG(stat.stx_mode) || stat.stx_nlink != 1) return false;
  // Who may not remove it shall not change anything about it either.
  if (syscall(SYS_faccessat2, parent_fd, "", W_OK | X_OK, AT_EACCESS | AT_EMPTY_PATH) < 0) return false;
  bool kept = MakeKept(victim.get(), fd, kKeptUnlinked);
  return Become(call) == 0 && kept;
}

// After a name of a kept file went, or did not (`error`). Ends with the caller's identity or the process's.
void Disk::SettleKept(Node* victim, int error) {
  if (error < 0 || !table_.HasOpens(victim)) RemoveKept(victim);
}

// Whether a node may be given a name: 0, or a negative errno.
int Disk::CheckLinkable(Node* node) {
  Kept kept = node->kept;
  return kept == kKeptUnlinked || kept == kKeptNameless ? -ENOENT : 0;
}

void Disk::ShowLinks(Node* node, struct statx* stat) {
  // Recalled, and not open again yet, it counts: it is to be found.
  if (node->kept != kNotKept && stat->stx_nlink > 0 && table_.HasOpens(node)) stat->stx_nlink--;
}

// Answers a node of the folder.
int64_t Disk::RecallKept(Call& call, const NodeKey& key) {
  int folder = KeptFolder(false);
  if (folder < 0) return -ENOENT;
  for (Kept kept : {kKeptUnlinked, kKeptTemporary, kKeptNameless}) {
    OwnedDescriptor fd(OpenEntry(folder, KeptName(key, kept).c_str(), false));
    if (fd.get() < 0) continue;
    struct statx stat;
    Identity identity;
    if (statx(fd.get(), "", AT_EMPTY_PATH, kStatxMask, &stat) < 0) return -errno;
    if (int error = Identify(fd.get(), "", stat, &identity); error < 0) return error;
    if (identity.key != key || !S_ISREG(stat.stx_mode)) return -ESTALE;
    NodePin node(&table_, table_.Learn(identity, stat));
    table_.Adopt(node.get(), fd.Release());
    table_.SetKept(node.get(), kept);
    ShowLinks(node.get(), &stat);
    FillAttr(stat, &call.slot.attr);
    call.slot.reply_id = key;
    return 0;
  }
  return -ENOENT;
}

// Removes what is kept for opens that nobody has.
int64_t Disk::SweepKept(Call& call) {
  if (call.here) return kPending;
  if (int error = TakeIdentity(nullptr, false); error < 0) return error;
  int folder = KeptFolder(false);
  if (folder < 0) return 0;
  OwnedDescriptor listing(Reopen(folder, O_RDONLY | O_DIRECTORY));
  if (listing.get() < 0) return listing.get();
  std::vector<char> entries(kEntriesBytes);
  for (;;) {
    long got = syscall(SYS_getdents64, listing.get(), entries.data(), entries.size());
    if (got < 0) return -errno;
    if (got == 0) return 0;
    for (long offset = 0; offset < got;) {
      const auto* entry = reinterpret_cast<const struct dirent64*>(entries.data() + offset);
      offset += entry->d_reclen;
      NodeKey key;
      Kept kept;
      if (!ParseName(entry->d_name, &key, &kept)) continue;
      NodePin node(&table_, table_.Pin(key));
      if (!node || !table_.HasOpens(node.get())) unlinkat(folder, entry->d_name, 0);
    }
  }
}

// What is in the folder reaches the disk. Returns 0, or a negative errno.
int Disk::SyncKept() {
  // Who comes while another one syncs waits for him.
  std::lock_guard lock(kept_sync_mutex_);
  if (!kept_changed_.exchange(false)) return 0;
  if (fsync(KeptFolder(false)) == 0 && (sync_fd_ < 0 ? syncfs(KeptFolder(false)) : fsync(sync_fd_)) == 0) return 0;
  int error = -errno;
  kept_changed_ = true;
  return error;
}

// At the end: an empty folder goes, what is in another one is for the next process.
void Disk::CloseKept() {
  if (kept_fd_ < 0) return;
  table_.WaitForCloses();
  table_.SetKeptFolder(-1);
  NodePin root(&table_, table_.Pin(table_.root_key));
  if (root && TakeIdentity(nullptr, false) == 0) unlinkat(table_.Descriptor(root.get()), kFolder.data(), AT_REMOVEDIR);
  close(kept_fd_);
  kept_fd_ = -1;
}

}  // namespace netdrive
