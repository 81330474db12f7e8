// /dev/fuse in Node's event loop, the slots requests are read into, and replies.
//
// One ArrayBuffer, the pool, holds `slot_count` slots of `slot_bytes` each and one more as scratch for replies; the data of a WRITE
// request starts page-aligned, `kHeadBytes` before it lies the request's header. A slot is on the free list or with JavaScript, never
// both. Everything but the sending of large replies (fuse-writer.h) and of messages that wait (fuse-notifier.h) is done on the JavaScript thread: the descriptor is watched by
// the loop's epoll and read when it has requests. Threads that read and wake the loop were tried: a request then cost 8.5 us of
// processor instead of 5.0 (2 cores, kernel 6.18, Node 20.20, fstat in a loop) and one more change of thread; 1 MiB writes were no
// faster, as copying is a small part of them.
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "fuse-notifier.h"
#include "fuse-writer.h"
#include "fuse.h"
#include "uv-subset.h"

namespace netdrive {
namespace {

constexpr uint32_t kPageBytes = 4096;
// struct fuse_in_header and struct fuse_write_in: the kernel wants room for both before max_write.
constexpr uint32_t kHeadBytes = 80;
constexpr uint32_t kSlotsMax = 256;
// Requests taken before JavaScript and the rest of the loop get their turn.
constexpr uint32_t kBatchMax = 16;
// A ticket and an errno make one number.
constexpr int kFailureBits = 12;

struct Request {
  int32_t slot;
  int32_t bytes;
};

struct Device {
  napi_env env = nullptr;
  int fd = -1;
  uint32_t slot_count = 0;
  uint32_t slot_bytes = 0;
  // First page-aligned byte of the pool's ArrayBuffer.
  uint8_t* pool = nullptr;
  uint32_t pool_bytes = 0;
  // Shared with JavaScript: requests of a batch, and slots given back at its end.
  Request* batch = nullptr;
  int32_t* returned = nullptr;
  ReplyWriter::Sent* sent = nullptr;
  napi_ref memory[4] = {};
  napi_ref on_batch = nullptr;
  napi_ref on_sent = nullptr;
  napi_ref on_end = nullptr;
  ReplyWriter writer;
  // Made with the first message that may wait.
  Notifier* notifier = nullptr;
  napi_ref on_notified = nullptr;
  napi_ref receiver = nullptr;
  napi_async_context context = nullptr;
  // The uv_poll_t; null before the start and after the end.
  void* poll = nullptr;
  bool polling = false;
  // Last in, first out: the slot used last is warm in the cache.
  std::vector<int32_t> free;
};

void OnReadable(void* handle, int status, int events);

// Watches for requests exactly while there is a slot for one.
void UpdatePolling(Device* device) {
  const bool wanted = device->poll != nullptr && !device->free.empty();
  if (wanted == device->polling) return;
  device->polling = wanted;
  if (wanted) {
    uv_poll_start(device->poll, kUvReadable, OnReadable);
  } else if (device->poll != nullptr) {
    uv_poll_stop(device->poll);
  }
}

void ReturnSlot(Device* device, int32_t slot) {
  device->free.push_back(slot);
  UpdatePolling(device);
}

// Reads what is there. Returns 0, or the errno that ends the connection.
int Take(Device* device, uint32_t* count) {
  const size_t room = device->slot_bytes - (kPageBytes - kHeadBytes);
  while (*count < kBatchMax && !device->free.empty()) {
    const int32_t slot = device->free.back();
    uint8_t* start = device->pool + static_cast<size_t>(slot) * device->slot_bytes + (kPageBytes - kHeadBytes);
    const ssize_t bytes = read(device->fd, start, room);
    if (bytes <= 0) {
      // ENOENT: the request was interrupted before it was copied. The next one may be good.
      if (bytes < 0 && (errno == ENOENT || errno == EINTR)) continue;
      if (bytes < 0 && errno == EAGAIN) return 0;
      return bytes < 0 ? errno : ENODEV;
    }
    device->free.pop_back();
    device->batch[(*count)++] = {slot, static_cast<int32_t>(bytes)};
  }
  return 0;
}

// Calls back into JavaScript; false with a pending exception, which ends the process: the loop of requests must not throw.
bool Call(Device* device, napi_ref callback, int32_t argument, uint32_t* result) {
  napi_env env = device->env;
  napi_value receiver, function, number, value;
  return napi_get_reference_value(env, device->receiver, &receiver) == napi_ok &&
         napi_get_reference_value(env, callback, &function) == napi_ok &&
         napi_create_int32(env, argument, &number) == napi_ok &&
         napi_make_callback(env, device->context, receiver, function, 1, &number, &value) == napi_ok &&
         (result == nullptr || napi_get_value_uint32(env, value, result) == napi_ok);
}

// Ends the connection: closing the last descriptor makes the kernel fail everything that waits in the mount.
void CloseDevice(Device* device) {
  if (device->poll != nullptr) {
    void* poll = device->poll;
    device->poll = nullptr;
    device->polling = false;
    uv_poll_stop(poll);
    uv_close(poll, [](void* handle) { free(handle); });
  }
  // The descriptor's number may be another file's as soon as it is closed.
  device->writer.Stop();
  if (device->fd >= 0) close(device->fd);
  device->fd = -1;
  // Now nothing can wait any more for an answer of ours. A thread that does all the same keeps what it has.
  if (device->notifier != nullptr && device->notifier->Stop()) delete device->notifier;
  device->notifier = nullptr;
}

// Lets go of JavaScript, which holds the device in turn.
void DropCallbacks(Device* device) {
  for (napi_ref* reference : {&device->on_batch, &device->on_sent, &device->on_end, &device->on_notified}) {
    if (*reference != nullptr) napi_delete_reference(device->env, *reference);
    *reference = nullptr;
  }
}

void OnReadable(void* handle, int, int) {
  auto* device = static_cast<Device*>(uv_handle_get_data(handle));
  napi_handle_scope scope;
  if (napi_open_handle_scope(device->env, &scope) != napi_ok) return;
  uint32_t count = 0;
  const int failure = Take(device, &count);
  if (count > 0) {
    uint32_t returned = 0;
    if (Call(device, device->on_batch, static_cast<int32_t>(count), &returned)) {
      for (uint32_t i = 0; i < returned && i < device->slot_count; i++) device->free.push_back(device->returned[i]);
    }
  }
  if (device->fd < 0) {
    // JavaScript has closed it meanwhile.
  } else if (failure != 0) {
    CloseDevice(device);
    Call(device, device->on_end, failure, nullptr);
    DropCallbacks(device);
  } else {
    UpdatePolling(device);
  }
  napi_close_handle_scope(device->env, scope);
}

// Large replies have gone out.
void OnSent(void* context) {
  auto* device = static_cast<Device*>(context);
  const uint32_t count = device->writer.TakeSent(device->sent);
  napi_handle_scope scope;
  if (count == 0 || napi_open_handle_scope(device->env, &scope) != napi_ok) return;
  Call(device, device->on_sent, static_cast<int32_t>(count), nullptr);
  napi_close_handle_scope(device->env, scope);
}

// The kernel has taken messages that may wait.
void OnNotified(void* context) {
  auto* device = static_cast<Device*>(context);
  napi_handle_scope scope;
  if (napi_open_handle_scope(device->env, &scope) != napi_ok) return;
  Notifier::Done done;
  // JavaScript may close the device meanwhile.
  while (device->notifier != nullptr && device->notifier->TakeDone(&done)) {
    Call(device, device->on_notified, done.ticket << kFailureBits | done.failure, nullptr);
  }
  napi_close_handle_scope(device->env, scope);
}

// The environment goes away while mounted: the loop must not call into it any more.
void OnTeardown(void* data) { CloseDevice(static_cast<Device*>(data)); }

// The JavaScript object of the device is gone.
void Finalize(napi_env env, void* data, void*) {
  auto* device = static_cast<Device*>(data);
  napi_remove_env_cleanup_hook(env, OnTeardown, device);
  CloseDevice(device);
  DropCallbacks(device);
  if (device->context != nullptr) napi_async_destroy(env, device->context);
  for (napi_ref reference : {device->memory[0], device->memory[1], device->memory[2], device->memory[3], device->receiver}) {
    if (reference != nullptr) napi_delete_reference(env, reference);
  }
  delete device;
}

Device* GetDevice(napi_env env, napi_value value) {
  void* data = nullptr;
  if (napi_get_value_external(env, value, &data) != napi_ok) {
    napi_throw_type_error(env, nullptr, "netdrive addon: expected a FUSE device");
  }
  return static_cast<Device*>(data);
}

// Makes an ArrayBuffer that lives as long as the device, and returns its memory.
uint8_t* AddMemory(napi_env env, Device* device, int index, size_t bytes, napi_value object, const char* name) {
  void* data = nullptr;
  napi_value value;
  if (napi_create_arraybuffer(env, bytes, &data, &value) != napi_ok ||
      napi_create_reference(env, value, 1, &device->memory[index]) != napi_ok ||
      napi_set_named_property(env, object, name, value) != napi_ok) {
    return nullptr;
  }
  return static_cast<uint8_t*>(data);
}

// fuseCreateDevice(fd, slotCount, dataBytesMax): { device, pool, poolOffset, batch, returned, sent, slotBytes }. Takes over the descriptor.
napi_value CreateDevice(napi_env env, napi_callback_info info) {
  size_t argc = 3;
  napi_value argv[3], object, external, number;
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  int32_t fd;
  uint32_t slot_count, data_bytes_max;
  NETDRIVE_CHECK(env, napi_get_value_int32(env, argv[0], &fd));
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[1], &slot_count));
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[2], &data_bytes_max));
  if (slot_count < 2 || slot_count > kSlotsMax || data_bytes_max < kPageBytes || data_bytes_max > (16u << 20) ||
      data_bytes_max % kPageBytes != 0) {
    napi_throw_range_error(env, nullptr, "netdrive addon: slot count or size out of range");
    return nullptr;
  }
  auto* device = new (std::nothrow) Device{};
  if (device == nullptr) {
    napi_throw_error(env, nullptr, "netdrive addon: out of memory");
    return nullptr;
  }
  device->env = env;
  device->fd = fd;
  device->slot_count = slot_count;
  device->slot_bytes = kPageBytes + data_bytes_max;
  device->pool_bytes = (slot_count + 1) * device->slot_bytes;
  device->free.reserve(slot_count);
  for (uint32_t i = slot_count; i > 0; i--) device->free.push_back(static_cast<int32_t>(i - 1));
  NETDRIVE_CHECK(env, napi_create_object(env, &object));
  NETDRIVE_CHECK(env, napi_create_external(env, device, Finalize, nullptr, &external));
  NETDRIVE_CHECK(env, napi_set_named_property(env, object, "device", external));
  uint8_t* memory = AddMemory(env, device, 0, device->pool_bytes + kPageBytes, object, "pool");
  device->batch = reinterpret_cast<Request*>(AddMemory(env, device, 1, kBatchMax * sizeof(Request), object, "batch"));
  device->returned = reinterpret_cast<int32_t*>(AddMemory(env, device, 2, slot_count * sizeof(int32_t), object, "returned"));
  device->sent =
      reinterpret_cast<ReplyWriter::Sent*>(AddMemory(env, device, 3, slot_count * sizeof(ReplyWriter::Sent), object, "sent"));
  if (memory == nullptr || device->batch == nullptr || device->returned == nullptr || device->sent == nullptr) {
    napi_throw_error(env, nullptr, "netdrive addon: out of memory");
    return nullptr;
  }
  const size_t offset = (kPageBytes - reinterpret_cast<uintptr_t>(memory) % kPageBytes) % kPageBytes;
  device->pool = memory + offset;
  NETDRIVE_CHECK(env, napi_create_uint32(env, static_cast<uint32_t>(offset), &number));
  NETDRIVE_CHECK(env, napi_set_named_property(env, object, "poolOffset", number));
  NETDRIVE_CHECK(env, napi_create_uint32(env, device->slot_bytes, &number));
  NETDRIVE_CHECK(env, napi_set_named_property(env, object, "slotBytes", number));
  return object;
}

