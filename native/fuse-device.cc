// Reader threads of /dev/fuse, the slots they read into, and replies.
//
// One ArrayBuffer, the pool, holds `slot_count` slots of `slot_bytes` each and one more as scratch for replies; the data of a WRITE
// request starts page-aligned, `kHeadBytes` before it lies the request's header. A slot is with the free list, or with the one reader
// thread that fills it, or on the ready list, or with JavaScript: never with two of them. Reader threads never touch a value of
// JavaScript; they wake it once for all requests that are ready.
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "fuse.h"

namespace netdrive {
namespace {

constexpr uint32_t kPageBytes = 4096;
// struct fuse_in_header and struct fuse_write_in: the kernel wants room for both before max_write.
constexpr uint32_t kHeadBytes = 80;
constexpr uint32_t kSlotsMax = 256;
constexpr uint32_t kThreadsMax = 16;

struct Request {
  int32_t slot;
  int32_t bytes;
};

struct Device {
  int fd = -1;
  uint32_t slot_count = 0;
  uint32_t slot_bytes = 0;
  // First page-aligned byte of the pool's ArrayBuffer, and where that is in it.
  uint8_t* pool = nullptr;
  uint32_t pool_bytes = 0;
  // Shared with JavaScript: requests of a batch, and slots given back at its end.
  int32_t* batch = nullptr;
  int32_t* returned = nullptr;
  napi_ref memory[3] = {};
  napi_ref on_batch = nullptr;
  napi_ref on_end = nullptr;
  napi_threadsafe_function wake = nullptr;
  pthread_t threads[kThreadsMax];
  uint32_t thread_count = 0;

