// A thread that sends large replies, while the JavaScript thread goes on.
//
// Copying 1 MiB into the page cache takes as long as receiving it from a socket; on two threads they overlap. The thread starts with the
// first large reply. What was sent is reported on the loop's thread, in batches.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "uv-subset.h"

namespace netdrive {

class ReplyWriter {
 public:
  struct Job {
    const uint8_t* data;
    uint32_t bytes;
    int32_t slot;
  };
  // `failure` is 0 or the errno of the kernel's refusal.
  struct Sent {
    int32_t slot;
    int32_t failure;
  };

  // Starts the thread; `on_sent(context)` runs on the loop's thread. Returns 0 or an errno.
  int Start(uv_loop_s* loop, int fd, uint32_t jobs_max, void (*on_sent)(void* context), void* context);
  bool is_started() const { return is_started_; }
  // `job.data` must stay until it is reported or `Stop` returns.
  void Push(const Job& job);
  // Moves what was sent to `out`, which has room for `jobs_max`.
  uint32_t TakeSent(Sent* out);
  // Ends the thread; what it has not begun is not sent. Not blocked by the kernel: writing to /dev/fuse does not wait.
  void Stop();

 private:
  static void* Run(void* argument);
  static void OnAsync(void* handle);

  bool is_started_ = false;
  int fd_ = -1;
  pthread_t thread_{};
  void* async_ = nullptr;
  void (*on_sent_)(void* context) = nullptr;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable pushed_;
  // GUARDED_BY(mutex_), as all below; a ring of jobs_max.
  std::vector<Job> jobs_;
  uint32_t first_ = 0;
  uint32_t count_ = 0;
  std::vector<Sent> sent_;
  bool stopping_ = false;
};

}  // namespace netdrive