// fuseStartDevice(device, receiver, onBatch(count) => returned, onSent(count), onEnd(errno)): 0 or -errno
napi_value StartDevice(napi_env env, napi_callback_info info) {
  size_t argc = 5;
  napi_value argv[5], name, result;
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  Device* device = GetDevice(env, argv[0]);
  if (device == nullptr) return nullptr;
  if (device->context != nullptr || device->fd < 0) {
    napi_throw_error(env, nullptr, "netdrive addon: the FUSE device was started before");
    return nullptr;
  }
  uv_loop_s* loop;
  NETDRIVE_CHECK(env, napi_get_uv_event_loop(env, &loop));
  NETDRIVE_CHECK(env, napi_create_string_utf8(env, "netdrive-fuse", NAPI_AUTO_LENGTH, &name));
  NETDRIVE_CHECK(env, napi_async_init(env, argv[1], name, &device->context));
  NETDRIVE_CHECK(env, napi_create_reference(env, argv[1], 1, &device->receiver));
  NETDRIVE_CHECK(env, napi_create_reference(env, argv[2], 1, &device->on_batch));
  NETDRIVE_CHECK(env, napi_create_reference(env, argv[3], 1, &device->on_sent));
  NETDRIVE_CHECK(env, napi_create_reference(env, argv[4], 1, &device->on_end));
  NETDRIVE_CHECK(env, napi_add_env_cleanup_hook(env, OnTeardown, device));
  void* poll = malloc(uv_handle_size(kUvPoll));
  // Makes the descriptor non-blocking, too.
  const int failure = poll == nullptr ? -ENOMEM : uv_poll_init(loop, poll, device->fd);
  if (failure != 0) {
    free(poll);
  } else {
    uv_handle_set_data(poll, device);
    device->poll = poll;
    UpdatePolling(device);
  }
  NETDRIVE_CHECK(env, napi_create_int32(env, failure, &result));
  return result;
}

