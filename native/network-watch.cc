// Hears from the kernel (rtnetlink(7)) that links, addresses or routes of this machine have changed.
//
// A socket in Node's event loop gets the kernel's messages. What they say in detail is not read: of all that is there at once JavaScript is told in one
// call which kinds of things have changed, and looks for itself. Messages that were lost count as changes of every kind. It keeps no process alive.
#include "network-watch.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>

#include "arguments.h"
#include "uv-subset.h"

namespace netdrive {
namespace {

// Datagrams before the rest of the loop gets its turn.
constexpr int kReadsMax = 64;
// What the kernel sends at once fits (NLMSG_GOODSIZE is at most 8 KiB); of more only the beginning is looked at.
constexpr size_t kDatagramBytes = 8192;

// Kinds of change; those of src/sys/network-watch.ts.
constexpr int kInterfaces = 1;
constexpr int kRoutes = 2;
constexpr int kAll = kInterfaces | kRoutes;

struct Watch {
  napi_env env = nullptr;
  int fd = -1;
  // The uv_poll_t; null after the end.
  void* poll = nullptr;
  napi_ref receiver = nullptr;
  napi_ref on_change = nullptr;
  napi_async_context context = nullptr;
};

int KindOf(int type) {
  switch (type) {
    case RTM_NEWLINK:
    case RTM_DELLINK:
    case RTM_NEWADDR:
    case RTM_DELADDR:
      return kInterfaces;
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
      return kRoutes;
    default:
      return 0;
  }
}

// Empties the socket, within bounds: what is left wakes the loop again. Returns the kinds of change.
int Drain(int fd) {
  int kinds = 0;
  for (int reads = 0; reads < kReadsMax; reads++) {
    alignas(struct nlmsghdr) char bytes[kDatagramBytes];
    struct sockaddr_nl from = {};
    socklen_t from_bytes = sizeof from;
    const ssize_t got = recvfrom(fd, bytes, sizeof bytes, MSG_DONTWAIT, reinterpret_cast<struct sockaddr*>(&from), &from_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    // ENOBUFS: the kernel had more to say than there was room for.
    if (got < 0) return kAll;
    // Programs may send to such sockets, too.
    if (from.nl_pid != 0) continue;
    unsigned left = static_cast<unsigned>(got);
    for (auto* header = reinterpret_cast<struct nlmsghdr*>(bytes); NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
      kinds |= KindOf(header->nlmsg_type);
    }
  }
  return kinds;
}

void CloseWatch(Watch* watch) {
  if (watch->poll != nullptr) {
    void* poll = watch->poll;
    watch->poll = nullptr;
    uv_poll_stop(poll);
    uv_close(poll, [](void* handle) { free(handle); });
  }
  if (watch->fd >= 0) close(watch->fd);
  watch->fd = -1;
}

// Lets go of JavaScript, which holds the watch in turn.
void DropCallback(Watch* watch) {
  for (napi_ref* reference : {&watch->receiver, &watch->on_change}) {
    if (*reference != nullptr) napi_delete_reference(watch->env, *reference);
    *reference = nullptr;
  }
}

void OnEvents(void* handle, int status, int) {
  auto* watch = static_cast<Watch*>(uv_handle_get_data(handle));
  const int kinds = Drain(watch->fd);
  // libuv stops watching a socket that has an error, which messages that were lost are.
  if (status < 0) uv_poll_start(handle, kUvReadable, OnEvents);
  if (kinds == 0) return;
  napi_env env = watch->env;
  napi_handle_scope scope;
  napi_value receiver, function, number;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  // Nothing may throw there: an exception ends the process.
  if (napi_get_reference_value(env, watch->receiver, &receiver) == napi_ok &&
      napi_get_reference_value(env, watch->on_change, &function) == napi_ok &&
      napi_create_int64(env, kinds, &number) == napi_ok) {
    napi_make_callback(env, watch->context, receiver, function, 1, &number, nullptr);
  }
  napi_close_handle_scope(env, scope);
}

void OnTeardown(void* data) { CloseWatch(static_cast<Watch*>(data)); }

// The JavaScript object of the watch is gone.
void Finalize(napi_env env, void* data, void*) {
  auto* watch = static_cast<Watch*>(data);
  napi_remove_env_cleanup_hook(env, OnTeardown, watch);
  CloseWatch(watch);
  DropCallback(watch);
  if (watch->context != nullptr) napi_async_destroy(env, watch->context);
  delete watch;
}

// A socket that gets the kernel's messages, or a negative errno.
int OpenSocket() {
  const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
  if (fd < 0) return -errno;
  struct sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
  if (bind(fd, reinterpret_cast<struct sockaddr*>(&address), sizeof address) == 0) return fd;
  const int failure = -errno;
  close(fd);
  return failure;
}

// Begins to listen. Returns 0 or a negative errno.
int Listen(Watch* watch) {
  uv_loop_s* loop;
  if (napi_get_uv_event_loop(watch->env, &loop) != napi_ok) return -EINVAL;
  const int fd = OpenSocket();
  if (fd < 0) return fd;
  watch->fd = fd;
  void* poll = malloc(uv_handle_size(kUvPoll));
  const int failure = poll == nullptr ? -ENOMEM : uv_poll_init(loop, poll, fd);
  if (failure != 0) {
    free(poll);
    return failure;
  }
  uv_handle_set_data(poll, watch);
  watch->poll = poll;
  uv_unref(poll);
  return uv_poll_start(poll, kUvReadable, OnEvents);
}

// networkWatch(receiver, onChange(kinds)): a watch, or a negative errno. `receiver` is held until networkUnwatch.
napi_value Start(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  if (arguments.count() != 2) return arguments.Wrong();
  auto* watch = new Watch;
  watch->env = env;
  napi_value external, name;
  NETDRIVE_CHECK(env, napi_create_external(env, watch, Finalize, nullptr, &external));
  NETDRIVE_CHECK(env, napi_add_env_cleanup_hook(env, OnTeardown, watch));
  const int failure = Listen(watch);
  // What was begun goes with the object.
  if (failure != 0) return Number(env, failure);
  NETDRIVE_CHECK(env, napi_create_string_utf8(env, "netdrive-network", NAPI_AUTO_LENGTH, &name));
  NETDRIVE_CHECK(env, napi_async_init(env, arguments.value(0), name, &watch->context));
  NETDRIVE_CHECK(env, napi_create_reference(env, arguments.value(0), 1, &watch->receiver));
  NETDRIVE_CHECK(env, napi_create_reference(env, arguments.value(1), 1, &watch->on_change));
  return external;
}

// networkUnwatch(watch): no callback follows.
napi_value Stop(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  void* data = nullptr;
  if (arguments.count() != 1 || napi_get_value_external(env, arguments.value(0), &data) != napi_ok) return arguments.Wrong();
  auto* watch = static_cast<Watch*>(data);
  CloseWatch(watch);
  DropCallback(watch);
  return nullptr;
}

}  // namespace

napi_value RegisterNetworkWatch(napi_env env, napi_value exports) {
  if (Export(env, exports, "networkWatch", Start) == nullptr) return nullptr;
  return Export(env, exports, "networkUnwatch", Stop);
}

}  // namespace netdrive
