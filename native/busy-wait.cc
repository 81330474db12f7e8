// The event loop waits for its next event awake for a moment, where events come in quick turns.
//
// A processor that goes to sleep between a request and its answer takes longer to wake than the answer takes, most of all a virtual one, which is
// given back to its host: a 4 KiB read through client and server took 105 us and takes 40 (2 virtual cores, kernel 6.18), at less processor time in all,
// because what runs after a wake-up finds its caches and branch predictors cold. So after an event the loop looks for the next one again
// and again, giving way to whoever else wants the processor, for `max_ns` at most. It does so only as long as it pays: when an event
// did not come in time it sleeps, until it has slept shorter than that once. An idle process sleeps.
//
// While much data flows it waits awake for `stream_ns` only: what counts then is the processor that it leaves to others, and a moment's sleep holds up nothing,
// because more is under way. Files written over TLS on loopback came in at 654 MB/s instead of 588 so, at 2.1 instead of 2.7 s of processor a GB; reading over a line
// of 1 Gbit/s and 50 ms took the client 2.1 instead of 3.9.
#include "busy-wait.h"

#include <sched.h>
#include <time.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "arguments.h"
#include "uv-subset.h"

namespace netdrive {
namespace {

// Traffic is looked at over windows of this length, in which so many bytes are much: less than a line of 1 Gbit/s brings, more than one program's 4 KiB reads.
constexpr int64_t kWindowNs = 1'000'000;
constexpr uint64_t kStreamBytes = 96 * 1024;

// Of the JavaScript thread that waits; another one's (a test's) does no harm.
std::atomic<uint64_t> traffic_bytes = 0;

struct BusyWait {
  uv_loop_s* loop = nullptr;
  // A uv_check_t that runs after each look for events, and a uv_idle_t: the loop does not sleep while it is started.
  void* check = nullptr;
  void* idle = nullptr;
  int64_t max_ns = 0;
  int64_t stream_ns = 0;
  int64_t window_begin_ns = 0;
  uint64_t window_begin_bytes = 0;
  bool streams = false;
  int64_t last_event_ns = 0;
  uint64_t events = 0;
  bool awake = false;
  // How often it began to wait awake, and how often in vain.
  int64_t begun = 0;
  int64_t vain = 0;
  // Windows in which much data flowed.
  int64_t windows = 0;
};

int64_t NowNs() {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void OnIdle(void*) { sched_yield(); }

// Begins a new window if it is time.
void LookAtTraffic(BusyWait* wait, int64_t now) {
  const int64_t length = now - wait->window_begin_ns;
  if (length < kWindowNs) return;
  const uint64_t bytes = traffic_bytes.load(std::memory_order_relaxed);
  // A window that was slept through is longer.
  wait->streams = (bytes - wait->window_begin_bytes) * kWindowNs >= kStreamBytes * static_cast<uint64_t>(length);
  wait->windows += wait->streams;
  wait->window_begin_ns = now;
  wait->window_begin_bytes = bytes;
}

void OnCheck(void* handle) {
  auto* wait = static_cast<BusyWait*>(uv_handle_get_data(handle));
  UvMetrics metrics;
  uv_metrics_info(wait->loop, &metrics);
  const int64_t now = NowNs();
  LookAtTraffic(wait, now);
  const int64_t max_ns = wait->streams ? wait->stream_ns : wait->max_ns;
  if (metrics.events != wait->events) {
    const bool soon = now - wait->last_event_ns < max_ns;
    wait->events = metrics.events;
    wait->last_event_ns = now;
    if (soon && !wait->awake) {
      wait->awake = true;
      wait->begun++;
      uv_idle_start(wait->idle, OnIdle);
    }
  } else if (wait->awake && now - wait->last_event_ns >= max_ns) {
    wait->awake = false;
    wait->vain++;
    uv_idle_stop(wait->idle);
  }
}

void OnTeardown(void* data) {
  auto* wait = static_cast<BusyWait*>(data);
  for (void* handle : {wait->check, wait->idle}) uv_close(handle, [](void* closed) { free(closed); });
  delete wait;
}

// busyWait(maxUs, streamUs): an object for busyWaitCounters. Once for an environment; it goes on as long as that.
napi_value Start(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const int64_t max_us = arguments.Integer(0);
  const int64_t stream_us = arguments.Integer(1);
  if (!arguments.ok() || max_us <= 0 || max_us > 1'000'000 || stream_us <= 0 || stream_us > max_us) return arguments.Wrong();
  auto* wait = new BusyWait;
  wait->max_ns = max_us * 1000;
  wait->stream_ns = stream_us * 1000;
  wait->check = malloc(uv_handle_size(kUvCheck));
  wait->idle = malloc(uv_handle_size(kUvIdle));
  napi_value external;
  if (wait->check == nullptr || wait->idle == nullptr) abort();
  NETDRIVE_CHECK(env, napi_get_uv_event_loop(env, &wait->loop));
  uv_check_init(wait->loop, wait->check);
  uv_idle_init(wait->loop, wait->idle);
  uv_handle_set_data(wait->check, wait);
  // Waiting awake must not keep a process alive.
  uv_unref(wait->check);
  uv_unref(wait->idle);
  uv_check_start(wait->check, OnCheck);
  NETDRIVE_CHECK(env, napi_add_env_cleanup_hook(env, OnTeardown, wait));
  NETDRIVE_CHECK(env, napi_create_external(env, wait, nullptr, nullptr, &external));
  return external;
}

// busyWaitCounters(external): [awake now, begun, in vain, windows]
napi_value Counters(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  void* data = nullptr;
  if (napi_get_value_external(env, arguments.value(0), &data) != napi_ok) return arguments.Wrong();
  auto* wait = static_cast<BusyWait*>(data);
  const int64_t values[] = {wait->awake ? 1 : 0, wait->begun, wait->vain, wait->windows};
  napi_value array;
  NETDRIVE_CHECK(env, napi_create_array(env, &array));
  for (uint32_t i = 0; i < 4; i++) NETDRIVE_CHECK(env, napi_set_element(env, array, i, Number(env, values[i])));
  return array;
}

}  // namespace

void CountTraffic(size_t bytes) { traffic_bytes.fetch_add(bytes, std::memory_order_relaxed); }

napi_value RegisterBusyWait(napi_env env, napi_value exports) {
  if (Export(env, exports, "busyWait", Start) == nullptr) return nullptr;
  return Export(env, exports, "busyWaitCounters", Counters);
}

}  // namespace netdrive