// fuseCloseDevice(device)
napi_value Close(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  Device* device = GetDevice(env, argv[0]);
  if (device == nullptr) return nullptr;
  CloseDevice(device);
  DropCallbacks(device);
  return nullptr;
}

napi_value Result(napi_env env, ssize_t written) {
  napi_value value;
  NETDRIVE_CHECK(env, napi_create_int32(env, written < 0 ? errno : 0, &value));
  return value;
}

struct PoolReply {
  Device* device;
  uint32_t offset;
  uint32_t bytes;
  int32_t slot;
};

// The arguments (device, offset, bytes, slot) of a reply that lies in the pool; false with a pending exception.
bool GetPoolReply(napi_env env, napi_callback_info info, PoolReply* reply) {
  size_t argc = 4;
  napi_value argv[4];
  if (napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr) != napi_ok) return false;
  reply->device = GetDevice(env, argv[0]);
  if (reply->device == nullptr) return false;
  if (napi_get_value_uint32(env, argv[1], &reply->offset) == napi_ok &&
      napi_get_value_uint32(env, argv[2], &reply->bytes) == napi_ok &&
      napi_get_value_int32(env, argv[3], &reply->slot) == napi_ok && reply->offset <= reply->device->pool_bytes &&
      reply->bytes <= reply->device->pool_bytes - reply->offset &&
      reply->slot < static_cast<int32_t>(reply->device->slot_count)) {
    return true;
  }
  napi_throw_range_error(env, nullptr, "netdrive addon: reply outside of the pool");
  return false;
}

