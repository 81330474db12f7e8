// The disk as a JavaScript object: slots, submission, and completions in batches.
//
// `createDiskEngine(options, completed)` returns { slots, completions, submit, cancel, credential, forget, discard, describe, counters, close }.
// `completed(count)` is called with `count` pairs (slot, result) in `completions`.
#include <condition_variable>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "arguments.h"
#include "disk.h"

namespace netdrive {
namespace {

class Engine;

struct SlotJob : Job {
  Engine* engine = nullptr;
  uint32_t slot = 0;
  uint8_t* data = nullptr;
  size_t size = 0;
  Handle* carried = nullptr;
  size_t done = 0;
  // The Buffers behind the first one: few requests have any.
  std::vector<Bytes> more;
  std::shared_ptr<const Credential> credential;
  int64_t result = 0;
};

class Engine {
 public:
  Engine(const DiskOptions& options, uint32_t slots) : disk(options), jobs_(slots) {
    for (uint32_t i = 0; i < slots; i++) {
      jobs_[i].engine = this;
      jobs_[i].slot = i;
      jobs_[i].run = [](Job* job) {
        auto* slot_job = static_cast<SlotJob*>(job);
        slot_job->engine->Work(slot_job);
      };
    }
  }

  ~Engine() { Stop(); }

  napi_status Init(napi_env env, napi_value object, napi_value completed);
  int64_t Submit(napi_env env, uint32_t slot, std::span<const Bytes> buffers);
  // As Submit of a look-up, but one that would wait is not run: kPending.
  int64_t Attempt(uint32_t slot);
  bool Cancel(napi_env env, uint32_t slot);
  void Stop();
  void Finish(napi_env env);
  uint32_t AddCredential(std::shared_ptr<const Credential> credential) {
    credentials_.push_back(std::move(credential));
    return static_cast<uint32_t>(credentials_.size() - 1);
  }
  void ClearCredentials() { credentials_.resize(1); }
  uint32_t slots() const { return static_cast<uint32_t>(jobs_.size()); }
  int64_t pending() const { return pending_; }

  Disk disk;
  napi_ref keep = nullptr;

 private:
  void Work(SlotJob* job);
  static void StopHook(void* engine) { static_cast<Engine*>(engine)->Stop(); }
  static void Deliver(napi_env env, napi_value completed, void* context, void* data);
  void SetPending(napi_env env, int64_t pending);

  std::vector<SlotJob> jobs_;
  std::vector<std::shared_ptr<const Credential>> credentials_ = {nullptr};
  Slot* slot_memory_ = nullptr;
  double* completions_ = nullptr;
  napi_threadsafe_function wake_ = nullptr;
  // Of the JavaScript thread: requests that are queued, run, or wait to be delivered.
  int64_t pending_ = 0;

