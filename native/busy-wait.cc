// The event loop waits for its next event awake for a moment, where events come in quick turns.
//
// A processor that goes to sleep between a request and its answer takes longer to wake than the answer takes, most of all a virtual one, which is
// given back to its host: a 4 KiB read through client and server took 105 us and takes 40 (2 virtual cores, kernel 6.18), at less processor time in all,
// because what runs after a wake-up finds its caches and branch predictors cold. So after an event the loop looks for the next one again
// and again, giving way to whoever else wants the processor, for `max_ns` at most. It does so only as long as it pays: when an event
// did not come in time it sleeps, until it has slept shorter than that once. An idle process sleeps.
//
// Where others want the processor for themselves it sleeps: who gives way again and again is put behind them by the scheduler, for milliseconds each time
// (4 programs that compute on 2 cores: creating a file took 20 ms instead of 3). Yields that took long tell: when they add up, it sleeps for `kSleepNs` before
// it tries again.
//
// It looks from within one turn of the loop, at the descriptor that the loop itself would sleep on. A turn of Node's loop costs 2 us and makes an
// object, so that turning it while waiting made most of a busy drive's garbage: 50 to 70 KB for each file that was created.
//
// While much data flows it waits awake for `stream_ns` only: what counts then is the processor that it leaves to others, and a moment's sleep holds up nothing,
// because more is under way. Files written over TLS on loopback came in at 654 MB/s instead of 588 so, at 2.1 instead of 2.7 s of processor a GB; reading over a line
// of 1 Gbit/s and 50 ms took the client 2.1 instead of 3.9.
#include "busy-wait.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <new>

#include "arguments.h"
#include "uv-subset.h"

