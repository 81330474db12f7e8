// A thread that tells the kernel to drop pages, which may wait.
//
// The kernel drops a page under its lock, and a page that is being read stays locked until the READ request is answered: by us. So the thread that
// answers must not be the one that waits. A waiting thread can't be killed, and a process whose threads share their descriptors keeps them all
// open as long as one of them lives: killed at the wrong moment, it would wait for ever for the answer it owes itself. So this thread has descriptors of its own,
// two: another device of the same connection, and an eventfd. When the process dies its first device is closed, which ends what was read from it.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>

#include "uv-subset.h"

namespace netdrive {

class Notifier {
 public:
  static constexpr uint32_t kBytesMax = 64;
  struct Done {
    int32_t ticket;
    // 0, or the errno of the kernel's refusal.
    int32_t failure;
  };

  // Starts the thread for the connection of `fuse_fd`; `on_done(context)` runs on the loop's thread. Returns 0 or an errno.
  int Start(uv_loop_s* loop, int fuse_fd, void (*on_done)(void* context), void* context);
  bool is_started() const { return is_started_; }
  // `bytes` are copied, kBytesMax at most.
  void Push(int32_t ticket, const uint8_t* bytes, uint32_t size);
  // The next message that the kernel has taken; false if there is none.
  bool TakeDone(Done* out);
  // Ends the thread, after the first device was closed. False: it still waits, and this object must stay.
  bool Stop();

 private:
  struct Message {
    int32_t ticket;
    uint32_t size;
    uint8_t bytes[kBytesMax];
  };

  static void* Run(void* argument);
  static void OnReadable(void* handle, int status, int events);
  bool KeepOwnDescriptors();

  bool is_started_ = false;
  int device_fd_ = -1;
  int event_fd_ = -1;
  pthread_t thread_{};
  void* poll_ = nullptr;
  void (*on_done_)(void* context) = nullptr;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  // GUARDED_BY(mutex_), as all below.
  std::deque<Message> messages_;
  std::deque<Done> done_;
  // Of the thread's start: 0 not yet, 1 it has its own descriptors, -1 it can't have them.
  int own_ = 0;
  bool stopping_ = false;
};

}  // namespace netdrive