// fuseReply(device, offset, bytes, slot): errno. Sends bytes of the pool; then the slot is free again, unless it is -1.
napi_value Reply(napi_env env, napi_callback_info info) {
  PoolReply reply;
  if (!GetPoolReply(env, info, &reply)) return nullptr;
  Device* device = reply.device;
  napi_value result = Result(env, write(device->fd, device->pool + reply.offset, reply.bytes));
  if (reply.slot >= 0) ReturnSlot(device, reply.slot);
  return result;
}

// fuseReplyLater(device, offset, bytes, slot): errno. The same by another thread; the slot stays JavaScript's, and is named by onSent.
napi_value ReplyLater(napi_env env, napi_callback_info info) {
  PoolReply reply;
  if (!GetPoolReply(env, info, &reply)) return nullptr;
  Device* device = reply.device;
  int failure = device->poll == nullptr || reply.slot < 0 ? ENODEV : 0;
  if (failure == 0 && !device->writer.is_started()) {
    uv_loop_s* loop;
    NETDRIVE_CHECK(env, napi_get_uv_event_loop(env, &loop));
    failure = device->writer.Start(loop, device->fd, device->slot_count, OnSent, device);
  }
  if (failure == 0) device->writer.Push({device->pool + reply.offset, reply.bytes, reply.slot});
  napi_value result;
  NETDRIVE_CHECK(env, napi_create_int32(env, failure, &result));
  return result;
}

