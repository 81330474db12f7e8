// The event loop waits for its next event awake for a moment, where events come in quick turns.
//
// A processor that goes to sleep between a request and its answer takes longer to wake than the answer takes, most of all a virtual one, which is
// given back to its host: a 4 KiB read through client and server took 105 us and takes 40 (2 virtual cores, kernel 6.18), at less processor time in all,
// because what runs after a wake-up finds its caches and branch predictors cold. So after an event the loop looks for the next one again
// and again, giving way to whoever else wants the processor, for `max_ns` at most. It does so only as long as it pays: when an event
// did not come in time it sleeps, until it has slept shorter than that once. An idle process sleeps.
#include "busy-wait.h"

#include <sched.h>
#include <time.h>

#include <cstdlib>
#include <new>

#include "arguments.h"
#include "uv-subset.h"

namespace netdrive {
namespace {

struct BusyWait {
  uv_loop_s* loop = nullptr;
  // A uv_check_t that runs after each look for events, and a uv_idle_t: the loop does not sleep while it is started.
  void* check = nullptr;
  void* idle = nullptr;
  int64_t max_ns = 0;
  int64_t last_event_ns = 0;
  uint64_t events = 0;
  bool awake = false;
  // How often it began to wait awake, and how often in vain.
  int64_t begun = 0;
  int64_t vain = 0;
};

int64_t NowNs() {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void OnIdle(void*) { sched_yield(); }

void OnCheck(void* handle) {
  auto* wait = static_cast<BusyWait*>(uv_handle_get_data(handle));
  UvMetrics metrics;
  uv_metrics_info(wait->loop, &metrics);
  const int64_t now = NowNs();
  if (metrics.events != wait->events) {
    const bool soon = now - wait->last_event_ns < wait->max_ns;
    wait->events = metrics.events;
    wait->last_event_ns = now;
    if (soon && !wait->awake) {
      wait->awake = true;
      wait->begun++;
      uv_idle_start(wait->idle, OnIdle);
    }
  } else if (wait->awake && now - wait->last_event_ns >= wait->max_ns) {
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

// busyWait(maxUs): an object for busyWaitCounters. Once for an environment; it goes on as long as that.
napi_value Start(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const int64_t max_us = arguments.Integer(0);
  if (!arguments.ok() || max_us <= 0 || max_us > 1'000'000) return arguments.Wrong();
  auto* wait = new BusyWait;
  wait->max_ns = max_us * 1000;
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

// busyWaitCounters(external): [awake now, begun, in vain]
napi_value Counters(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  void* data = nullptr;
  if (napi_get_value_external(env, arguments.value(0), &data) != napi_ok) return arguments.Wrong();
  auto* wait = static_cast<BusyWait*>(data);
  const int64_t values[] = {wait->awake ? 1 : 0, wait->begun, wait->vain};
  napi_value array;
  NETDRIVE_CHECK(env, napi_create_array(env, &array));
  for (uint32_t i = 0; i < 3; i++) NETDRIVE_CHECK(env, napi_set_element(env, array, i, Number(env, values[i])));
  return array;
}

}  // namespace

napi_value RegisterBusyWait(napi_env env, napi_value exports) {
  if (Export(env, exports, "busyWait", Start) == nullptr) return nullptr;
  return Export(env, exports, "busyWaitCounters", Counters);
}

}  // namespace netdrive