  std::mutex mutex;
  std::condition_variable slot_free;
  // GUARDED_BY(mutex), as all below. Last in, first out: the slot used last is warm in the cache.
  std::vector<int32_t> free;
  std::vector<Request> ready;
  bool wake_pending = false;
  uint32_t running = 0;
  int end_errno = 0;
  bool ended = false;
  // The environment of JavaScript is being torn down under running threads: `wake` may not be touched any more.
  bool orphaned = false;
};

// Wakes JavaScript; the caller holds the mutex, so that the environment does not go away meanwhile.
void Wake(Device* device) {
  if (!device->orphaned) napi_call_threadsafe_function(device->wake, nullptr, napi_tsfn_nonblocking);
}

// A free slot, waiting for one; -1 when the connection has ended.
int32_t TakeSlot(Device* device) {
  std::unique_lock<std::mutex> lock(device->mutex);
  device->slot_free.wait(lock, [device] { return !device->free.empty() || device->end_errno != 0; });
  if (device->end_errno != 0) return -1;
  const int32_t slot = device->free.back();
  device->free.pop_back();
  return slot;
}

void* Read(void* argument) {
  auto* device = static_cast<Device*>(argument);
  const size_t room = device->slot_bytes - (kPageBytes - kHeadBytes);
  int failure = 0;
  for (int32_t slot = TakeSlot(device); slot >= 0; slot = TakeSlot(device)) {
    uint8_t* start = device->pool + static_cast<size_t>(slot) * device->slot_bytes + (kPageBytes - kHeadBytes);
    ssize_t bytes;
    do {
      bytes = read(device->fd, start, room);
      // ENOENT: the request was interrupted before it was copied. The next one may be good.
    } while (bytes < 0 && (errno == ENOENT || errno == EINTR || errno == EAGAIN));
    if (bytes <= 0) {
      failure = bytes < 0 ? errno : ENODEV;
      break;
    }
    std::lock_guard<std::mutex> lock(device->mutex);
    device->ready.push_back({slot, static_cast<int32_t>(bytes)});
    if (!device->wake_pending) {
      device->wake_pending = true;
      Wake(device);
    }
  }
  std::lock_guard<std::mutex> lock(device->mutex);
  if (device->end_errno == 0) device->end_errno = failure;
  device->running--;
  device->slot_free.notify_all();
  Wake(device);
  if (!device->orphaned) napi_release_threadsafe_function(device->wake, napi_tsfn_release);
  return nullptr;
}

void ReturnSlots(Device* device, const int32_t* slots, uint32_t count) {
  if (count == 0) return;
  bool was_empty;
  {
    std::lock_guard<std::mutex> lock(device->mutex);
    was_empty = device->free.empty();
    for (uint32_t i = 0; i < count; i++) device->free.push_back(slots[i]);
  }
  if (was_empty) device->slot_free.notify_all();
}

// On the JavaScript thread: passes on what is ready, and the end when all threads are through.
void Deliver(napi_env env, napi_value, void* context, void*) {
  auto* device = static_cast<Device*>(context);
  uint32_t count;
  bool end = false;
  {
    std::lock_guard<std::mutex> lock(device->mutex);
    count = static_cast<uint32_t>(device->ready.size());
    static_assert(sizeof(Request) == 2 * sizeof(int32_t));
    if (count > 0) memcpy(device->batch, device->ready.data(), count * sizeof(Request));
    device->ready.clear();
    device->wake_pending = false;
    if (device->running == 0 && !device->ended) {
      end = true;
      device->ended = true;
    }
  }
  if (env == nullptr) return;
  napi_value receiver, function, number, result;
  if (napi_get_undefined(env, &receiver) != napi_ok) return;
  if (count > 0) {
    uint32_t returned = 0;
    if (napi_get_reference_value(env, device->on_batch, &function) != napi_ok ||
        napi_create_uint32(env, count, &number) != napi_ok ||
        napi_call_function(env, receiver, function, 1, &number, &result) != napi_ok ||
        napi_get_value_uint32(env, result, &returned) != napi_ok) {
      // An exception stays pending and ends the process: the loop of requests must not throw.
      return;
    }
    ReturnSlots(device, device->returned, returned < device->slot_count ? returned : device->slot_count);
  }
  if (end) {
    if (device->fd >= 0) close(device->fd);
    device->fd = -1;
    if (napi_get_reference_value(env, device->on_end, &function) == napi_ok &&
        napi_create_int32(env, device->end_errno, &number) == napi_ok) {
      napi_call_function(env, receiver, function, 1, &number, &result);
    }
  }
}

// All threads have let go of the wake-up function; or the process is ending under them, and they end with it.
void ThreadsEnded(napi_env env, void*, void* context) {
  auto* device = static_cast<Device*>(context);
  {
    std::lock_guard<std::mutex> lock(device->mutex);
    if (device->running > 0) {
      device->orphaned = true;
      return;
    }
  }
  for (uint32_t i = 0; i < device->thread_count; i++) pthread_join(device->threads[i], nullptr);
  device->thread_count = 0;
  for (napi_ref reference : {device->on_batch, device->on_end}) {
    if (env != nullptr && reference != nullptr) napi_delete_reference(env, reference);
  }
  device->on_batch = device->on_end = nullptr;
}

// The JavaScript object of the device is gone; it is held by whoever replies, and the threads have ended or end with the process.
void Finalize(napi_env env, void* data, void*) {
  auto* device = static_cast<Device*>(data);
  if (device->thread_count > 0) return;
  if (device->fd >= 0) close(device->fd);
  for (napi_ref reference : device->memory) {
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

// fuseCreateDevice(fd, slotCount, dataBytesMax): { device, pool, poolOffset, batch, returned, slotBytes }. Takes over the descriptor.
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
  device->fd = fd;
  device->slot_count = slot_count;
  device->slot_bytes = kPageBytes + data_bytes_max;
  device->pool_bytes = (slot_count + 1) * device->slot_bytes;
  device->free.reserve(slot_count);
  device->ready.reserve(slot_count);
  for (uint32_t i = slot_count; i > 0; i--) device->free.push_back(static_cast<int32_t>(i - 1));
  NETDRIVE_CHECK(env, napi_create_object(env, &object));
  NETDRIVE_CHECK(env, napi_create_external(env, device, Finalize, nullptr, &external));
  NETDRIVE_CHECK(env, napi_set_named_property(env, object, "device", external));
  uint8_t* memory = AddMemory(env, device, 0, device->pool_bytes + kPageBytes, object, "pool");
  device->batch = reinterpret_cast<int32_t*>(AddMemory(env, device, 1, slot_count * sizeof(Request), object, "batch"));
  device->returned = reinterpret_cast<int32_t*>(AddMemory(env, device, 2, slot_count * sizeof(int32_t), object, "returned"));
  if (memory == nullptr || device->batch == nullptr || device->returned == nullptr) {
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

// fuseStartDevice(device, threads, onBatch(count) => returned, onEnd(errno))
napi_value StartDevice(napi_env env, napi_callback_info info) {
  size_t argc = 4;
  napi_value argv[4], name;
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  Device* device = GetDevice(env, argv[0]);
  if (device == nullptr) return nullptr;
  uint32_t threads;
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[1], &threads));
  if (threads < 1 || threads > kThreadsMax || device->wake != nullptr) {
    napi_throw_range_error(env, nullptr, "netdrive addon: thread count out of range, or started twice");
    return nullptr;
  }
  NETDRIVE_CHECK(env, napi_create_reference(env, argv[2], 1, &device->on_batch));
  NETDRIVE_CHECK(env, napi_create_reference(env, argv[3], 1, &device->on_end));
  NETDRIVE_CHECK(env, napi_create_string_utf8(env, "netdrive-fuse", NAPI_AUTO_LENGTH, &name));
  NETDRIVE_CHECK(env, napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, threads, nullptr, ThreadsEnded,
                                                      device, Deliver, &device->wake));
  // Signals are for the threads of Node.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failure = 0;
  device->running = threads;
  for (uint32_t i = 0; i < threads; i++) {
    if (failure == 0) failure = pthread_create(&device->threads[i], nullptr, Read, device);
    if (failure == 0) {
      pthread_setname_np(device->threads[i], "netdrive-fuse");
      device->thread_count++;
    } else {
      std::lock_guard<std::mutex> lock(device->mutex);
      device->running--;
      if (device->end_errno == 0 && device->thread_count == 0) device->end_errno = failure;
      napi_release_threadsafe_function(device->wake, napi_tsfn_release);
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (device->thread_count == 0) napi_throw_error(env, nullptr, "netdrive addon: no thread can be started");
  return nullptr;
}

napi_value Result(napi_env env, ssize_t written) {
  napi_value value;
  NETDRIVE_CHECK(env, napi_create_int32(env, written < 0 ? errno : 0, &value));
  return value;
}

// fuseReply(device, offset, bytes, slot): errno. Sends bytes of the pool; then the slot is free again, unless it is -1.
napi_value Reply(napi_env env, napi_callback_info info) {
  size_t argc = 4;
  napi_value argv[4];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr));
  Device* device = GetDevice(env, argv[0]);
  if (device == nullptr) return nullptr;
  uint32_t offset, bytes;
  int32_t slot;
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[1], &offset));
  NETDRIVE_CHECK(env, napi_get_value_uint32(env, argv[2], &bytes));
  NETDRIVE_CHECK(env, napi_get_value_int32(env, argv[3], &slot));
  if (offset > device->pool_bytes || bytes > device->pool_bytes - offset ||
      slot >= static_cast<int32_t>(device->slot_count)) {
    napi_throw_range_error(env, nullptr, "netdrive addon: reply outside of the pool");
    return nullptr;
  }
  napi_value result = Result(env, write(device->fd, device->pool + offset, bytes));
  if (slot >= 0) ReturnSlots(device, &slot, 1);
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
napi_value ReturnSlot(napi_env env, napi_callback_info info) {
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
  ReturnSlots(device, &slot, 1);
  return nullptr;
}

}  // namespace

napi_value RegisterFuseDevice(napi_env env, napi_value exports) {
  if (Export(env, exports, "fuseCreateDevice", CreateDevice) == nullptr) return nullptr;
  if (Export(env, exports, "fuseStartDevice", StartDevice) == nullptr) return nullptr;
  if (Export(env, exports, "fuseReply", Reply) == nullptr) return nullptr;
  if (Export(env, exports, "fuseReplyWith", ReplyWith) == nullptr) return nullptr;
  return Export(env, exports, "fuseReturnSlot", ReturnSlot);
}

}  // namespace netdrive