// fuseNotifyLater(device, bytes, ticket, onNotified(ticket << 12 | errno)): errno. Sends a message that the kernel may take its time with, by another
// thread. The callback is that of the first call.
napi_value NotifyLater(napi_env env, napi_callback_info info) {
  size_t argc = 4;
  napi_value argv[4];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  Device* device = GetDevice(env, argv[0]);
  if (device == nullptr) return nullptr;
  void* bytes;
  size_t size;
  int32_t ticket;
  NETDRIVE_CHECK(env, napi_get_buffer_info(env, argv[1], &bytes, &size));
  NETDRIVE_CHECK(env, napi_get_value_int32(env, argv[2], &ticket));
  int failure = device->poll == nullptr || size > Notifier::kBytesMax ? ENODEV : 0;
  if (failure == 0 && device->notifier == nullptr) {
    uv_loop_s* loop;
    NETDRIVE_CHECK(env, napi_get_uv_event_loop(env, &loop));
    NETDRIVE_CHECK(env, napi_create_reference(env, argv[3], 1, &device->on_notified));
    auto* notifier = new Notifier;
    failure = notifier->Start(loop, device->fd, OnNotified, device);
    if (failure == 0) {
      device->notifier = notifier;
    } else {
      delete notifier;
      napi_delete_reference(env, device->on_notified);
      device->on_notified = nullptr;
    }
  }
  if (failure == 0) device->notifier->Push(ticket, static_cast<uint8_t*>(bytes), static_cast<uint32_t>(size));
  napi_value result;
  NETDRIVE_CHECK(env, napi_create_int32(env, failure, &result));
  return result;
}

// fuseReplyWith(device, offset, bytes, payload): errno. Sends bytes of the pool and the payload as one reply.
napi_value ReplyWith(napi_env env, napi_callback_info info) {
  size_t argc = 4;
  napi_value argv[4];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  Device* device = GetDevice(env, argv[0]);
  if (device == nullptr) return nullptr;
  uint32_t offset, bytes;
  void* payload;
  size_t payload_bytes;
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[1], &offset));
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[2], &bytes));
  NETDRIVE_CHECK(env, napi_get_buffer_info(env, argv[3], &payload, &payload_bytes));
  if (offset > device->pool_bytes || bytes > device->pool_bytes - offset) {
    napi_throw_range_error(env, nullptr, "netdrive addon: reply outside of the pool");
    return nullptr;
  }
  const iovec parts[2] = {{device->pool + offset, bytes}, {payload, payload_bytes}};
  return Result(env, writev(device->fd, parts, payload_bytes > 0 ? 2 : 1));
}

// fuseReturnSlot(device, slot)
napi_value GiveSlotBack(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  Device* device = GetDevice(env, argv[0]);
  if (device == nullptr) return nullptr;
  int32_t slot;
  NETDRIVE_CHECK(env, napi_get_value_int32(env, argv[1], &slot));
  if (slot < 0 || slot >= static_cast<int32_t>(device->slot_count)) {
    napi_throw_range_error(env, nullptr, "netdrive addon: no such slot");
    return nullptr;
  }
  ReturnSlot(device, slot);
  return nullptr;
}

}  // namespace

napi_value RegisterFuseDevice(napi_env env, napi_value exports) {
  if (Export(env, exports, "fuseCreateDevice", CreateDevice) == nullptr) return nullptr;
  if (Export(env, exports, "fuseStartDevice", StartDevice) == nullptr) return nullptr;
  if (Export(env, exports, "fuseCloseDevice", Close) == nullptr) return nullptr;
  if (Export(env, exports, "fuseReply", Reply) == nullptr) return nullptr;
  if (Export(env, exports, "fuseReplyLater", ReplyLater) == nullptr) return nullptr;
  if (Export(env, exports, "fuseNotifyLater", NotifyLater) == nullptr) return nullptr;
  if (Export(env, exports, "fuseReplyWith", ReplyWith) == nullptr) return nullptr;
  return Export(env, exports, "fuseReturnSlot", GiveSlotBack);
}

}  // namespace netdrive