  std::mutex mutex_;
  std::condition_variable idle_;
  std::vector<SlotJob*> done_;
  int64_t running_ = 0;
  bool stopped_ = false;
};

napi_status Engine::Init(napi_env env, napi_value object, napi_value completed) {
  napi_value slots, completions, name;
  void* memory;
  napi_status status = napi_create_arraybuffer(env, jobs_.size() * sizeof(Slot), &memory, &slots);
  if (status != napi_ok) return status;
  slot_memory_ = static_cast<Slot*>(memory);
  status = napi_create_arraybuffer(env, jobs_.size() * 2 * sizeof(double), &memory, &completions);
  if (status != napi_ok) return status;
  completions_ = static_cast<double*>(memory);
  napi_set_named_property(env, object, "slots", slots);
  napi_set_named_property(env, object, "completions", completions);
  napi_create_string_utf8(env, "netdrive disk", NAPI_AUTO_LENGTH, &name);
  status = napi_create_threadsafe_function(env, completed, nullptr, name, 0, 1, nullptr, nullptr, this, Deliver, &wake_);
  if (status != napi_ok) return status;
  napi_unref_threadsafe_function(env, wake_);
  // Runs before the function's own clean-up, because it was added later: no worker calls what is gone.
  napi_add_env_cleanup_hook(env, StopHook, this);
  // The object holds the memory; it lives until close().
  return napi_create_reference(env, object, 1, &keep);
}

// A pending request keeps the event loop alive, an idle disk does not.
void Engine::SetPending(napi_env env, int64_t pending) {
  if (pending_ == 0 && pending > 0) napi_ref_threadsafe_function(env, wake_);
  if (pending_ > 0 && pending == 0) napi_unref_threadsafe_function(env, wake_);
  pending_ = pending;
}

int64_t Engine::Submit(napi_env env, uint32_t index, std::span<const Bytes> buffers) {
  Slot& slot = slot_memory_[index];
  SlotJob& job = jobs_[index];
  if (slot.credential >= credentials_.size()) return -EPERM;
  if (wake_ == nullptr) return -EBADF;
  const auto& credential = credentials_[slot.credential];
  Bytes bytes = buffers.empty() ? Bytes() : buffers.front();
  std::span<const Bytes> more = buffers.empty() ? buffers : buffers.subspan(1);
  Call call = {slot, bytes.data, bytes.size, credential.get(), true, nullptr, 0, more, pending_ == 0};
  int64_t result = disk.Run(call);
  if (result != kPending) return result;
  job.data = bytes.data;
  job.size = bytes.size;
  job.carried = call.carried;
  job.done = call.done;
  job.more.assign(more.begin(), more.end());
  job.credential = credential;
  job.slow = Disk::Slow(slot.operation);
  job.kind = credential.get();
  {
    std::lock_guard lock(mutex_);
    running_++;
  }
  if (!Pool::Get().Submit(&job)) {
    std::lock_guard lock(mutex_);
    running_--;
    if (call.carried != nullptr) disk.table().Drop(call.carried, true);
    return -EAGAIN;
  }
  SetPending(env, pending_ + 1);
  return kPending;
}

int64_t Engine::Attempt(uint32_t index) {
  Slot& slot = slot_memory_[index];
  if (slot.credential >= credentials_.size()) return -EPERM;
  if (wake_ == nullptr) return -EBADF;
  Call call = {slot, nullptr, 0, credentials_[slot.credential].get(), true};
  return disk.Run(call);
}

void Engine::Work(SlotJob* job) {
  Call call = {slot_memory_[job->slot], job->data,    job->size, job->credential.get(), false,
               job->carried,            job->done,    job->more};
  job->result = disk.Run(call);
  bool wake;
  {
    std::lock_guard lock(mutex_);
    wake = done_.empty() && !stopped_;
    done_.push_back(job);
    // Under the lock: after Stop() has seen no running job the function is gone.
    if (wake) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
    if (--running_ == 0) idle_.notify_all();
  }
}

void Engine::Deliver(napi_env env, napi_value completed, void* context, void*) {
  auto* engine = static_cast<Engine*>(context);
  if (env == nullptr || completed == nullptr) return;
  std::vector<SlotJob*> done;
  {
    std::lock_guard lock(engine->mutex_);
    done.swap(engine->done_);
  }
  for (size_t i = 0; i < done.size(); i++) {
    engine->completions_[2 * i] = done[i]->slot;
    engine->completions_[2 * i + 1] = static_cast<double>(done[i]->result);
    done[i]->credential.reset();
  }
  if (done.empty()) return;
  engine->SetPending(env, engine->pending_ - static_cast<int64_t>(done.size()));
  napi_value undefined, count;
  napi_get_undefined(env, &undefined);
  napi_create_uint32(env, static_cast<uint32_t>(done.size()), &count);
  napi_call_function(env, undefined, completed, 1, &count, nullptr);
}

bool Engine::Cancel(napi_env env, uint32_t index) {
  SlotJob& job = jobs_[index];
  if (!Pool::Get().Remove(&job)) return false;
  job.credential.reset();
  {
    std::lock_guard lock(mutex_);
    if (--running_ == 0) idle_.notify_all();
  }
  SetPending(env, pending_ - 1);
  return true;
}

// Removes what is queued and waits for what runs.
void Engine::Stop() {
  for (SlotJob& job : jobs_) {
    if (!Pool::Get().Remove(&job)) continue;
    std::lock_guard lock(mutex_);
    running_--;
  }
  std::unique_lock lock(mutex_);
  stopped_ = true;
  idle_.wait(lock, [&] { return running_ == 0; });
}

// After close: the object may be collected.
void Engine::Finish(napi_env env) {
  if (wake_ != nullptr) napi_release_threadsafe_function(wake_, napi_tsfn_release);
  wake_ = nullptr;
  if (keep == nullptr) return;
  napi_remove_env_cleanup_hook(env, StopHook, this);
  napi_delete_reference(env, keep);
  keep = nullptr;
}

Engine* Self(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  return static_cast<Engine*>(data);
}

// submit(slot, ...buffers) -> result, negative errno, or kPending. kBuffersMax buffers at most.
napi_value Submit(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  uint32_t slot = arguments.Unsigned(0);
  size_t count = arguments.count() - 1;
  Bytes buffers[kBuffersMax];
  for (size_t i = 0; i < count && i < kBuffersMax; i++) buffers[i] = arguments.Buffer(i + 1);
  if (!arguments.ok() || slot >= engine->slots() || count > kBuffersMax) return arguments.Wrong();
  return Number(env, engine->Submit(env, slot, {buffers, count}));
}

// attempt(slot) -> result, negative errno, or kPending: nothing was done.
napi_value Attempt(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  uint32_t slot = arguments.Unsigned(0);
  if (!arguments.ok() || slot >= engine->slots()) return arguments.Wrong();
  return Number(env, engine->Attempt(slot));
}

// cancel(slot) -> 1 if the request was queued and is gone, 0 if it runs.
napi_value Cancel(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  uint32_t slot = arguments.Unsigned(0);
  if (!arguments.ok() || slot >= engine->slots()) return arguments.Wrong();
  return Number(env, engine->Cancel(env, slot) ? 1 : 0);
}

// credential(uid, gid, groups: Buffer of u32) -> its number in slots; without arguments: forgets all.
napi_value AddCredential(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  if (arguments.count() == 0) {
    engine->ClearCredentials();
    return Number(env, 0);
  }
  auto credential = std::make_shared<Credential>();
  credential->uid = arguments.Unsigned(0);
  credential->gid = arguments.Unsigned(1);
  Bytes groups = arguments.Buffer(2);
  if (!arguments.ok()) return arguments.Wrong();
  credential->groups.resize(groups.size / sizeof(gid_t));
  if (!credential->groups.empty()) memcpy(credential->groups.data(), groups.data, groups.size);
  return Number(env, engine->AddCredential(std::move(credential)));
}

// forget(ids: Buffer of 16 bytes each).
napi_value Forget(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  Bytes ids = arguments.Buffer(0);
  if (!arguments.ok()) return arguments.Wrong();
  for (size_t at = 0; at + sizeof(NodeKey) <= ids.size; at += sizeof(NodeKey)) {
    NodeKey key;
    memcpy(&key, ids.data + at, sizeof key);
    engine->disk.table().Forget(key);
  }
  return nullptr;
}

// discard(handle): closes what was opened for a caller that is gone.
napi_value Discard(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  uint32_t handle = arguments.Unsigned(0);
  if (!arguments.ok()) return arguments.Wrong();
  engine->disk.Discard(handle);
  return nullptr;
}

// describe(handle or id: Buffer of 16 bytes, buffer) -> bytes of the record written, or a negative errno.
napi_value Describe(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  Bytes to = arguments.Buffer(1);
  bool is_id = false;
  if (arguments.count() > 0) NETDRIVE_CHECK(env, napi_is_buffer(env, arguments.value(0), &is_id));
  if (!is_id) {
    uint32_t handle = arguments.Unsigned(0);
    return arguments.ok() ? Number(env, engine->disk.Describe(handle, to.data, to.size)) : arguments.Wrong();
  }
  NodeKey key;
  Bytes id = arguments.Buffer(0);
  if (!arguments.ok() || id.size != sizeof key) return arguments.Wrong();
  memcpy(&key, id.data, sizeof key);
  return Number(env, engine->disk.Describe(key, to.data, to.size));
}

// exactNames(handle) -> descriptor
napi_value ExactNames(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Engine* engine = Self(env, info);
  uint32_t handle = arguments.Unsigned(0);
  return arguments.ok() ? Number(env, engine->disk.ExactNames(handle)) : arguments.Wrong();
}

// counters() -> [nodes, node descriptors, handles, descriptors being closed, requests pending, descriptors handed over to be closed]
napi_value Counters(napi_env env, napi_callback_info info) {
  Engine* engine = Self(env, info);
  NodeTable::Counters counters = engine->disk.table().Count();
  int64_t values[] = {counters.nodes, counters.node_descriptors, counters.handles, counters.closing, engine->pending(), counters.handed_over};
  napi_value array;
  NETDRIVE_CHECK(env, napi_create_array(env, &array));
  for (uint32_t i = 0; i < sizeof values / sizeof *values; i++) {
    NETDRIVE_CHECK(env, napi_set_element(env, array, i, Number(env, values[i])));
  }
  return array;
}

// close(): after the disk's own last request; lets the object go.
napi_value Close(napi_env env, napi_callback_info info) {
  Engine* engine = Self(env, info);
  engine->Stop();
  engine->Finish(env);
  return nullptr;
}

void Collect(napi_env env, void* data, void*) {
  auto* engine = static_cast<Engine*>(data);
  engine->Stop();
  engine->Finish(env);
  delete engine;
}

// createDiskEngine(directory, applyCredentials, slots, nodes, nodeDescriptors, handles, withoutOpenat2, keepUnlinked,
// completed)
napi_value Create(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  RememberProcessIdentity();
  DiskOptions options;
  options.directory = arguments.Path(0);
  options.apply_credentials = arguments.Int(1) != 0;
  uint32_t slots = arguments.Unsigned(2);
  options.limits = {arguments.Unsigned(3), arguments.Unsigned(4), arguments.Unsigned(5)};
  options.without_openat2 = arguments.Int(6) != 0;
  options.keep_unlinked = arguments.Int(7) != 0;
  if (!arguments.ok() || arguments.count() < 9 || slots == 0 || slots > 65536) return arguments.Wrong();
  auto engine = std::make_unique<Engine>(options, slots);
  if (int error = engine->disk.Open(); error < 0) return Number(env, error);
  napi_value object;
  NETDRIVE_CHECK(env, napi_create_object(env, &object));
  constexpr struct {
    const char* name;
    napi_callback function;
  } kMethods[] = {{"submit", Submit},   {"attempt", Attempt},   {"cancel", Cancel}, {"credential", AddCredential}, {"forget", Forget},
                  {"discard", Discard}, {"describe", Describe}, {"exactNames", ExactNames}, {"counters", Counters}, {"close", Close}};
  for (const auto& method : kMethods) {
    napi_value function;
    NETDRIVE_CHECK(env, napi_create_function(env, method.name, NAPI_AUTO_LENGTH, method.function, engine.get(), &function));
    NETDRIVE_CHECK(env, napi_set_named_property(env, object, method.name, function));
  }
  napi_value local;
  NETDRIVE_CHECK(env, napi_get_boolean(env, engine->disk.local(), &local));
  NETDRIVE_CHECK(env, napi_set_named_property(env, object, "local", local));
  NETDRIVE_CHECK(env, engine->Init(env, object, arguments.value(8)));
  NETDRIVE_CHECK(env, napi_wrap(env, object, engine.get(), Collect, nullptr, nullptr));
  engine.release();
  return object;
}

// slotLayout: the offset of each field of a slot, by name, for src/sys/disk-engine.ts to compare with its own.
napi_value Layout(napi_env env) {
  constexpr struct {
    const char* name;
    size_t offset;
  } kFields[] = {
#define FIELD(field) {#field, offsetof(Slot, field)}
      FIELD(operation), FIELD(credential), FIELD(handle),     FIELD(target_handle), FIELD(offset),
      FIELD(target_offset), FIELD(length), FIELD(flags),      FIELD(mode),          FIELD(umask),
      FIELD(valid),     FIELD(uid),        FIELD(gid),        FIELD(atime_s),       FIELD(mtime_s),
      FIELD(atime_ns),  FIELD(mtime_ns),   FIELD(rdev_major), FIELD(rdev_minor),    FIELD(cookie),
      FIELD(id),        FIELD(target_id),  FIELD(name_bytes), FIELD(target_name_bytes), FIELD(name),
      FIELD(target_name), FIELD(attr),     FIELD(reply_id),   FIELD(reply_handle),  FIELD(statfs),
      FIELD(lock_start), FIELD(lock_end), FIELD(directory),
#undef FIELD
      {"size", sizeof(Slot)},
  };
  napi_value object;
  NETDRIVE_CHECK(env, napi_create_object(env, &object));
  for (const auto& field : kFields) {
    NETDRIVE_CHECK(env, napi_set_named_property(env, object, field.name, Number(env, field.offset)));
  }
  return object;
}

}  // namespace

napi_value RegisterDisk(napi_env env, napi_value exports) {
  napi_value layout = Layout(env);
  if (layout == nullptr) return nullptr;
  NETDRIVE_CHECK(env, napi_set_named_property(env, exports, "slotLayout", layout));
  return Export(env, exports, "createDiskEngine", Create);
}

}  // namespace netdrive
