// The identity a thread makes system calls with: file system user, group, supplementary groups and capabilities.
//
// INVARIANT: a call for a caller never runs with an identity other than the caller's. Every change is checked to have taken;
// if it did not, the request fails with EPERM, and a thread that cannot return to the process's identity ends the process.
#pragma once

#include <sys/types.h>

#include <vector>

namespace netdrive {

struct Credential {
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups;
};

// Takes note of the process's own identity; once, before any other function here.
void RememberProcessIdentity();

// Whether the process may take identities: it is root, and the kernel drops root's file capabilities with the user id.
bool MayTakeIdentities();

// Takes `credential`, or the process's own identity if null. What the thread has already costs nothing. A worker keeps it for its next job; on the
// JavaScript thread a ReturnedIdentity sees to it that it ends with the call.
//
// Users other than root lose all capabilities, not only those of the file system that setfsuid drops: with CAP_SETFCAP
// or CAP_SYS_ADMIN left they could write security.* and trusted.* attributes. `kill_suidgid` drops CAP_FSETID for root
// as well, so that the kernel clears set-user-id and set-group-id bits. Returns 0 or -EPERM.
int TakeIdentity(const Credential* credential, bool kill_suidgid);

// Sets the thread's own umask for the next call that makes a node, and returns the mode to pass to it. The JavaScript thread has none of its own: to be asked
// for there only where KeepsUmask.
mode_t ApplyUmask(mode_t mode, mode_t mask);

// Whether the umask that the process has takes nothing away that `mask` leaves.
bool KeepsUmask(mode_t mask);

// On a worker, at its start: a umask of its own.
void OwnUmask();

// Gives back what TakeIdentity took in a scope, on the JavaScript thread: `here`.
class ReturnedIdentity {
 public:
  explicit ReturnedIdentity(bool here) : here_(here) {}
  ~ReturnedIdentity();
  ReturnedIdentity(const ReturnedIdentity&) = delete;
  ReturnedIdentity& operator=(const ReturnedIdentity&) = delete;

 private:
  bool here_;
};

// On the JavaScript thread: takes `credential` for a scope (null: nothing to do), for a call that only searches or opens one node. Root needs
// no change: its capabilities decide, and such calls make no file that would get a group. Neither do the groups of `owner`, the node's
// owner: the kernel looks at the owner's permission bits alone (acl_permission_check in fs/namei.c). Each change costs 0.7 us, and as
// much to undo.
class BorrowedIdentity {
 public:
  BorrowedIdentity(const Credential* credential, uid_t owner);
  ~BorrowedIdentity();
  BorrowedIdentity(const BorrowedIdentity&) = delete;
  BorrowedIdentity& operator=(const BorrowedIdentity&) = delete;

  // 0 or -EPERM.
  int error() const { return error_; }

 private:
  const Credential* credential_;
  bool group_changed_ = false;
  bool groups_changed_ = false;
  int error_ = 0;
};

}  // namespace netdrive
