// The few functions of libuv we need. libuv is part of Node's interface for addons, but its header does not come with
// node-api-headers. A handle's size is asked for, so no structure of its own is assumed.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct uv_loop_s;
// uv_metrics_t, of libuv 1.45 (Node 20.3).
struct UvMetrics {
  uint64_t loop_count;
  uint64_t events;
  uint64_t events_waiting;
  uint64_t* reserved[13];
};
size_t uv_handle_size(int type);
int uv_poll_init(uv_loop_s* loop, void* handle, int fd);
int uv_poll_start(void* handle, int events, void (*callback)(void* handle, int status, int events));
int uv_poll_stop(void* handle);
int uv_async_init(uv_loop_s* loop, void* handle, void (*callback)(void* handle));
int uv_async_send(void* handle);
int uv_prepare_init(uv_loop_s* loop, void* handle);
int uv_prepare_start(void* handle, void (*callback)(void* handle));
int uv_check_init(uv_loop_s* loop, void* handle);
int uv_check_start(void* handle, void (*callback)(void* handle));
int uv_idle_init(uv_loop_s* loop, void* handle);
int uv_idle_start(void* handle, void (*callback)(void* handle));
int uv_idle_stop(void* handle);
int uv_backend_fd(const uv_loop_s* loop);
// In milliseconds, -1 for no end. Also 0 while descriptors wait to be made known to the system.
int uv_backend_timeout(const uv_loop_s* loop);
int uv_metrics_info(uv_loop_s* loop, UvMetrics* metrics);
void uv_unref(void* handle);
void uv_close(void* handle, void (*callback)(void* handle));
void uv_handle_set_data(void* handle, void* data);
void* uv_handle_get_data(const void* handle);
}

namespace netdrive {

constexpr int kUvAsync = 1;     // UV_ASYNC of uv_handle_type
constexpr int kUvCheck = 2;     // UV_CHECK
constexpr int kUvIdle = 6;      // UV_IDLE
constexpr int kUvPoll = 8;      // UV_POLL of uv_handle_type
constexpr int kUvPrepare = 9;   // UV_PREPARE
constexpr int kUvReadable = 1;  // UV_READABLE of uv_poll_event
constexpr int kUvWritable = 2;  // UV_WRITABLE of uv_poll_event

}  // namespace netdrive