namespace netdrive {
namespace {

// Traffic is looked at over windows of this length, in which so many bytes are much: less than a line of 1 Gbit/s brings, more than one program's 4 KiB reads.
constexpr int64_t kWindowNs = 1'000'000;
constexpr uint64_t kStreamBytes = 96 * 1024;

// A yield that took longer was to somebody who computes: a program that the drive serves has the processor only until its next request.
constexpr int64_t kLongYieldNs = 500'000;
// So much lost by such yields, of which a sixteenth of the time is forgiven (V8's threads need some), is too much.
constexpr int64_t kLostNsMax = 8'000'000;
constexpr int64_t kForgiven = 16;
constexpr int64_t kSleepNs = 250'000'000;

// Of the JavaScript thread that waits; another one's (a test's) does no harm.
std::atomic<uint64_t> traffic_bytes = 0;

struct BusyWait {
  uv_loop_s* loop = nullptr;
  // A uv_prepare_t and a uv_check_t, which run before and after each look for events, and a uv_idle_t: the loop does not sleep while it is started.
  void* prepare = nullptr;
  void* check = nullptr;
  void* idle = nullptr;
  int descriptor = -1;
  int64_t max_ns = 0;
  int64_t stream_ns = 0;
  int64_t window_begin_ns = 0;
  uint64_t window_begin_bytes = 0;
  bool streams = false;
  int64_t last_event_ns = 0;
  // Time lost to others, as of then; not awake before the last.
  int64_t lost_ns = 0;
  int64_t lost_at_ns = 0;
  int64_t sleep_end_ns = 0;
  uint64_t events = 0;
  bool awake = false;
  // How often it began to wait awake, how often it ended without an event, and how often because others wanted the processor.
  int64_t begun = 0;
  int64_t vain = 0;
  int64_t crowded = 0;
  // Windows in which much data flowed.
  int64_t windows = 0;
};

int64_t NowNs() {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

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

int64_t LongestNs(const BusyWait& wait) { return wait.streams ? wait.stream_ns : wait.max_ns; }

// Notes that a yield took this long.
void CountLost(BusyWait* wait, int64_t now, int64_t yield_ns) {
  wait->lost_ns = yield_ns + std::max(int64_t{0}, wait->lost_ns - (now - wait->lost_at_ns) / kForgiven);
  wait->lost_at_ns = now;
  if (wait->lost_ns < kLostNsMax) return;
  wait->sleep_end_ns = now + kSleepNs;
  wait->crowded++;
}

// Looks for an event until there is one, or `end_ns`, or others have had the processor for too long.
bool AwaitEvent(BusyWait* wait, int64_t end_ns) {
  struct pollfd events = {wait->descriptor, POLLIN, 0};
  int64_t now = NowNs();
  for (;;) {
    const int64_t before = now;
    sched_yield();
    now = NowNs();
    if (now - before > kLongYieldNs) CountLost(wait, now, now - before);
    if (poll(&events, 1, 0) != 0) return true;
    if (now >= end_ns || now < wait->sleep_end_ns) return false;
  }
}

// Before the loop looks for events, and sleeps if there are none.
void OnPrepare(void* handle) {
  auto* wait = static_cast<BusyWait*>(uv_handle_get_data(handle));
  if (!wait->awake) return;
  uv_idle_stop(wait->idle);
  // Until the next timer; 0 if there is something to do, such as descriptors that the system has not been told of.
  const int timeout_ms = uv_backend_timeout(wait->loop);
  if (timeout_ms != 0) {
    const int64_t end_ns = wait->last_event_ns + LongestNs(*wait);
    const int64_t timer_ns = timeout_ms < 0 ? end_ns : NowNs() + int64_t{timeout_ms} * 1'000'000;
    const bool found = AwaitEvent(wait, std::min(end_ns, timer_ns));
    if (NowNs() < wait->sleep_end_ns || (!found && end_ns <= timer_ns)) {
      wait->awake = false;
      wait->vain++;
    }
    if (found || !wait->awake) return;
  }
  // This turn does not sleep.
  uv_idle_start(wait->idle, [](void*) {});
}

void OnCheck(void* handle) {
  auto* wait = static_cast<BusyWait*>(uv_handle_get_data(handle));
  UvMetrics metrics;
  uv_metrics_info(wait->loop, &metrics);
  const int64_t now = NowNs();
  LookAtTraffic(wait, now);
  if (metrics.events == wait->events) return;
  if (!wait->awake && now - wait->last_event_ns < LongestNs(*wait) && now >= wait->sleep_end_ns) {
    wait->awake = true;
    wait->begun++;
  }
  wait->events = metrics.events;
  wait->last_event_ns = now;
}

void OnTeardown(void* data) {
  auto* wait = static_cast<BusyWait*>(data);
  for (void* handle : {wait->prepare, wait->check, wait->idle}) uv_close(handle, [](void* closed) { free(closed); });
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
  wait->prepare = malloc(uv_handle_size(kUvPrepare));
  wait->check = malloc(uv_handle_size(kUvCheck));
  wait->idle = malloc(uv_handle_size(kUvIdle));
  napi_value external;
  if (wait->prepare == nullptr || wait->check == nullptr || wait->idle == nullptr) abort();
  NETDRIVE_CHECK(env, napi_get_uv_event_loop(env, &wait->loop));
  wait->descriptor = uv_backend_fd(wait->loop);
  uv_prepare_init(wait->loop, wait->prepare);
  uv_check_init(wait->loop, wait->check);
  uv_idle_init(wait->loop, wait->idle);
  for (void* handle : {wait->prepare, wait->check, wait->idle}) {
    uv_handle_set_data(handle, wait);
    // Waiting awake must not keep a process alive.
    uv_unref(handle);
  }
  uv_prepare_start(wait->prepare, OnPrepare);
  uv_check_start(wait->check, OnCheck);
  NETDRIVE_CHECK(env, napi_add_env_cleanup_hook(env, OnTeardown, wait));
  NETDRIVE_CHECK(env, napi_create_external(env, wait, nullptr, nullptr, &external));
  return external;
}

// busyWaitCounters(external): [awake now, begun, in vain, windows, others]
napi_value Counters(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  void* data = nullptr;
  if (napi_get_value_external(env, arguments.value(0), &data) != napi_ok) return arguments.Wrong();
  auto* wait = static_cast<BusyWait*>(data);
  const int64_t values[] = {wait->awake ? 1 : 0, wait->begun, wait->vain, wait->windows, wait->crowded};
  napi_value array;
  NETDRIVE_CHECK(env, napi_create_array(env, &array));
  for (uint32_t i = 0; i < std::size(values); i++) NETDRIVE_CHECK(env, napi_set_element(env, array, i, Number(env, values[i])));
  return array;
}

}  // namespace

void CountTraffic(size_t bytes) { traffic_bytes.fetch_add(bytes, std::memory_order_relaxed); }

napi_value RegisterBusyWait(napi_env env, napi_value exports) {
  if (Export(env, exports, "busyWait", Start) == nullptr) return nullptr;
  return Export(env, exports, "busyWaitCounters", Counters);
}

}  // namespace netdrive
