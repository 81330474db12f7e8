// Mounting, the lock on a mount point, unmounting, receiving a descriptor from fusermount3, and the supplementary groups of a process.
//
// Results are 0 or more, or a negative errno. Unmounting may make the kernel write dirty pages through the mount, which the
// JavaScript thread must serve meanwhile: therefore it runs on a thread of its own and returns a promise.
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "fuse.h"

namespace netdrive {
namespace {

constexpr size_t kStringBytesMax = 4096 + 256;

// A string argument with its NUL; false (and a pending TypeError) if it is none or too long.
bool GetString(napi_env env, napi_value value, char* out) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, out, kStringBytesMax, &length) != napi_ok ||
      length >= kStringBytesMax - 1 || strlen(out) != length) {
    napi_throw_type_error(env, nullptr, "netdrive addon: expected a string of less than 4 KiB without NUL");
    return false;
  }
  return true;
}

napi_value Int(napi_env env, int64_t number) {
  napi_value value;
  NETDRIVE_CHECK(env, napi_create_int64(env, number, &value));
  return value;
}

// fuseOpenDevice(): number
napi_value OpenDevice(napi_env env, napi_callback_info) {
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  return Int(env, fd < 0 ? -errno : fd);
}

// fuseCloseDescriptor(fd): number
napi_value CloseDescriptor(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  int32_t fd;
  NETDRIVE_CHECK(env, napi_get_value_int32(env, argv[0], &fd));
  return Int(env, close(fd) < 0 ? -errno : 0);
}

// fuseLockDescriptor(fd): number. -EWOULDBLOCK if somebody else has the lock; it goes with the descriptor.
napi_value LockDescriptor(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  int32_t fd;
  NETDRIVE_CHECK(env, napi_get_value_int32(env, argv[0], &fd));
  return Int(env, flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0);
}

// fuseMount(source, path, type, flags, data): number
napi_value Mount(napi_env env, napi_callback_info info) {
  size_t argc = 5;
  napi_value argv[5];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  char source[kStringBytesMax], path[kStringBytesMax], type[kStringBytesMax], data[kStringBytesMax];
  uint32_t flags;
  if (!GetString(env, argv[0], source) || !GetString(env, argv[1], path) || !GetString(env, argv[2], type)) {
    return nullptr;
  }
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[3], &flags));
  if (!GetString(env, argv[4], data)) return nullptr;
  return Int(env, mount(source, path, type, flags, data) < 0 ? -errno : 0);
}

struct Unmount {
  char path[kStringBytesMax];
  int flags;
  int result;
  napi_deferred deferred;
  napi_threadsafe_function done;
};

void* RunUnmount(void* argument) {
  auto* job = static_cast<Unmount*>(argument);
  job->result = umount2(job->path, job->flags) < 0 ? -errno : 0;
  napi_threadsafe_function done = job->done;
  napi_call_threadsafe_function(done, job, napi_tsfn_blocking);
  napi_release_threadsafe_function(done, napi_tsfn_release);
  return nullptr;
}

void FinishUnmount(napi_env env, napi_value, void*, void* data) {
  auto* job = static_cast<Unmount*>(data);
  napi_value value;
  if (env != nullptr && napi_create_int32(env, job->result, &value) == napi_ok) {
    napi_resolve_deferred(env, job->deferred, value);
  }
  delete job;
}

// fuseUnmount(path, flags): Promise<number>
napi_value StartUnmount(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2], promise, name;
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  auto* job = new (std::nothrow) Unmount{};
  if (job == nullptr) return Int(env, -ENOMEM);
  if (!GetString(env, argv[0], job->path) || napi_get_value_int32(env, argv[1], &job->flags) != napi_ok) {
    delete job;
    return nullptr;
  }
  NETDRIVE_CHECK(env, napi_create_promise(env, &job->deferred, &promise));
  NETDRIVE_CHECK(env, napi_create_string_utf8(env, "netdrive-unmount", NAPI_AUTO_LENGTH, &name));
  NETDRIVE_CHECK(env, napi_create_threadsafe_function(env, nullptr, nullptr, name, 1, 1, nullptr, nullptr, nullptr,
                                                      FinishUnmount, &job->done));
  pthread_t thread;
  const int failure = pthread_create(&thread, nullptr, RunUnmount, job);
  if (failure == 0) {
    pthread_detach(thread);
  } else {
    job->result = -failure;
    napi_threadsafe_function done = job->done;
    FinishUnmount(env, nullptr, nullptr, job);
    napi_release_threadsafe_function(done, napi_tsfn_release);
  }
  return promise;
}

// fuseSocketPair(): [number, number] | number. Both ends are close-on-exec; spawning passes one on.
napi_value SocketPair(napi_env env, napi_callback_info) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return Int(env, -errno);
  napi_value array;
  NETDRIVE_CHECK(env, napi_create_array_with_length(env, 2, &array));
  NETDRIVE_CHECK(env, napi_set_element(env, array, 0, Int(env, pair[0])));
  NETDRIVE_CHECK(env, napi_set_element(env, array, 1, Int(env, pair[1])));
  return array;
}

int ReceiveFrom(int socket) {
  char byte;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return -errno;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return -EPROTO;
  }
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

// fuseReceiveDescriptor(socket): number. Does not wait: the sender has ended before.
napi_value ReceiveDescriptor(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  int32_t socket;
  NETDRIVE_CHECK(env, napi_get_value_int32(env, argv[0], &socket));
  return Int(env, ReceiveFrom(socket));
}

// fuseProcessStatus(tid, buffer): number. Reads /proc/TID/status into the buffer, returns its bytes.
//
// Node's own readFileSync needs 5 system calls and several objects for it; this is on the path of requests.
napi_value ProcessStatus(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  uint32_t tid;
  void* data;
  size_t bytes;
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[0], &tid));
  NETDRIVE_CHECK(env, napi_get_buffer_info(env, argv[1], &data, &bytes));
  char path[40];
  snprintf(path, sizeof path, "/proc/%u/status", tid);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Int(env, -errno);
  const ssize_t got = read(fd, data, bytes);
  const int failure = errno;
  close(fd);
  return Int(env, got < 0 ? -failure : got);
}

}  // namespace

napi_value RegisterFuseMount(napi_env env, napi_value exports) {
  if (Export(env, exports, "fuseOpenDevice", OpenDevice) == nullptr) return nullptr;
  if (Export(env, exports, "fuseCloseDescriptor", CloseDescriptor) == nullptr) return nullptr;
  if (Export(env, exports, "fuseLockDescriptor", LockDescriptor) == nullptr) return nullptr;
  if (Export(env, exports, "fuseMount", Mount) == nullptr) return nullptr;
  if (Export(env, exports, "fuseUnmount", StartUnmount) == nullptr) return nullptr;
  if (Export(env, exports, "fuseSocketPair", SocketPair) == nullptr) return nullptr;
  if (Export(env, exports, "fuseReceiveDescriptor", ReceiveDescriptor) == nullptr) return nullptr;
  return Export(env, exports, "fuseProcessStatus", ProcessStatus);
}

}  // namespace netdrive
