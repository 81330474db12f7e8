// setfsuid, setfsgid, setgroups and capset by raw system call: the library's wrappers would change all threads.
#include "identity.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace netdrive {
namespace {

struct Capabilities {
  uint32_t permitted[2] = {0, 0};
  uint32_t effective[2] = {0, 0};
  uint32_t inheritable[2] = {0, 0};
};

// Never destroyed: workers may still look at it while the process ends.
Credential& process_identity = *new Credential;
Capabilities process_capabilities;
mode_t process_umask = 0;
// Root has the capabilities that decide instead of its groups.
bool root_decides = false;

enum class Capability : uint8_t { kAll, kNoFsetid, kNone };

// What this thread has. `known` is false after a change that failed half way: the next one sets everything.
struct ThreadState {
  bool known = false;
  // Not the process's own, or not known.
  bool taken = false;
  Capability capability = Capability::kAll;
  Credential identity;
  bool umask_own = false;
  mode_t umask = 022;
  bool umask_known = false;
};
thread_local ThreadState thread_state;

bool SetFsUid(uid_t uid) {
  syscall(SYS_setfsuid, uid);
  // An invalid id changes nothing and returns what is set.
  return static_cast<uid_t>(syscall(SYS_setfsuid, -1)) == uid;
}

bool SetFsGid(gid_t gid) {
  syscall(SYS_setfsgid, gid);
  return static_cast<gid_t>(syscall(SYS_setfsgid, -1)) == gid;
}

bool SetGroups(const std::vector<gid_t>& groups) { return syscall(SYS_setgroups, groups.size(), groups.data()) == 0; }

bool SetCapability(Capability capability) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++) {
    data[i].permitted = process_capabilities.permitted[i];
    data[i].inheritable = process_capabilities.inheritable[i];
    data[i].effective = capability == Capability::kNone ? 0 : process_capabilities.effective[i];
  }
  if (capability == Capability::kNoFsetid) data[0].effective &= ~(1u << CAP_FSETID);
  return syscall(SYS_capset, &header, data) == 0;
}

}  // namespace

void RememberProcessIdentity() {
  static std::once_flag once;
  std::call_once(once, [] {
    process_identity.uid = geteuid();
    process_identity.gid = getegid();
    int count = getgroups(0, nullptr);
    if (count > 0) {
      process_identity.groups.resize(count);
      if (getgroups(count, process_identity.groups.data()) != count) process_identity.groups.clear();
    }
    process_umask = umask(077);
    umask(process_umask);
    thread_state.identity = process_identity;
    thread_state.known = true;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {};
    if (syscall(SYS_capget, &header, data) != 0) return;
    for (int i = 0; i < 2; i++) {
      process_capabilities.permitted[i] = data[i].permitted;
      process_capabilities.effective[i] = data[i].effective;
      process_capabilities.inheritable[i] = data[i].inheritable;
    }
    constexpr uint32_t kDeciding = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | 1u << CAP_FSETID;
    root_decides = (data[0].effective & kDeciding) == kDeciding;
  });
}

bool MayTakeIdentities() {
  int bits = prctl(PR_GET_SECUREBITS);
  return process_identity.uid == 0 && bits >= 0 && (bits & SECBIT_NO_SETUID_FIXUP) == 0;
}

int TakeIdentity(const Credential* credential, bool kill_suidgid) {
  ThreadState& state = thread_state;
  const Credential& want = credential == nullptr ? process_identity : *credential;
  bool root = process_identity.uid == 0;
  Capability capability = !root || (want.uid == 0 && !kill_suidgid) ? Capability::kAll
                          : want.uid == 0                           ? Capability::kNoFsetid
                                                                    : Capability::kNone;
  if (!state.known && credential == nullptr && !root) {
    state.identity = process_identity;
    state.known = true;
  }
  state.taken = credential != nullptr || capability != Capability::kAll;
  bool any_groups = root_decides && want.uid == 0 && capability == Capability::kAll && credential != nullptr;
  bool same_groups = state.known && (any_groups || state.identity.groups == want.groups);
  bool same_user = state.known && state.identity.uid == want.uid && state.identity.gid == want.gid;
  if (same_groups && same_user && state.capability == capability) return 0;
  if (!root) return -EPERM;

  state.known = false;
  // Changing groups and ids needs the capabilities back; nothing touches the file system in between.
  if (!SetCapability(Capability::kAll)) return -EPERM;
  if (!same_groups && !SetGroups(want.groups)) return -EPERM;
  if (!SetFsGid(want.gid) || !SetFsUid(want.uid)) return -EPERM;
  if (!SetCapability(capability)) return -EPERM;
  if (!same_groups) state.identity.groups = want.groups;
  state.identity.uid = want.uid;
  state.identity.gid = want.gid;
  state.capability = capability;
  state.known = true;
  return 0;
}

void OwnUmask() {
  ThreadState& state = thread_state;
  state.umask_own = unshare(CLONE_FS) == 0;
}

mode_t ApplyUmask(mode_t mode, mode_t mask) {
  ThreadState& state = thread_state;
  // Where a sandbox forbids unshare the mask is applied here; a default ACL then does not replace it.
  if (!state.umask_own) return mode & ~mask;
  if (!state.umask_known || state.umask != mask) {
    umask(mask);
    state.umask = mask;
    state.umask_known = true;
  }
  return mode;
}

bool KeepsUmask(mode_t mask) { return (process_umask & ~mask) == 0; }

ReturnedIdentity::~ReturnedIdentity() {
  if (!here_ || !thread_state.taken || TakeIdentity(nullptr, false) == 0) return;
  fputs("netdrive addon: the process's identity could not be restored\n", stderr);
  abort();
}

BorrowedIdentity::BorrowedIdentity(const Credential* credential, uid_t owner) : credential_(credential) {
  if (credential_ != nullptr && credential_->uid == 0) credential_ = nullptr;
  if (credential_ == nullptr) return;
  group_changed_ = credential_->uid != owner;
  groups_changed_ = group_changed_ && credential_->groups != process_identity.groups;
  bool taken = !groups_changed_ || SetGroups(credential_->groups);
  taken = taken && (!group_changed_ || SetFsGid(credential_->gid));
  if (!taken || !SetFsUid(credential_->uid)) error_ = -EPERM;
}

BorrowedIdentity::~BorrowedIdentity() {
  if (credential_ == nullptr) return;
  bool restored = SetFsUid(process_identity.uid) && (!group_changed_ || SetFsGid(process_identity.gid)) &&
                  (!groups_changed_ || SetGroups(process_identity.groups));
  if (restored) return;
  fputs("netdrive addon: the process's identity could not be restored\n", stderr);
  abort();
}

}  // namespace netdrive
